"""Writing a stream in batches: ``async with DBOS.stream_writer(…) as out``."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, Generic, Literal, Self, TypeVar

import anyio

from dbos_async._checks import check_choice, check_duration, check_int
from dbos_async._database.database import Database
from dbos_async._messaging.step_buffer import StepBuffer
from dbos_async._messaging.stream_buffer import VERB, Buffer, Limits
from dbos_async._messaging.workflow_buffer import WorkflowBuffer
from dbos_async._runs.context import WorkflowContext, calling_context, check_live, in_workflow_or_step
from dbos_async._runs.continuation import is_only_continuing
from dbos_async._serialization.values import decode_value, encode_value, size_error
from dbos_async.errors import WrongPlaceError
from dbos_async.keys import Stream, key_and_type

if TYPE_CHECKING:
    from dbos_async._telemetry.acts import Act

T = TypeVar("T")

OnRetry = Literal["rewind", "continue", "skip", "append"]
"""What a new attempt of a step does with what earlier attempts have written."""
ON_RETRY: Final = ("rewind", "continue", "skip", "append")

MAX_VALUES: Final = 10_000
MAX_BYTES: Final = 2**24
MAX_SECONDS: Final = 60.0


class StreamWriter(Generic[T]):
    """Appends values to a stream in batches; `DBOS.stream_writer` makes one, for ``async with``."""

    def __init__(self, database: Database, key: str | Stream[T], on_retry: str, limits: Limits) -> None:
        self._database = database
        self._key, self._declared = key_and_type(key, Stream)
        self._on_retry = check_choice(on_retry, ON_RETRY, "on_retry")
        self._limits = Limits(
            check_int(limits.values, 1, "max_values", MAX_VALUES),
            check_int(limits.bytes, 1, "max_bytes", MAX_BYTES),
            check_duration(limits.seconds, "max_seconds", most=MAX_SECONDS),
        )
        self._buffer: Buffer | None = None
        self._written: tuple[T, ...] = ()
        self._act: Act | None = None

    @property
    def written(self) -> tuple[T, ...]:
        """What earlier attempts of this step have written to the stream, as far as it still counts.

        It is empty with ``on_retry="rewind"``, which takes it back, and in a workflow. Values that were trimmed are not in it.
        """
        return self._written

    async def write(self, value: T) -> None:
        """Append a value. Returns when it is in the buffer, and waits for room in a buffer that is full.

        Raises `InvalidValueError` when the value is not JSON, is too large or does not fit the type of the stream, and
        `StreamClosedError` once it is known that the stream is closed.
        """
        what = f"The value for stream {self._key!r}"
        text = encode_value(value, self._declared, what=what)
        invalid = size_error(text, self._database.max_payload_bytes, what)
        if invalid is not None:
            raise invalid
        await self._open_buffer("write").add(text)

    async def flush(self) -> None:
        """Return when every value that was written before is committed.

        Raises `StreamClosedError` when the stream is closed.
        """
        await self._open_buffer("flush").flush()

    async def __aenter__(self) -> Self:
        if self._buffer is not None:
            raise WrongPlaceError("A stream writer is used once: call stream_writer again for another block.")
        context = in_workflow_or_step(calling_context(self._database), VERB)
        if isinstance(context, WorkflowContext):
            self._buffer = await WorkflowBuffer.open(self._database, context, self._key, self._limits)
        else:
            check_live(context, VERB)
            buffer = StepBuffer(self._database, context, self._key, self._limits, self._on_retry)
            self._buffer = buffer
            self._written = tuple(
                decode_value(text, self._declared, what=f"A value of stream {self._key!r}")
                for text in await buffer.begin()
            )
            telemetry = self._database.telemetry
            if telemetry is not None:
                self._act = telemetry.write_stream(self._key, context)
                self._act.begin()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if self._buffer is None:
            return
        if self._act is None:
            await self._leave(self._buffer, error)
            return
        with self._act:
            await self._leave(self._buffer, error)
            self._act.end(error)

    @staticmethod
    async def _leave(buffer: Buffer, error: BaseException | None) -> None:
        if error is None or is_only_continuing(error):
            await buffer.finish()
        elif isinstance(error, Exception) or (isinstance(error, asyncio.CancelledError) and buffer.outlasts_cancelling):
            # What is raised then says less than the error of the block. A scope that was cancelled cancels every wait in it.
            with anyio.CancelScope(shield=isinstance(error, asyncio.CancelledError)), contextlib.suppress(Exception):
                await buffer.finish()
        else:
            buffer.abandon()
            with anyio.CancelScope(shield=True):
                await buffer.settle()

    def _open_buffer(self, verb: str) -> Buffer:
        if self._buffer is None or self._buffer.is_over:
            raise WrongPlaceError(
                f"{verb} works inside of the block of a stream writer: async with DBOS.stream_writer(…)."
            )
        return self._buffer
