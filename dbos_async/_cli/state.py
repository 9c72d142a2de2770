"""``dbos-async executors`` and ``metrics``: how the application stands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

import typer
from rich.text import Text

from dbos_async._cli.output import Column, console, note, show, table, write, write_json
from dbos_async._cli.session import Json, Url, connected, reported, run
from dbos_async._cli.texts import age, duration
from dbos_async._logs import shown
from dbos_async._operations.counts import ExecutorStatus, MessageCount, WorkflowCount
from dbos_async._telemetry.names import MAX_LABELS, OTHER

COLUMNS: Final = (
    Column("EXECUTOR", folds=True),
    Column("STATE", max_width=24),
    Column("WORKFLOWS", justify="right"),
    Column("STARTED", justify="right"),
    Column("VERSION", from_width=70, max_width=20),
    Column("KNOWS", from_width=90, max_width=60),
)

PANEL: Final = "Look at the application"


def add_to(app: typer.Typer) -> None:
    """Register ``executors`` and ``metrics``."""
    app.command("executors", rich_help_panel=PANEL)(reported(executors))
    app.command("metrics", rich_help_panel=PANEL)(reported(metrics))


def executors(url: Url = None, as_json: Json = False) -> None:
    """List the executors, and what dead ones have left."""

    async def work() -> None:
        async with connected(url) as client:
            found = await client.list_executors()
        if as_json:
            write_json(found)
        elif found:
            now = datetime.now(UTC)
            show(table(COLUMNS, [_row(one, now) for one in found], console().width))
        else:
            note("There are no executors: nothing runs the workflows of this database.")

    run(work())


def metrics(url: Url = None, as_json: Json = False) -> None:
    """Print counts of workflows, messages and executors in the text form of Prometheus."""

    async def work() -> None:
        async with connected(url) as client:
            workflows = await client.count_workflows()
            messages = await client.count_messages()
            running = await client.list_executors()
        if as_json:
            write_json({"workflows": workflows, "messages": messages, "executors": running})
        else:
            write("\n".join(prometheus(workflows, messages, running, datetime.now(UTC))))

    run(work())


def prometheus(
    workflows: Sequence[WorkflowCount],
    messages: Sequence[MessageCount],
    running: Sequence[ExecutorStatus],
    now: datetime,
) -> Iterable[str]:
    """The lines of the text form: the names are those of the metrics of the extra ``otel``."""
    messages = _bounded(messages)
    yield from _family(
        "workflows", "Workflows by name and status.",
        [({"name": one.name, "status": one.status}, one.count) for one in workflows],
    )  # fmt: skip
    yield from _family(
        "workflows_unclaimable", "Workflows that wait for an executor although no live one can run them.",
        [({"name": one.name, "status": one.status}, one.unclaimable) for one in workflows if one.unclaimable],
    )  # fmt: skip
    yield from _family(
        "messages_waiting", "Messages that wait for workflows that have not ended.",
        [({"topic": one.topic or ""}, one.waiting) for one in messages],
    )  # fmt: skip
    yield from _family(
        "messages_oldest_age_seconds", "How long the oldest waiting message has waited.",
        [
            ({"topic": one.topic or ""}, round(max((now - one.oldest_at).total_seconds(), 0), 3))
            for one in messages
            if one.oldest_at is not None
        ],
    )  # fmt: skip
    yield from _family(
        "messages_rejected", "Messages that their receivers could not read.",
        [({"topic": one.topic or ""}, one.rejected) for one in messages if one.rejected],
    )  # fmt: skip
    states = ("live", sum(one.is_live for one in running)), ("expired", sum(not one.is_live for one in running))
    yield from _family("executors", "Executors by state.", [({"state": state}, count) for state, count in states])
    yield from _family(
        "executor_workflows", "Workflows that an executor runs, also those that wait.",
        [({"executor": one.id}, one.workflows) for one in running],
    )  # fmt: skip


def _bounded(messages: Sequence[MessageCount]) -> Sequence[MessageCount]:
    """The topics with most messages, as many as there are labels at most; all others together."""
    ordered = sorted(messages, key=lambda one: one.waiting + one.rejected, reverse=True)
    shown_ones, rest = ordered[:MAX_LABELS], ordered[MAX_LABELS:]
    if not rest:
        return messages
    oldest = min((one.oldest_at for one in rest if one.oldest_at is not None), default=None)
    waiting, rejected = sum(one.waiting for one in rest), sum(one.rejected for one in rest)
    return [*shown_ones, MessageCount(topic=OTHER, waiting=waiting, oldest_at=oldest, rejected=rejected)]


def _family(name: str, help_text: str, samples: Iterable[tuple[dict[str, str], float]]) -> Iterable[str]:
    for place, (labels, value) in enumerate(samples):
        if place == 0:
            yield f"# HELP dbos_async_{name} {help_text}"
            yield f"# TYPE dbos_async_{name} gauge"
        told = ",".join(f'{label}="{_label(text)}"' for label, text in labels.items())
        yield f"dbos_async_{name}{{{told}}} {value}"


def _label(text: str) -> str:
    return shown(text).replace("\\", "\\\\").replace('"', '\\"')


def _row(one: ExecutorStatus, now: datetime) -> tuple[str | Text, ...]:
    if one.is_live:
        state = Text("● live", "green")
    else:
        since = "" if one.lease_until is None else f" {duration(max((now - one.lease_until).total_seconds(), 0))}"
        state = Text(f"✗ expired{since}", "bold red")
    names = ", ".join(one.workflow_names)
    return (
        one.executor_id,
        state,
        str(one.workflows),
        "" if one.started_at is None else f"{age(one.started_at, now)} ago",
        one.application_version or "",
        names,
    )
