"""Waiting for the first of several things. The winner, what it brings and the step are recorded in one statement.

The order of the arguments is the priority, so a replay has nothing to guess. Losers leave no row: no message of theirs is taken,
and nothing of them is pending. A winner that is abandoned by a cancellation goes back as the message of a receive does.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, Generic, NamedTuple, TypeVar

from pydantic import BaseModel

from dbos_async._checks import check_seconds, excerpt
from dbos_async._database.calls import Row
from dbos_async._database.change_keys import end_key, event_key, message_key, stream_key
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._messaging.handoff import OfferOfSeveral, Receive, index_of, value_of
from dbos_async._messaging.recv import read_envelope, take
from dbos_async._runs.awaited import Awaited, CanBeAwaited
from dbos_async._runs.context import calling_context, in_workflow
from dbos_async._runs.own_ids import are_same, relative
from dbos_async._runs.step import Step
from dbos_async._runs.step_result import StepResult
from dbos_async._serialization.values import decode_value, encode_value
from dbos_async.errors import InvalidArgumentError, InvalidEventValueError, InvalidStreamValueError, InvalidValueError
from dbos_async.keys import Question, Topic, topic_and_type
from dbos_async.waits import EventEnd, EventOf, EventValue, StreamEnd, StreamOf, StreamValue

T = TypeVar("T")

with load(__name__) as sql:
    FIRST_WAITING: Final = sql.statement("FIRST_WAITING")
    FIRST: Final = sql.statement("FIRST", otherwise=FIRST_WAITING, when_waiting=FIRST_WAITING)

MAX_NAMED: Final = 8
"""The key of the step names so many waits. Of more it has a digest."""

MAX_SHARED: Final = 1000

_TOPICS: Final = frozenset((str, Topic, Question))


class _EventRecord(BaseModel, Generic[T], frozen=True, ser_json_bytes="base64", val_json_bytes="base64"):
    version: int
    set_at: datetime
    value: T


class _StreamRecord(BaseModel, Generic[T], frozen=True, ser_json_bytes="base64", val_json_bytes="base64"):
    offset: int
    value: T


class _Version(BaseModel):
    version: int


class _StreamEndRecord(BaseModel):
    end: int


class _Offset(BaseModel):
    offset: int


class _Waits(NamedTuple):
    """What one call waits for. Calls that wait for topics alone share it, since thousands may wait at a time."""

    awaited: Sequence[Awaited]
    topics: Sequence[str]
    """The topics before which nothing but topics comes: a sender of this process may hand over a message of these."""
    encoded: str
    """The waits as the statement takes them."""
    asks_process: bool
    """Whether the process itself knows if some of them are ready. Then they are encoded anew for each poll."""
    step_key: str


async def wait_first(database: Database, waits: Sequence[Any], timeout_seconds: float | None) -> Any:
    """What the first of the waits brings that is ready, in the order in which they are given; ``None`` when none is in time."""
    seconds = check_seconds(timeout_seconds)
    if not waits:
        raise InvalidArgumentError(
            "wait_first needs something to wait for: pass topics, handles, EventOf(…) or StreamOf(…)."
        )
    all_waits = _waits_for_topics_or_none(waits)
    awaited = [] if all_waits is not None else [_awaited(database, wait, place) for place, wait in enumerate(waits, 1)]
    context = in_workflow(calling_context(database), "wait_first")
    workflow_id = context.run.workflow_id
    if all_waits is None:
        all_waits = _made_of(awaited, workflow_id)
    step = Step(context, "wait_first", all_waits.step_key)
    step.matcher = _MATCHER
    message_keys = tuple([message_key(workflow_id, one.key or "") for one in all_waits.awaited if one.kind == "topic"])
    result = await take(
        step,
        FIRST,
        _row(step, all_waits, seconds),
        tuple(dict.fromkeys([*message_keys, *(key for one in all_waits.awaited for key in one.keys)]))
        if len(message_keys) < len(waits)
        else message_keys,
        receive := _offer(step, all_waits.topics, message_keys, seconds),
        puts_back=message_keys,
    )
    if receive.receipt is not None and result.output is not None:
        topic = None if result.message_id is None else all_waits.awaited[index_of(result.output)].key
        receive.receipt.make(result.message_id, topic=topic)
    return await step.decode_or_reject(result, lambda text: _brought(text, all_waits.awaited, result))


def _row(step: Step, waits: _Waits, seconds: float | None) -> Row | Callable[[], Row]:
    if waits.asks_process:
        return lambda: (*step.columns, step.key, _encode(waits.awaited), seconds)
    return *step.columns, step.key, waits.encoded, seconds


def _offer(step: Step, topics: Sequence[str], message_keys: Sequence[bytes], seconds: float | None) -> Receive:
    telemetry = step.run.database.telemetry
    receipt = None if telemetry is None else telemetry.first(step)
    if not topics:
        return Receive(receipt)
    return OfferOfSeveral(step, topics, message_keys[: len(topics)], seconds, receipt)


def _made_of(awaited: Sequence[Awaited], workflow_id: str) -> _Waits:
    topics = [one.key or "" for one in itertools.takewhile(lambda one: one.kind == "topic", awaited)]
    asks_process = any(one.is_ready is not None for one in awaited)
    return _Waits(awaited, topics, _encode(awaited), asks_process, _step_key(awaited, workflow_id))


def _waits_for_topics_or_none(waits: Sequence[Any]) -> _Waits | None:
    if len(waits) > MAX_NAMED or not all([type(wait) in _TOPICS for wait in waits]):  # noqa: C419 - a generator costs more
        return None
    # By identity: types may be equal and not the same, as A | B and B | A, or have no hash. An entry keeps its topics alive.
    key = tuple([wait if type(wait) is str else id(wait) for wait in waits])
    shared = _shared.get(key)
    if shared is None:
        if len(_shared) >= MAX_SHARED:
            _shared.clear()
        shared = _shared[key] = _made_of(tuple(map(_topic, waits)), "")
    return shared


_shared: Final[dict[tuple[str | int, ...], _Waits]] = {}
"""The waits for topics alone, by what they wait for."""


def _brought(text: str | None, awaited: Sequence[Awaited], result: StepResult) -> Any:
    if text is None:
        return None
    index = index_of(text)
    if index >= len(awaited):
        raise InvalidValueError("The recorded result of wait_first", "it is not one of what is waited for")
    return awaited[index].read(value_of(text), result)


def _awaited(database: Database, wait: Any, place: int) -> Awaited:
    if isinstance(wait, str | Topic):
        return _topic(wait)
    if isinstance(wait, EventOf):
        return _event(wait)
    if isinstance(wait, StreamOf):
        return _stream(wait)
    if isinstance(wait, CanBeAwaited):
        return wait.__dbos_wait__(database)
    raise InvalidArgumentError(
        f"Argument {place} of wait_first must be a topic, a handle, an EventOf(…) or a StreamOf(…) and is {excerpt(wait)}."
    )


def _topic(wait: str | Topic[Any]) -> Awaited:
    # Its key depends on the workflow that waits.
    name, _ = topic_and_type(wait)
    return Awaited(
        kind="topic",
        name=f"topic {name}",
        key=name,
        keys=(),
        read=lambda text, result: read_envelope(text, wait, result),
    )


def _event(wait: EventOf[Any]) -> Awaited:
    target, (key, declared) = wait.workflow_id, wait.name_and_type

    def read(text: str | None, _: StepResult) -> EventValue[Any] | EventEnd:
        if text is None:
            return EventEnd(target, key)
        error = functools.partial(InvalidEventValueError, version=decode_value(text, _Version).version)
        kind = _EventRecord.__class_getitem__(declared)
        record = decode_value(text, kind, what=f"The value of event {key!r} of workflow {target!r}", error=error)
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


class _Matcher:
    """Compares the keys of steps, wait by wait."""

    async def is_same(self, step: Step, recorded: str, ids: Sequence[str]) -> bool:
        """Whether the step waits for what is recorded."""
        if not (recorded.startswith("[") and step.key.startswith("[")):
            return False
        return are_same(decode_value(recorded, list[str]), decode_value(step.key, list[str]), ids)


_MATCHER: Final = _Matcher()
