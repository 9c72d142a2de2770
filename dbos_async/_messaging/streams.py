"""Streams: values that a workflow appends, for any number of readers at any time.

A stream is rows with the offsets 0, 1, 2 … that never change. Closing it adds a row without a value. The writes of one run follow
each other. Where two runs of a workflow meet, both want the same row, and the one that comes second is repeated.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from dbos_async._checks import check_int, check_key, check_loop, check_seconds
from dbos_async._database.calls import Call, Observer, Result
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._database.wakeups import LocalUpdate, end_key, stream_key
from dbos_async._messaging.boundaries import (
    StreamMatcher,
    decode_boundary,
    decode_entries,
    deferred,
    raise_end,
    read_recorded,
)
from dbos_async._messaging.live import live_pages
from dbos_async._runs.context import Context, WorkflowContext, calling_context, in_workflow_or_step
from dbos_async._runs.issue import call_by, caller_columns, caller_in, issue
from dbos_async._runs.run import Run
from dbos_async._runs.step import Step
from dbos_async._runs.waiting import wait
from dbos_async._serialization.values import encode_value, size_error
from dbos_async.keys import Stream, key_and_type

with load(__name__) as sql:
    WRITE: Final = sql.statement("WRITE")
    FOLLOW: Final = sql.statement("FOLLOW")
    FOLLOW_ANY: Final = sql.statement("FOLLOW_ANY")


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
            found, invalid = decode_entries(page.entries, key, declared)
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
        step.matcher = matcher = StreamMatcher((workflow_id, key))
        row = (*step.columns, step_key, workflow_id, key, offset, seconds)
        result = await wait(step, FOLLOW, row, keys)
        async with deferred(step):
            boundary = await decode_boundary(step, result)
            pages, invalid = await read_recorded(database, step, boundary, matcher.recorded, declared)
        for page_values in pages:
            yield page_values
        if invalid is not None:
            raise invalid
        offset = boundary["offset"] + boundary["count"]
        raise_end(boundary, (workflow_id, key), offset, seconds)
        if boundary["end"] == "closed":
            return


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
        observer=_Written(run, key, value, size, digest),
    )
    (await issue(database, caller, call, verb=verb, invalid=invalid)).value()


class _Written(Observer):
    """Remembers where a value stands, for the next write, and tells the readers of this process."""

    __slots__ = ("_digest", "_key", "_offset", "_run", "_size", "_value")

    def __init__(self, run: Run, key: str, value: str | None, size: int, digest: bytes) -> None:
        self._run, self._key, self._value, self._size, self._digest = run, key, value, size, digest
        self._offset: int | None = None

    def on_result(self, call: Call, result: Result) -> None:
        self._offset = result[0]["offset"]
        if self._offset is not None and self._run.writes is not None:
            self._run.writes.reached(self._key, self._offset)

    def local_update(self, result: Result) -> LocalUpdate | None:
        return None if self._offset is None else LocalUpdate((self._offset, self._value, self._digest), self._size)
