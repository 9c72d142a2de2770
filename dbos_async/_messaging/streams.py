"""Writing streams: values that a workflow appends, for any number of readers at any time.

A stream is rows with the offsets 0, 1, 2 … whose values never change. Closing it adds a row without a value. The writes of one run
follow each other. Where two runs of a workflow meet, both want the same row, and the one that comes second is repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from dbos_async._checks import check_list
from dbos_async._database.calls import Call, Observer, Result
from dbos_async._database.change_keys import stream_key
from dbos_async._database.database import Database
from dbos_async._database.news import StreamNews
from dbos_async._database.sql import load
from dbos_async._database.statement import Statement
from dbos_async._database.wakeups import LocalUpdate
from dbos_async._runs.context import Context, StepContext, calling_context, in_workflow_or_step
from dbos_async._runs.issue import Caller, call_by, caller_columns, caller_in, is_step, issue
from dbos_async._runs.run import Run
from dbos_async._serialization.values import encode_value, size_error
from dbos_async.errors import InvalidArgumentError
from dbos_async.keys import Stream, key_and_type

MAX_AT_ONCE: Final = 10_000
"""So many values `write_stream_many` takes in one call."""

with load(__name__) as sql:
    WRITE: Final = sql.statement("WRITE", is_usual=is_step)
    APPEND: Final = sql.statement("APPEND")
    REWIND: Final = sql.statement("REWIND")
    WRITTEN: Final = sql.statement("WRITTEN")


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


async def write_stream_many(database: Database, key: str | Stream[Any], values: Sequence[Any]) -> None:
    """Append several values in one commit."""
    name, declared = key_and_type(key, Stream)
    given = check_list(values, "values")
    if len(given) > MAX_AT_ONCE:
        raise InvalidArgumentError(
            f"write_stream_many takes at most {MAX_AT_ONCE} values in one call, and there are {len(given)}: write them in parts."
        )
    texts = [
        encode_value(value, declared, what=f"Value {place} of {len(given)} for stream {name!r}")
        for place, value in enumerate(given, 1)
    ]
    context = in_workflow_or_step(calling_context(database), "write_stream_many")
    if not texts:
        return
    context = await _behind_writers(context, name)
    caller = caller_in(context, "write_stream_many", name)
    batch = encode_batch(texts)
    invalid = size_error(batch, database.max_payload_bytes, f"All values together for stream {name!r}")
    call = append_call(context.run, caller, caller.path, "write_stream_many", name, texts, batch)
    act = None if database.telemetry is None else database.telemetry.write_stream(name, caller)
    (await issue(database, caller, call, verb="write_stream_many", invalid=invalid, act=act)).value()


def encode_batch(texts: Sequence[str]) -> str:
    """The JSON of several values, as a statement takes them."""
    return f"[{','.join(texts)}]"


def append_call(
    run: Run,
    caller: Caller,
    step: str,
    verb: str,
    key: str,
    texts: Sequence[str],
    batch: str,
    first: int | None = None,
    output: str | None = None,
) -> Call:
    """A call that appends values; ``first`` says how many values their stream writer has written before."""
    digest, seq = stream_key(run.workflow_id, key), run.next_write_seq()
    row = (*caller_columns(caller), step, verb, key, batch, first, output, seq, stream_end(run, key), digest)
    return call_of_stream(run, caller, APPEND, row, Written(run, key, texts, len(batch), digest))


def call_of_stream(run: Run, caller: Caller, statement: Statement, row: Any, written: Written) -> Call:
    """A call of a statement that writes to a stream."""
    return call_by(
        caller, statement, [row], about=run.workflow_id, size=written.size, wakes=[written.digest], observer=written
    )


def stream_end(run: Run, key: str) -> int:
    """From which offset on a statement looks for the end of the stream."""
    return -1 if run.writes is None else run.writes.stream_ends.get(key, -1)


async def _behind_writers(context: Context, key: str) -> Context:
    """Let what the caller has given to an open writer of the stream stand before what it writes now. The context after that."""
    if isinstance(context, StepContext):
        writer = None if context.writers is None else context.writers.get(key)
        if writer is not None and not writer.is_over:
            await writer.flush()
    elif context.run.writes is not None and key in context.run.writes.writers:
        for writer in [*context.run.writes.writers[key]]:
            await writer.flush()  # a step, if there is something to store
        return in_workflow_or_step(calling_context(context.run.database), "write_stream")
    return context


async def _write(database: Database, context: Context, verb: str, key: str, value: str | None) -> None:
    context = await _behind_writers(context, key)
    run = context.run
    caller = caller_in(context, verb, key)
    digest, seq = stream_key(run.workflow_id, key), run.next_write_seq()
    row = (*caller_columns(caller), caller.path, verb, key, value, seq, stream_end(run, key), digest)
    invalid = size_error(value or "", database.max_payload_bytes, f"The value for stream {key!r}")
    written = Written(run, key, None if value is None else (value,), len(value or ""), digest)
    call = call_of_stream(run, caller, WRITE, row, written)
    act = None if database.telemetry is None else database.telemetry.write_stream(key, caller)
    (await issue(database, caller, call, verb=verb, invalid=invalid, act=act)).value()


class Written(Observer):
    """Remembers where values stand, for the next write, and tells the readers of this process.

    Without values (``None``) the stream was closed.
    """

    __slots__ = ("_key", "_run", "_update", "_values", "digest", "size")

    def __init__(self, run: Run, key: str, values: Sequence[str] | None, size: int, digest: bytes) -> None:
        self._run, self._key, self._values, self.size, self.digest = run, key, values, size, digest
        self._update: StreamNews | None = None

    def on_result(self, call: Call, result: Result) -> None:
        record = result[0]
        offset = record["offset"]
        if offset is None:
            return
        if self._run.writes is not None:
            self._run.writes.reached(self._key, offset)
        values = self._values
        if values is not None and call.statement is not WRITE:
            if call.statement is REWIND and record["has_rewound"]:
                return  # readers must poll
            values = values[len(values) - record["count"] :]
        told = None if values is None else tuple(values)
        self._update = StreamNews(self._run.attempt, offset, told, self.digest)

    def local_update(self, result: Result) -> LocalUpdate | None:
        return None if self._update is None else LocalUpdate(self._update, self.size)
