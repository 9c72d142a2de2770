"""One workflow as a conversation: its steps with the other sides, its messages, and what it waits for now."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from dbos_async._checks import check_int, check_key, check_text, excerpt
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._messaging.mailbox import message_of
from dbos_async._operations.description import (
    DescribedStep,
    EventSummary,
    PresentWait,
    StreamSummary,
    WorkflowDescription,
)
from dbos_async._operations.other_sides import other_side, wait_in_words
from dbos_async._runs.running_step import RunningStep
from dbos_async._runs.step import read
from dbos_async._serialization.values import display_value
from dbos_async._workflows.status import STATUS_IN_SHORT, find_status, list_workflows, workflow_filter
from dbos_async._workflows.step_list import running_steps
from dbos_async.errors import InvalidArgumentError

with load(__name__) as sql:
    DESCRIBED_STEPS: Final = sql.statement("DESCRIBED_STEPS", parallelism=1)
    PRESENT_WAITS: Final = sql.statement("PRESENT_WAITS", parallelism=1)
    DESCRIBED_COUNTS: Final = sql.statement("DESCRIBED_COUNTS", parallelism=1)
    DESCRIBED_MESSAGES: Final = sql.statement("DESCRIBED_MESSAGES", parallelism=1)
    DESCRIBED_EVENTS: Final = sql.statement("DESCRIBED_EVENTS", parallelism=1)
    DESCRIBED_STREAMS: Final = sql.statement("DESCRIBED_STREAMS", parallelism=1)

MAX_MESSAGES: Final = 20
MAX_LISTED: Final = 100
"""How many waits, events, streams and children a description has at most."""

Place = tuple[datetime, str, int]
"""When a step began, its branch, and its number there."""


async def describe_workflow(
    database: Database, workflow_id: str, limit: int, before: str | None
) -> WorkflowDescription:
    """The workflow with its last steps, or those before a cursor."""
    workflow_id, limit = check_key(workflow_id, "workflow_id"), check_int(limit, 1, "limit")
    place = None if before is None else _place(before)

    async def find() -> WorkflowDescription:
        return await _describe(database, workflow_id, limit, place)

    found: WorkflowDescription = await read(database, "describe_workflow", workflow_id, find, WorkflowDescription)
    return found


async def _describe(database: Database, workflow_id: str, limit: int, before: Place | None) -> WorkflowDescription:
    async def rows(statement: Any, *columns: Any) -> list[Any]:
        return await database.call(statement, [(workflow_id, *columns)], partition=workflow_id)

    status = await find_status(database, workflow_id, STATUS_IN_SHORT, may_lag=False)
    running = await running_steps(database, workflow_id)  # first: what is recorded meanwhile is found as recorded
    records = await rows(DESCRIBED_STEPS, limit + 1, *(before or (None, None, None)))
    is_last_page, records = len(records) <= limit, records[-limit:]
    (count,) = await rows(DESCRIBED_COUNTS)
    waits = await rows(PRESENT_WAITS, MAX_LISTED) if status.status == "PENDING" else []
    messages = await rows(DESCRIBED_MESSAGES, MAX_MESSAGES)
    events = await rows(DESCRIBED_EVENTS, MAX_LISTED)
    streams = await rows(DESCRIBED_STREAMS, MAX_LISTED)
    children = workflow_filter(parent_id=workflow_id)
    return WorkflowDescription(
        status=status,
        now=count["now"],
        executor_is_live=count["executor_is_live"],
        waits=_waits(waits, running),
        steps=_steps(records, running if before is None else ()),
        step_count=count["steps"],
        messages=[message_of(record) for record in messages],
        waiting=count["waiting"],
        rejected=count["rejected"],
        delayed=count["delayed"],
        events=[
            EventSummary(
                **{
                    name: display_value(one[name]) if name == "value" else one[name]
                    for name in EventSummary.model_fields
                }
            )
            for one in events
        ],
        streams=[StreamSummary(**{name: one[name] for name in StreamSummary.model_fields}) for one in streams],
        children=await list_workflows(
            database, children, newest_first=True, payloads=False, limit=MAX_LISTED, after=None, cursor=None
        )
        if count["children"]
        else [],
        children_count=count["children"],
        cursor=None if is_last_page else _cursor(records[0]),
    )


def _steps(records: Sequence[Any], running: Sequence[RunningStep]) -> list[DescribedStep]:
    found: list[tuple[Place, DescribedStep]] = []
    recorded: set[tuple[str, int]] = set()
    for one in records:
        recorded.add((one["branch"], one["number"]))
        output, error = display_value(one["output"]), display_value(one["error"])
        side = other_side(one["verb"], one["key"], output)
        fields = {name: one[name] for name in ("step", "verb", "key", "started_at", "completed_at")}
        step = DescribedStep(
            **fields, output=output, error=error, peer_id=one["sender_id"] or side.workflow_id,
            topic=one["topic"] or side.topic, message_id=one["message_id"], sent_at=one["sent_at"],
            deadline=one["deadline"], is_cut=one["is_cut"],
        )  # fmt: skip
        found.append(((one["started_at"], one["branch"], one["number"]), step))
    for under_way in running:
        if under_way.place not in recorded:
            step = DescribedStep(
                step=under_way.path, verb=under_way.verb, key=under_way.key, output=None, error=None,
                started_at=under_way.started_at, completed_at=None, attempt=under_way.tried,
                next_attempt_at=under_way.next_at, last_error=under_way.last_error,
                peer_id=other_side(under_way.verb, under_way.key, None).workflow_id,
            )  # fmt: skip
            found.append(((under_way.started_at, *under_way.place), step))
    return [step for _, step in sorted(found, key=lambda each: each[0])]


def _waits(records: Sequence[Any], running: Sequence[RunningStep]) -> list[PresentWait]:
    waits = [
        PresentWait(
            step=one["step"], verb=one["verb"], key=one["key"], what=wait_in_words(one["verb"], one["key"]),
            since=one["started_at"], until=one["deadline"], peer_id=other_side(one["verb"], one["key"], None).workflow_id,
            last_error=None,
        )
        for one in records
    ]  # fmt: skip
    for one in running:
        attempt = "" if one.tried is None or one.tried == 1 else f", attempt {one.tried}"
        if one.tried is None and one.verb == "step":
            attempt = ", which waits for its turn"
        wait = PresentWait(
            step=one.path, verb=one.verb, key=one.key, what=f"{wait_in_words(one.verb, one.key)}{attempt}",
            since=one.started_at, until=one.next_at, peer_id=other_side(one.verb, one.key, None).workflow_id,
            last_error=one.last_error,
        )  # fmt: skip
        waits.append(wait)
    return sorted(waits, key=lambda wait: wait.since)


def _cursor(record: Any) -> str:
    fields = record["started_at"].isoformat(), record["branch"], record["number"]
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode()


def _place(text: object) -> Place:
    try:
        time, branch, number = json.loads(base64.urlsafe_b64decode(str(text).encode()))
        began = datetime.fromisoformat(time)
        if began.tzinfo is None:
            raise ValueError
        return began, check_text(branch, "before"), check_int(number, 1, "before")
    except (ValueError, TypeError, RecursionError, OverflowError):
        raise InvalidArgumentError(
            f"before is what a description has as its cursor, and {excerpt(text)} is none."
        ) from None
