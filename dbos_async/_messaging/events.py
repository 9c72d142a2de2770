"""Events: values that a workflow publishes by key. The latest value counts, and can always be read.

Every value is a row of its own, and the latest row is the value. The step's row decides whether a value is stored at all, so the
rows are in the order in which the workflow set them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from dbos_async._checks import check_int, check_key, check_seconds
from dbos_async._database.calls import Result
from dbos_async._database.change_keys import end_key, event_key
from dbos_async._database.database import Database
from dbos_async._database.news import EventNews
from dbos_async._database.sql import load
from dbos_async._database.wakeups import now
from dbos_async._runs.context import WorkflowContext, calling_context, in_workflow_or_step
from dbos_async._runs.issue import call_by, caller_columns, caller_in, is_step, issue
from dbos_async._runs.run import RUNS_OF_ONE
from dbos_async._runs.step import Step, read
from dbos_async._runs.transaction import check_connection, connection_for
from dbos_async._runs.waiting import wait
from dbos_async._serialization.values import decode_value, encode_value, size_error
from dbos_async.keys import Event, key_and_type
from dbos_async.waits import MAX_VERSION

with load(__name__) as sql:
    SET_EVENT: Final = sql.statement("SET_EVENT", is_usual=is_step)
    READ_EVENT: Final = sql.statement("READ_EVENT")
    AWAIT_EVENT: Final = sql.statement("AWAIT_EVENT")
    ALL_EVENTS: Final = sql.statement("ALL_EVENTS")


async def set_event(database: Database, key: str | Event[Any], value: Any) -> None:
    """Store a value of the event."""
    name, declared = key_and_type(key, Event)
    context = in_workflow_or_step(calling_context(database), "set_event")
    connection = connection_for(database, None, "set_event")
    if connection is not None:
        check_connection(connection, context, "set_event")
    text = encode_value(value, declared, what=f"The value of event {name!r}")
    invalid = size_error(text, database.max_payload_bytes, f"The value of event {name!r}")
    run = context.run
    caller = caller_in(context, "set_event", name)
    digest = event_key(run.workflow_id, name)
    row = (*caller_columns(caller), caller.path, name, text, run.next_write_seq(), digest)
    call = call_by(caller, SET_EVENT, [row], about=run.workflow_id, size=len(text), wakes=[digest])
    act = None if database.telemetry is None else database.telemetry.set_event(name, caller)
    (await issue(database, caller, call, verb="set_event", connection=connection, invalid=invalid, act=act)).value()


async def get_event(
    database: Database, workflow_id: str, key: str | Event[Any], timeout_seconds: float | None, after: int
) -> Any:
    """The latest value; waits for one of a later version. ``None`` after the time limit, or when none can come any more."""
    workflow_id = check_key(workflow_id, "workflow_id")
    name, declared = key_and_type(key, Event)
    seconds = check_seconds(timeout_seconds)
    check_int(after, 0, "after", MAX_VERSION)
    context = calling_context(database)
    what = what_it_is(name, workflow_id)
    if isinstance(context, WorkflowContext):
        step_key = f"{name} of {workflow_id}"
        step = Step(context, "get_event", step_key)
        row = (*step.columns, "get_event", step_key, workflow_id, name, after, seconds)
        keys = event_key(workflow_id, name), end_key(workflow_id)
        result = await wait(step, AWAIT_EVENT, row, keys)
        return await step.decode_or_reject(result, lambda text: decode_value(text, declared, what=what))
    text = await _read(database, workflow_id, name, after, seconds, retry_forever=context is not None)
    return decode_value(text, declared, what=what)


async def get_all_events(database: Database, workflow_id: str) -> dict[str, Any]:
    """The latest value of every event that the workflow has set so far."""
    workflow_id = check_key(workflow_id, "workflow_id")

    async def find() -> dict[str, Any]:
        rows = await database.read(ALL_EVENTS, [(workflow_id,)], partition=workflow_id)
        return {key: decode_value(value, what=what_it_is(key, workflow_id)) for _, key, value in rows}

    events: dict[str, Any] = await read(database, "get_all_events", workflow_id, find)
    return events


async def _read(
    database: Database, workflow_id: str, key: str, seen: int, seconds: float | None, *, retry_forever: bool
) -> str | None:
    deadline, is_first = float("inf") if seconds is None else now() + seconds, True
    attempt: int | None = None
    with database.changes(event_key(workflow_id, key), end_key(workflow_id), takes_updates=True) as changes:
        async for subscription in changes:
            told = latest_of(subscription.take_updates(), attempt, seen)
            if told is not None and not subscription.changed:
                return told.text
            records = await database.read(
                READ_EVENT,
                [(workflow_id, key, seen)],
                partition=workflow_id,
                retry_forever=retry_forever,
                is_enough=has_value,
                may_lag=is_first,
            )
            is_first = False
            value, ended, attempt = records[0]["value"], records[0]["ended"], records[0]["attempt"]
            left = deadline - now()
            if value is not None or ended or left <= 0:
                return str(value) if value is not None else None
            subscription.poll_within(left)
    raise AssertionError("The changes of a subscription do not end.")


def has_value(records: Result) -> bool:
    """Whether a poll of an event has found a value."""
    return records[0]["value"] is not None


def latest_of(updates: Sequence[Any], attempt: int | None, seen: int) -> EventNews | None:
    """The latest version that these updates tell of; ``None`` when it is to be read.

    That is so when the workflow has ended, when what is told was seen, and when it is of another workflow of the same id than the
    one that the last poll has seen, which had this ``attempt``.
    """
    if attempt is None or not updates:
        return None
    for update in updates:
        if not isinstance(update, EventNews) or update.attempt // RUNS_OF_ONE != attempt // RUNS_OF_ONE:
            return None
    latest: EventNews = max(updates, key=lambda update: update.version)
    return latest if latest.version > seen else None


def what_it_is(key: str, workflow_id: str) -> str:
    """How the error of a value names it."""
    return f"The value of event {key!r} of workflow {workflow_id!r}"
