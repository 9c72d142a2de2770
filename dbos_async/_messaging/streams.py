"""Streams: values that a workflow appends, for any number of readers at any time.

A stream is rows with the offsets 0, 1, 2 … that never change. Closing it adds a row without a value. The writes of one run follow
each other. Where two runs of a workflow meet, both want the same row, and the one that comes second is repeated.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from dbos_async._checks import check_int, check_key, check_loop, check_seconds
from dbos_async._database.calls import Call, Observer, Result
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._database.wakeups import LocalUpdate, end_key, stream_key
from dbos_async._messaging.live import MAX_VALUES, READ, live_pages
from dbos_async._runs.context import Context, WorkflowContext, calling_context, in_workflow_or_step
from dbos_async._runs.issue import call_by, caller_columns, caller_in, issue
from dbos_async._runs.own_ids import are_same
from dbos_async._runs.run import Run
from dbos_async._runs.step import Step, StepResult
from dbos_async._runs.waiting import wait
from dbos_async._serialization.exceptions import decode_error, encode_error
from dbos_async._serialization.values import decode_value, encode_value, size_error
from dbos_async.errors import InvalidStreamValueError, InvalidValueError, StreamTimeoutError, WorkflowNotFoundError
from dbos_async.keys import Stream, key_and_type

with load(__name__) as sql:
    WRITE: Final = sql.statement("WRITE")
    FOLLOW: Final = sql.statement("FOLLOW")


class _Boundary(TypedDict):
    """What a step records of reading a stream, with the error of a value that could not be decoded."""

    offset: Annotated[int, Field(ge=0, lt=2**31)]
    count: Annotated[int, Field(ge=0, le=MAX_VALUES)]
    end: Literal["unknown", "closed", "timeout", "invalid"] | None
    error: NotRequired[Any]


async def write_stream(database: Database, key: str | Stream[Any], value: Any) -> None:
    """Append one value."""
    name, declared = key_and_type(key, Stream)
    context = in_workflow_or_step(calling_context(database), "write_stream")
    text = encode_value(value, declared, what=f"The value for stream {name!r}")
    await _write(database, context, "write_stream", name, text)


async def close_stream(database: Database, key: str | Stream[Any]) -> None:
    """Accept no more values."""
    name, _ = key_and_type(key, Stream)
    context = in_workflow_or_step(calling_context(database), "close_stream")
    await _write(database, context, "close_stream", name, None)


def read_stream(
    database: Database, workflow_id: str, key: str | Stream[Any], offset: int, timeout_seconds: float | None
) -> AsyncGenerator[Any, None]:
    """Yield the values from ``offset`` on, in order, until the stream has ended."""
    workflow_id = check_key(workflow_id, "workflow_id")
    name, declared = key_and_type(key, Stream)
    return _values(
        database, workflow_id, name, declared, check_int(offset, 0, "offset"), check_seconds(timeout_seconds)
    )


async def _values(
    database: Database, workflow_id: str, name: str, declared: Any, offset: int, seconds: float | None
) -> AsyncGenerator[Any, None]:
    check_loop(database.loop, "This stream is read in another event loop: call read_stream in the loop that reads it.")
    context = calling_context(database)
    pages = (
        _recorded_pages(database, workflow_id, name, declared, offset, seconds)
        if isinstance(context, WorkflowContext)
        else _live_pages(database, workflow_id, name, declared, offset, seconds, retry_forever=context is not None)
    )
    async with aclosing(pages):
        async for page in pages:
            for value in page:
                yield value


async def _live_pages(
    database: Database,
    workflow_id: str,
    key: str,
    declared: Any,
    offset: int,
    seconds: float | None,
    *,
    retry_forever: bool,
) -> AsyncGenerator[list[Any], None]:
    async with aclosing(live_pages(database, workflow_id, key, offset, seconds, retry_forever=retry_forever)) as pages:
        async for page in pages:
            found, invalid = _read(page.entries, key, declared)
            yield found
            if invalid is not None:
                raise invalid


async def _recorded_pages(
    database: Database, workflow_id: str, key: str, declared: Any, offset: int, seconds: float | None
) -> AsyncGenerator[list[Any], None]:
    step_key = f"{key} of {workflow_id}"
    keys = stream_key(workflow_id, key), end_key(workflow_id)
    while True:
        context = calling_context(database)
        assert isinstance(context, WorkflowContext)
        step = Step(context, "read_stream", step_key)
        step.is_deferred = True
        step.matcher = place = _Place(key, workflow_id)
        row = (*step.columns, step_key, workflow_id, key, offset, seconds)
        result = await wait(step, FOLLOW, row, keys)
        try:
            boundary, pages, invalid = await _read_recorded(database, step, result, place.recorded, declared)
            await step.release()
        except asyncio.CancelledError:
            await step.wait_for_cancellation()
            raise
        except BaseException:
            step.void()
            raise
        for page_values in pages:
            yield page_values
        if invalid is not None:
            raise invalid
        end, offset = boundary["end"], boundary["offset"] + boundary["count"]
        if end == "closed":
            return
        if end == "invalid":
            raise decode_error(encode_value(boundary.get("error")))
        if end == "unknown":
            raise WorkflowNotFoundError(workflow_id)
        if end == "timeout":
            raise StreamTimeoutError(workflow_id, key, offset, seconds or 0.0)


class _Place:
    """Compares the key of a step that reads a stream, and knows which stream the recorded values are in."""

    __slots__ = ("_asked", "recorded")

    def __init__(self, key: str, workflow_id: str) -> None:
        self._asked = key, workflow_id
        self.recorded = workflow_id, key

    async def is_same(self, step: Step, recorded: str, ids: Sequence[str]) -> bool:
        """Whether a step that reads this stream has recorded that key."""
        words = recorded.split(" of ")
        for count in range(1, len(words)):
            key, workflow_id = " of ".join(words[:count]), " of ".join(words[count:])
            if are_same((key, workflow_id), self._asked, ids):
                if workflow_id not in ids:  # a fork has its own copy of a stream of the original
                    self.recorded = workflow_id, key
                return True
        return False


async def _read_recorded(
    database: Database, step: Step, result: StepResult, stream: tuple[str, str], declared: Any
) -> tuple[_Boundary, list[list[Any]], InvalidStreamValueError | None]:
    """The values that a step has recorded to be read, up to the first that cannot be decoded, and the error of that one."""
    try:
        boundary = decode_value(result.value() or "null", _Boundary)
    except InvalidValueError as unreadable:
        await step.park_undecodable(unreadable)
    offset, stop = boundary["offset"], boundary["offset"] + boundary["count"]
    pages: list[list[Any]] = []
    while offset < stop:
        row = *stream, offset, stop - offset
        page = await database.call(READ, [row], partition=stream[0], retry_forever=True)
        if page[-1]["offset"] is None:
            raise WorkflowNotFoundError(stream[0])
        entries = [(record["offset"], record["value"]) for record in page]
        page_values, invalid = _read(entries, stream[1], declared)
        pages.append(page_values)
        if invalid is not None:
            count = invalid.offset - boundary["offset"]
            reason = json.loads(encode_error(invalid))
            shorter = boundary | {"count": count, "end": "invalid", "error": reason}
            await step.record_rejection(encode_value(shorter), invalid)
            return boundary, pages, invalid
        offset = page[-1]["offset"] + 1
    return boundary, pages, None


def _read(entries: list[tuple[int, str]], key: str, declared: Any) -> tuple[list[Any], InvalidStreamValueError | None]:
    """The values of a page up to the first that cannot be decoded, and the error of that one."""
    found: list[Any] = []
    for offset, text in entries:
        error = functools.partial(InvalidStreamValueError, offset=offset)
        try:
            found.append(decode_value(text, declared, what=f"Value {offset} of stream {key!r}", error=error))
        except InvalidStreamValueError as invalid:
            return found, invalid
    return found, None


async def _write(database: Database, context: Context, verb: str, key: str, value: str | None) -> None:
    run = context.run
    caller = caller_in(context, verb, key)
    digest = stream_key(run.workflow_id, key)
    stream_end = -1 if run.writes is None else run.writes.stream_ends.get(key, -1)
    row = (*caller_columns(caller), caller.path, verb, key, value, run.next_write_seq(), stream_end, digest)
    size = len(value or "")
    invalid = size_error(value or "", database.max_payload_bytes, f"The value for stream {key!r}")
    call = call_by(
        caller,
        WRITE,
        [row],
        about=run.workflow_id,
        size=size,
        wakes=[digest],
        observer=_Written(run, key, value, size),
    )
    (await issue(database, caller, call, verb=verb, invalid=invalid)).value()


class _Written(Observer):
    """Remembers where a value stands, for the next write, and tells the readers of this process."""

    __slots__ = ("_key", "_offset", "_run", "_size", "_value")

    def __init__(self, run: Run, key: str, value: str | None, size: int) -> None:
        self._run, self._key, self._value, self._size = run, key, value, size
        self._offset: int | None = None

    def on_result(self, call: Call, result: Result) -> None:
        self._offset = result[0]["offset"]
        if self._offset is not None and self._run.writes is not None:
            self._run.writes.reached(self._key, self._offset)

    def local_update(self, result: Result) -> LocalUpdate | None:
        return None if self._offset is None else LocalUpdate((self._offset, self._value), self._size)
