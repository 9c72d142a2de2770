"""Watching an event: its latest version, and then every later one that is the latest when it is looked for."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Final, Generic, NamedTuple, TypeVar

from pydantic import BaseModel

from dbos_async._checks import check_loop, check_seconds
from dbos_async._database.change_keys import end_key, event_key
from dbos_async._database.database import Database
from dbos_async._database.wakeups import now
from dbos_async._messaging.events import AWAIT_EVENT, READ_EVENT, latest_of, what_it_is
from dbos_async._runs.context import WorkflowContext, calling_context
from dbos_async._runs.step import Step
from dbos_async._runs.waiting import wait
from dbos_async._serialization.values import decode_value
from dbos_async.errors import EventTimeoutError, InvalidEventValueError, InvalidValueError
from dbos_async.keys import Event
from dbos_async.waits import EventOf, EventValue

T = TypeVar("T")

VERB: Final = "watch_event"
PARKED: Final = "REPLAY_MISMATCH", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"


class Found(NamedTuple):
    """What one poll of an event found: the JSON of a later version, if there is one, and the status of the workflow."""

    text: str | None
    version: int
    set_at: datetime | None
    status: str | None
    ended: bool


class _Version(BaseModel, Generic[T], frozen=True, val_json_bytes="base64"):
    """What a step records of a version."""

    value: T
    version: int
    set_at: datetime
    ended: bool


class _NoVersion(BaseModel, frozen=True, extra="forbid"):
    """What a step records when there was none: the workflow has ended, or the time was over."""

    ended: bool


def watch_event(
    database: Database, workflow_id: str, key: str | Event[Any], after: int, timeout_seconds: float | None
) -> AsyncGenerator[EventValue[Any], None]:
    """Yield the latest version after this one, and later ones as they are set, until the workflow has ended."""
    return _versions(database, EventOf(workflow_id, key, after), check_seconds(timeout_seconds))


async def _versions(
    database: Database, event: EventOf[Any], seconds: float | None
) -> AsyncGenerator[EventValue[Any], None]:
    check_loop(
        database.loop, "This event is watched in another event loop: call watch_event in the loop that watches it."
    )
    context = calling_context(database)
    found = (
        _recorded_versions(database, event, seconds)
        if isinstance(context, WorkflowContext)
        else _live_versions(database, event, seconds, retry_forever=context is not None)
    )
    async with aclosing(found):
        async for each in found:
            yield each


async def _live_versions(
    database: Database, event: EventOf[Any], seconds: float | None, *, retry_forever: bool
) -> AsyncGenerator[EventValue[Any], None]:
    workflow_id, (key, declared) = event.workflow_id, event.name_and_type
    polls = live_versions(database, workflow_id, key, event.after, seconds, retry_forever=retry_forever)
    async with aclosing(polls):
        async for found in polls:
            if found.text is not None and found.set_at is not None:
                error = functools.partial(InvalidEventValueError, version=found.version)
                value = decode_value(found.text, declared, what=what_it_is(key, workflow_id), error=error)
                yield EventValue(workflow_id, key, value, found.version, found.set_at.astimezone(UTC))


async def live_versions(
    database: Database, workflow_id: str, key: str, seen: int, seconds: float | None, *, retry_forever: bool
) -> AsyncGenerator[Found, None]:
    """Yield what each poll finds, until the workflow has ended. The first comes at once, even if it finds nothing."""
    waited_since = now()
    attempt: int | None = None
    with database.changes(event_key(workflow_id, key), end_key(workflow_id), takes_updates=True) as changes:
        async for subscription in changes:
            told = latest_of(subscription.take_updates(), attempt, seen)
            if told is not None and not subscription.changed:
                # Who sets an event owns its workflow, which goes on.
                found = Found(told.text, told.version, told.set_at, "PENDING", ended=False)
            else:
                row = workflow_id, key, seen
                records = await database.call(READ_EVENT, [row], partition=workflow_id, retry_forever=retry_forever)
                _, text, version, set_at, status, ended, attempt = records[0]
                found = Found(text, version or seen, set_at, status, ended)
                del text, records
            yield found
            if found.ended:
                return
            if found.text is not None:
                seen, waited_since = found.version, now()
            del found, told  # the wait for the next may be long, and the value large
            if seconds is not None:
                left = waited_since + seconds - now()
                if left <= 0:
                    raise EventTimeoutError(workflow_id, key, seen, seconds)
                subscription.poll_within(left)


async def _recorded_versions(
    database: Database, event: EventOf[Any], seconds: float | None
) -> AsyncGenerator[EventValue[Any], None]:
    workflow_id, (key, declared), seen = event.workflow_id, event.name_and_type, event.after
    step_key = f"{key} of {workflow_id}"
    while True:
        context = calling_context(database)
        assert isinstance(context, WorkflowContext)
        step = Step(context, VERB, step_key)
        row = (*step.columns, VERB, step_key, workflow_id, key, seen, seconds)
        result = await wait(step, AWAIT_EVENT, row, (event_key(workflow_id, key), end_key(workflow_id)))
        found = await step.decode_or_reject(result, lambda text: _read(text, declared, what_it_is(key, workflow_id)))
        if isinstance(found, _Version):
            seen = found.version
            yield EventValue(workflow_id, key, found.value, seen, found.set_at.astimezone(UTC))
        elif not found.ended:
            raise EventTimeoutError(workflow_id, key, seen, seconds or 0.0)
        if found.ended:
            return


def _read(text: str | None, declared: Any, what: str) -> _Version[Any] | _NoVersion:
    """What a step has recorded. The error of a value that does not fit names its version."""
    try:
        nothing: _NoVersion = decode_value(text or "null", _NoVersion, what=what)
    except InvalidValueError:
        pass
    else:
        return nothing
    try:
        found: _Version[Any] = decode_value(text, _Version.__class_getitem__(declared), what=what)
    except InvalidValueError as invalid:
        raw: _Version[Any] = decode_value(text, _Version[Any], what=what)
        raise InvalidEventValueError(invalid.what, invalid.problem, invalid.details, raw.version) from invalid
    return found
