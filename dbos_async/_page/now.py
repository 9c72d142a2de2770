"""The first screen: what needs a person, what waits, and which executors live."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from dbos_async._logs import counted
from dbos_async._operations.counts import ExecutorStatus, MessageCount, WorkflowCount
from dbos_async._page.answers import href, render, site_of
from dbos_async._page.texts import duration
from dbos_async._workflows.status import PARKED, STATUSES

RECENT: Final = timedelta(hours=24)
LONG_WAIT: Final = timedelta(minutes=10)
"""A message that has waited for so long is worth a look."""


@dataclass(frozen=True)
class Concern:
    """Something that needs a person: how much of it, what to do, and where to look."""

    tone: str
    title: str
    detail: str
    advice: str
    link: str
    link_text: str


async def now(request: Request) -> Response:
    """What needs a person, and the executors."""
    source = site_of(request).source
    moment = datetime.now(UTC)
    found, executors, parked, stuck, failed, failed_of_late = await asyncio.gather(
        source.count_messages(),
        source.list_executors(),
        source.count_workflows(status=PARKED),
        source.count_workflows(unclaimable=True),
        source.count_workflows(status="ERROR"),
        source.count_workflows(status="ERROR", since=moment - RECENT),
    )
    concerns = [
        *_rejected(found), *_parked(parked), *_unclaimable(stuck), *_expired(executors), *_failed(failed, failed_of_late),
        *_oldest(found, moment),
    ]  # fmt: skip
    oldest = min((one.oldest_at for one in found if one.oldest_at), default=None)
    return render(
        request, "now.html", poll=3, concerns=concerns, executors=executors, oldest=oldest, messages=found,
        waiting=sum(one.waiting for one in found), rejected=sum(one.rejected for one in found),
    )  # fmt: skip


async def counts(request: Request) -> Response:
    """How many workflows there are, by name and status. It comes after the screen, since it reads all of them."""
    found = await site_of(request).source.count_workflows()
    names: dict[str, dict[str, int]] = {}
    for one in found:
        names.setdefault(one.name, dict.fromkeys(STATUSES, 0))[one.status] = one.count
    totals = {status: sum(each[status] for each in names.values()) for status in STATUSES}
    rows = sorted(names.items(), key=lambda each: -sum(each[1].values()))
    return render(request, "counts.html", rows=rows[:50], more=max(len(rows) - 50, 0), totals=totals, statuses=STATUSES)


def _names(found: list[WorkflowCount]) -> str:
    sums: dict[str, int] = {}
    for one in found:
        sums[one.name] = sums.get(one.name, 0) + one.count
    largest = sorted(sums.items(), key=lambda each: -each[1])
    told = ", ".join(f"{count:,} {name}" for name, count in largest[:3])
    return f"{told} and {counted(len(largest) - 3, 'more name')}" if len(largest) > 3 else told


def _rejected(found: list[MessageCount]) -> list[Concern]:
    rejected = [one for one in found if one.rejected]
    if not rejected:
        return []
    total = sum(one.rejected for one in rejected)
    topics = ", ".join(one.topic or "no topic" for one in rejected[:3])
    return [Concern(
        "bad", counted(total, "rejected message"), f"About: {topics}",
        "Receivers could not read them. Repair the receiver, then redeliver.",
        href("messages", status="rejected"), "See the messages",
    )]  # fmt: skip


def _parked(found: list[WorkflowCount]) -> list[Concern]:
    if not (total := sum(one.count for one in found)):
        return []
    return [Concern(
        "warn", counted(total, "parked workflow"), _names(found),
        "They stand still until somebody acts. Read why, repair the code, then resume or fork them.",
        href("workflows", status=list(PARKED)), "See the workflows",
    )]  # fmt: skip


def _unclaimable(found: list[WorkflowCount]) -> list[Concern]:
    if not (total := sum(one.unclaimable for one in found)):
        return []
    return [Concern(
        "warn", counted(total, "unclaimable workflow"), _names(found),
        "No live executor knows their name or has their version. Start one that does, or resume them for another version.",
        href("workflows", unclaimable="1"), "See the workflows",
    )]  # fmt: skip


def _expired(executors: list[ExecutorStatus]) -> list[Concern]:
    gone = [one for one in executors if not one.is_live]
    if not gone:
        return []
    left = sum(one.workflows for one in gone)
    return [Concern(
        "warn", counted(len(gone), "expired executor"), ", ".join(one.executor_id for one in gone[:3]),
        f"Its process is gone or hangs, with {counted(left, 'workflow')}. Live ones take them over: start one if none is left.",
        "#executors", "See the executors",
    )]  # fmt: skip


def _failed(found: list[WorkflowCount], recent: list[WorkflowCount]) -> list[Concern]:
    if not (total := sum(one.count for one in found)):
        return []
    of_late = sum(one.count for one in recent)
    detail = f"Started in the last 24 hours: {_names(recent)}" if of_late else "None was started in the last 24 hours"
    return [Concern(
        "bad" if of_late else "idle", counted(total, "failed workflow"), detail,
        "Read the error. Once its cause is gone, fork from the step that failed.",
        href("workflows", status="ERROR", since="24h" if of_late else None), "See the workflows",
    )]  # fmt: skip


def _oldest(found: list[MessageCount], moment: datetime) -> list[Concern]:
    waiting = [(one.oldest_at, one) for one in found if one.oldest_at is not None]
    if not waiting:
        return []
    at, oldest = min(waiting, key=lambda each: each[0])
    if moment - at < LONG_WAIT:
        return []
    topic = f"about {oldest.topic!r}" if oldest.topic is not None else "without a topic"
    return [Concern(
        "idle", f"A message {topic} has waited for {duration((moment - at).total_seconds())}",
        f"{counted(sum(one.waiting for one in found), 'message')} wait in all",
        "Its workflow may be busy, or never asks for it.",
        href("messages", status="waiting"), "See the messages",
    )]  # fmt: skip
