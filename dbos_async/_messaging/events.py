"""Events: what a workflow has to say of itself, by key; the latest value counts, and can always be read.

Every value is a row of its own and the latest row is the value. A step's row decides whether a value is stored at all,
so the rows stand in the order in which the workflow said them.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Any, Final

from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._database.wakeups import end_key, event_key, now
from dbos_async._runs.context import WorkflowContext, calling_context, in_workflow_or_step
from dbos_async._runs.step import Step, act, caller_columns, read
from dbos_async._serialization import values
from dbos_async.keys import Event, check_key, check_seconds, key_and_type

with load(__name__) as sql:
    SET_EVENT: Final = sql.statement("SET_EVENT")
    READ_EVENT: Final = sql.statement("READ_EVENT")
    AWAIT_EVENT: Final = sql.statement("AWAIT_EVENT")
    ALL_EVENTS: Final = sql.statement("ALL_EVENTS")


async def set_event(database: Database, key: str | Event[Any], value: Any) -> None:
    """Let the workflow say ``value`` under ``key``."""
    name, declared = key_and_type(key, "The key of an event")
    here = in_workflow_or_step(calling_context(database), "set_event")
    text = values.encode(value, declared, what=f"The value of event {name!r}")
    invalid = values.too_large(text, database.max_payload_bytes, f"The value of event {name!r}")
    caller = Step(here, "set_event", name) if isinstance(here, WorkflowContext) else here
    digest = event_key(caller.run.workflow_id, name)
    row = (*caller_columns(caller), caller.path, name, text, caller.run.next_write_seq(), digest)
    await act(database, caller, SET_EVENT, [row], verb="set_event", size=len(text), wakes=[digest], invalid=invalid)


async def get_event(database: Database, workflow_id: str, key: str | Event[Any], timeout_seconds: float | None) -> Any:
    """The latest value; waits for a first one. ``None`` in time-out, or when the workflow ended without one."""
    check_key(workflow_id, "workflow_id")
    name, declared = key_and_type(key, "The key of an event")
    seconds = check_seconds(timeout_seconds)
    here = calling_context(database)
    what = _what(name, workflow_id)
    if isinstance(here, WorkflowContext):
        step_key = f"{name} of {workflow_id}"
        step = Step(here, "get_event", step_key)
        row = (*step.columns, step_key, workflow_id, name, seconds)
        keys = [event_key(workflow_id, name), end_key(workflow_id)]
        done = await step.perform(AWAIT_EVENT, [row], watch=keys)
        return await step.decode_or_reject(done, lambda text: values.decode(text, declared, what=what))
    text = await _read(database, workflow_id, name, seconds, retry_forever=here is not None)
    return values.decode(text, declared, what=what)


async def get_all_events(database: Database, workflow_id: str) -> dict[str, Any]:
    """The latest value of every event that the workflow has set so far."""
    check_key(workflow_id, "workflow_id")

    async def find() -> dict[str, Any]:
        rows = await database.call(ALL_EVENTS, [(workflow_id,)], partition=workflow_id)
        return {key: values.decode(value, what=_what(key, workflow_id)) for _, key, value in rows}

    events: dict[str, Any] = await read(database, "get_all_events", workflow_id, find)
    return events


async def _read(
    database: Database, workflow_id: str, key: str, seconds: float | None, *, retry_forever: bool
) -> str | None:
    deadline = float("inf") if seconds is None else now() + seconds
    async with aclosing(database.changes(event_key(workflow_id, key), end_key(workflow_id))) as changes:
        async for subscription in changes:
            answer = await database.call(
                READ_EVENT, [(workflow_id, key)], partition=workflow_id, retry_forever=retry_forever
            )
            _, value, ended = answer[0]
            left = deadline - now()
            if value is not None or ended or left <= 0:
                return str(value) if value is not None else None
            subscription.poll_within(left)
    raise AssertionError("A waiting loop ends only by returning.")


def _what(key: str, workflow_id: str) -> str:
    return f"The value of event {key!r} of workflow {workflow_id!r}"
