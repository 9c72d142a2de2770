"""Waiting for the first of several things. The winner, what it brings and the step are recorded in one statement.

The order of the arguments is the priority, so a replay has nothing to guess. Losers leave no row: no message of theirs is taken,
and nothing of them is pending. A winner that is abandoned by a cancellation goes back as the message of a receive does.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel

from dbos_async._checks import check_seconds, excerpt
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._database.wakeups import end_key, event_key, message_key, stream_key
from dbos_async._messaging.handoff import OfferOfSeveral, Receive
from dbos_async._messaging.recv import read_envelope, take
from dbos_async._runs.awaited import Awaited, CanBeAwaited
from dbos_async._runs.context import calling_context, in_workflow
from dbos_async._runs.own_ids import are_same, relative
from dbos_async._runs.step import Step, StepResult
from dbos_async._serialization.values import decode_value, encode_value
from dbos_async.errors import InvalidArgumentError, InvalidStreamValueError, InvalidValueError
from dbos_async.keys import Topic, topic_and_type
from dbos_async.waits import EventEnd, EventOf, EventValue, StreamEnd, StreamOf, StreamValue

T = TypeVar("T")

with load(__name__) as sql:
    FIRST: Final = sql.statement("FIRST")

MAX_NAMED: Final = 8
"""The key of the step names so many waits. Of more it has a digest."""

_WON: Final = re.compile(r'\{"index" ?: ?(\d+), ?"value" ?: ?(.*)\}', re.DOTALL)


class _EventRecord(BaseModel, Generic[T], frozen=True, ser_json_bytes="base64", val_json_bytes="base64"):
    version: int
    set_at: datetime
    value: T


class _StreamRecord(BaseModel, Generic[T], frozen=True, ser_json_bytes="base64", val_json_bytes="base64"):
    offset: int
    value: T


class _StreamEndRecord(BaseModel):
    end: int


class _Offset(BaseModel):
    offset: int


async def wait_first(database: Database, waits: Sequence[Any], timeout_seconds: float | None) -> Any:
    """What the first of the waits brings that is ready, in the order in which they are given; ``None`` when none is in time."""
    seconds = check_seconds(timeout_seconds)
    if not waits:
        raise InvalidArgumentError(
            "wait_first needs something to wait for: pass topics, handles, EventOf(…) or StreamOf(…)."
        )
    context = in_workflow(calling_context(database), "wait_first")
    workflow_id = context.run.workflow_id
    awaited = [_awaited(database, workflow_id, wait, place) for place, wait in enumerate(waits, 1)]
    step = Step(context, "wait_first", _step_key(awaited, workflow_id))
    step.matcher = _MATCHER
    encoded = _Encoded(awaited)
    keys = dict.fromkeys(key for one in awaited for key in one.keys)
    message_keys = [key for one in awaited if one.kind == "topic" for key in one.keys]
    result = await take(
        step,
        FIRST,
        lambda: (*step.columns, step.key, encoded.text(), seconds),
        list(keys),
        _offer(step, awaited, seconds),
        puts_back=message_keys,
    )
    return await step.decode_or_reject(result, lambda text: _brought(text, awaited, result))


def _offer(step: Step, awaited: Sequence[Awaited], seconds: float | None) -> Receive:
    topics = list(itertools.takewhile(lambda one: one.kind == "topic", awaited))
    if not topics:
        return Receive()
    return OfferOfSeveral(step, [one.key or "" for one in topics], [one.keys[0] for one in topics], seconds)


def _brought(text: str | None, awaited: Sequence[Awaited], result: StepResult) -> Any:
    if text is None:
        return None
    found = _WON.fullmatch(text)
    if found is None or int(found[1]) >= len(awaited):
        raise InvalidValueError("The recorded result of wait_first", "it is not one of what is waited for")
    return awaited[int(found[1])].read(None if found[2] == "null" else found[2], result)


def _awaited(database: Database, workflow_id: str, wait: Any, place: int) -> Awaited:
    if isinstance(wait, str | Topic):
        name, _ = topic_and_type(wait)
        return Awaited(
            kind="topic", name=f"topic {name}", key=name, keys=(message_key(workflow_id, name),),
            read=lambda text, result: read_envelope(text, wait, result),
        )  # fmt: skip
    if isinstance(wait, EventOf):
        return _event(wait)
    if isinstance(wait, StreamOf):
        return _stream(wait)
    if isinstance(wait, CanBeAwaited):
        return wait.__dbos_wait__(database)
    raise InvalidArgumentError(
        f"Argument {place} of wait_first must be a topic, a handle, an EventOf(…) or a StreamOf(…) and is {excerpt(wait)}."
    )


def _event(wait: EventOf[Any]) -> Awaited:
    target, (key, declared) = wait.workflow_id, wait.name_and_type

    def read(text: str | None, _: StepResult) -> EventValue[Any] | EventEnd:
        if text is None:
            return EventEnd(target, key)
        kind = _EventRecord.__class_getitem__(declared)
        record = decode_value(text, kind, what=f"The value of event {key!r} of workflow {target!r}")
        return EventValue(target, key, record.value, record.version, record.set_at)

    return Awaited(
        kind="event", name=f"event {key} of {target} after {wait.after}", id=target, key=key, after=wait.after,
        keys=(event_key(target, key), end_key(target)), read=read,
    )  # fmt: skip


def _stream(wait: StreamOf[Any]) -> Awaited:
    target, (key, declared) = wait.workflow_id, wait.name_and_type

    def read(text: str | None, _: StepResult) -> StreamValue[Any] | StreamEnd:
        if text is None or text.startswith('{"end"'):
            return StreamEnd(target, key, decode_value(text, _StreamEndRecord).end)
        offset = decode_value(text, _Offset).offset
        error = functools.partial(InvalidStreamValueError, offset=offset)
        kind = _StreamRecord.__class_getitem__(declared)
        record = decode_value(text, kind, what=f"Value {offset} of stream {key!r}", error=error)
        return StreamValue(target, key, offset, record.value)

    return Awaited(
        kind="stream", name=f"stream {key} of {target} from {wait.offset}", id=target, key=key, after=wait.offset,
        keys=(stream_key(target, key), end_key(target)), read=read,
    )  # fmt: skip


class _Encoded:
    """The waits as the statement takes them. What this process itself knows is asked at every poll."""

    __slots__ = ("_awaited", "_text")

    def __init__(self, awaited: Sequence[Awaited]) -> None:
        self._awaited = [one for one in awaited if one.is_ready is not None] and awaited
        self._text = _encode(awaited)

    def text(self) -> str:
        """Their JSON."""
        return _encode(self._awaited) if self._awaited else self._text


def _encode(awaited: Sequence[Awaited]) -> str:
    return encode_value(
        [
            {"kind": one.kind, "id": one.id, "key": one.key, "after": one.after}
            if one.is_ready is None
            else {"kind": one.kind, "is_ready": one.is_ready()}
            for one in awaited
        ]
    )


def _step_key(awaited: Sequence[Awaited], workflow_id: str) -> str:
    names = [one.name for one in awaited]
    if len(names) <= MAX_NAMED:
        return encode_value(names)
    marked = encode_value([relative(name, [workflow_id]) for name in names])
    return f"{len(names)} waits ({hashlib.sha256(marked.encode()).hexdigest()[:16]})"


class _Waits:
    """Compares the keys of steps, wait by wait."""

    async def is_same(self, step: Step, recorded: str, ids: Sequence[str]) -> bool:
        """Whether the step waits for what is recorded."""
        if not (recorded.startswith("[") and step.key.startswith("[")):
            return False
        return are_same(decode_value(recorded, list[str]), decode_value(step.key, list[str]), ids)


_MATCHER: Final = _Waits()
