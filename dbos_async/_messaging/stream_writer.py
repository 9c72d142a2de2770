"""Writing a stream in batches: a buffer that is bounded by count, bytes and time, and barriers at which all is committed.

In a step, a new attempt may take back what earlier ones have written, or go on from it. In a workflow every value is written once.
The writer is a step there, and so is each barrier. What is sent between two barriers is no step, since its moment depends on time.
A replay writes the same values again, and those that are stored already are left out, by their numbers.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final, Generic, Literal, NamedTuple, Self, TypeVar

from dbos_async._checks import check_choice, check_duration, check_int
from dbos_async._database.calls import Call
from dbos_async._database.database import Database
from dbos_async._database.wakeups import stream_key
from dbos_async._messaging.streams import (
    REWIND,
    WRITTEN,
    Written,
    append_call,
    call_of_stream,
    encode_batch,
    stream_end,
)
from dbos_async._runs.context import (
    StepContext,
    WorkflowContext,
    calling_context,
    check_live,
    in_workflow_or_step,
)
from dbos_async._runs.run import Run
from dbos_async._runs.step import Step
from dbos_async._serialization.exceptions import decode_error
from dbos_async._serialization.values import decode_value, encode_value, size_error
from dbos_async.errors import WrongPlaceError
from dbos_async.keys import Stream, key_and_type

T = TypeVar("T")

OnRetry = Literal["rewind", "continue", "skip", "append"]
"""What a new attempt of a step does with what earlier attempts have written."""
ON_RETRY: Final = ("rewind", "continue", "skip", "append")

VERB: Final = "stream_writer"
FLUSH: Final = "flush_stream"

MAX_VALUES: Final = 10_000
MAX_BYTES: Final = 2**24
MAX_SECONDS: Final = 60.0


class Limits(NamedTuple):
    """What a buffer holds at most, and for how long."""

    values: int
    bytes: int
    seconds: float


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
        self._buffer: _Buffer | None = None
        self._written: tuple[T, ...] = ()

    @property
    def written(self) -> tuple[T, ...]:
        """What earlier attempts of this step have written to the stream, as far as it still counts.

        It is empty with ``on_retry="rewind"``, which takes it back, and in a workflow.
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
            self._buffer = await _WorkflowBuffer.open(self._database, context, self._key, self._limits)
        else:
            check_live(context, VERB)
            buffer = _StepBuffer(self._database, context, self._key, self._limits, self._on_retry)
            self._buffer = buffer
            self._written = tuple(
                decode_value(text, self._declared, what=f"A value of stream {self._key!r}")
                for text in await buffer.begin()
            )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        buffer = self._buffer
        if buffer is None:
            return
        if error is not None and not isinstance(error, Exception):
            buffer.abandon()
            return
        try:
            await buffer.finish()
        except Exception:
            if error is None:
                raise  # else the error of the block says more

    def _open_buffer(self, verb: str) -> _Buffer:
        if self._buffer is None or self._buffer.is_over:
            raise WrongPlaceError(
                f"{verb} works inside of the block of a stream writer: async with DBOS.stream_writer(…)."
            )
        return self._buffer


class _Buffer(ABC):
    """The values that are not known to be committed. One batch at a time is under way, and the next ones gather behind it."""

    def __init__(self, database: Database, run: Run, key: str, limits: Limits) -> None:
        self._database, self._run, self._key, self._limits = database, run, key, limits
        self._texts: list[str] = []
        """The values that wait to be sent."""
        self._size = 0
        self.count: int = 0
        """How many values were sent or are under way, of all that this writer was given."""
        self._stored = 0
        """How many of them are committed."""
        self._since = 0.0
        """When the oldest of them was written, by the clock of the event loop."""
        self._timer: asyncio.TimerHandle | None = None
        self._is_sending = False
        self._barriers = 0
        self._waiters: list[asyncio.Future[None]] = []
        self._failure: BaseException | None = None
        self.is_over: bool = False

    @property
    def _is_full(self) -> bool:
        return len(self._texts) >= self._limits.values or self._size >= self._limits.bytes

    @abstractmethod
    async def add(self, text: str) -> None:
        """Take a value, once there is room."""

    @abstractmethod
    async def flush(self) -> None:
        """Return when all values that were added are committed."""

    @abstractmethod
    async def finish(self) -> None:
        """The last barrier."""

    @abstractmethod
    def _call(self, texts: list[str], first: int) -> Call:
        """The call that stores these values."""

    def abandon(self) -> None:
        """Store nothing that is not under way."""
        self.is_over = True
        self._texts, self._size = [], 0
        self._stop_timer()

    def _put(self, text: str) -> None:
        if not self._texts:
            self._since = self._database.loop.time()
        self._texts.append(text)
        self._size += len(text)

    def _send_in_time(self) -> None:
        """Send what waits when it has waited long enough, or at once if the buffer is full or a barrier waits."""
        if self._is_sending or not self._texts or self._failure is not None:
            return
        left = self._since + self._limits.seconds - self._database.loop.time()
        if self._is_full or self._barriers or left <= 0:
            self._start_sending()
        elif self._timer is None:
            # A timer of the run's context would count as something that the run has left to do.
            self._timer = self._database.loop.call_later(left, self._start_sending, context=contextvars.Context())

    def _start_sending(self) -> None:
        self._stop_timer()
        if not self._is_sending and not self.is_over:
            self._is_sending = True
            self._run.host.spawn(self._send())

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _send(self) -> None:
        """Store what waits, in the background: whoever writes may be cancelled at any moment."""
        texts, first = self._texts, self.count
        self._texts, self._size, self.count = [], 0, first + len(texts)
        try:
            await self._store(texts, first)
            self._stored = self.count
        except BaseException as error:
            self._failure = error
            if not isinstance(error, Exception):
                raise
        finally:
            self._is_sending = False
            self._wake()
        self._send_in_time()

    async def _store(self, texts: list[str], first: int) -> None:
        record = (await self._database.execute(self._call(texts, first)))[0]
        if record["outcome"] == "lost":
            self._run.host.check_ownership_soon(self._run)
            raise _LostError
        if record["error"] is not None:
            raise decode_error(record["error"])

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def _next_turn(self) -> None:
        """Return when a batch has been stored, or could not be."""
        waiter = self._database.loop.create_future()
        self._waiters.append(waiter)
        await waiter


class _LostError(Exception):
    """The run does not own its workflow any more."""


class _StepBuffer(_Buffer):
    """The buffer of a writer in a step."""

    def __init__(self, database: Database, context: StepContext, key: str, limits: Limits, on_retry: str) -> None:
        super().__init__(database, context.run, key, limits)
        self._context = context
        self.rewinds: bool = on_retry == "rewind"
        self._skips = on_retry == "skip"

    async def begin(self) -> Sequence[str]:
        """Take the place of the writer of this stream; returns what counts of what earlier ones have written."""
        context, key = self._context, self._key
        writers = context.writers = {} if context.writers is None else context.writers
        before = writers.get(key)
        if before is not None and not before.is_over:
            raise WrongPlaceError(
                f"A step has one writer of a stream at a time, and that of stream {key!r} is open: write with that one."
            )
        writers[key] = self
        try:
            await _settled(self._run, context.path, key)
            if before is not None:  # this attempt goes on
                self.rewinds, self.count = before.rewinds, before.count
            if before is not None or self.rewinds:
                return ()
            row = self._run.workflow_id, key, context.path
            records = await self._database.call(WRITTEN, [row], partition=self._run.partition, retry_forever=True)
        except BaseException:
            self.abandon()
            raise
        found = [text for record in records for text in record["batch"] or ()]
        self.count = self._stored = 0 if self._skips else len(found)
        return found

    async def add(self, text: str) -> None:
        await self._check("write")
        while self._is_full:
            self._send_in_time()
            await self._wait("write")
        self._put(text)
        self._send_in_time()

    async def flush(self) -> None:
        await self._check("flush")
        target = self.count + len(self._texts)
        self._barriers += 1
        try:
            while self._stored < target:
                self._send_in_time()
                await self._wait("flush")
        finally:
            self._barriers -= 1

    async def finish(self) -> None:
        """The end of the block, or of the step. An attempt without values takes back what earlier ones have written, too."""
        if self.is_over:
            return
        try:
            await self.flush()
            if self.rewinds:
                self._start_sending()
                while self._is_sending:
                    await self._wait("flush")
        finally:
            self.abandon()

    def abandon(self) -> None:
        super().abandon()
        if self._is_sending:
            _unsettled(self._run)[self._context.path, self._key] = self

    async def settle(self) -> None:
        """Return when nothing is under way any more."""
        while self._is_sending:
            await self._next_turn()

    async def _check(self, verb: str) -> None:
        check_live(self._context, verb)
        if self._run.stopped is not None:
            await self._run.halt(self._run.stopped)
        if isinstance(self._failure, _LostError):
            await self._run.stop_as_lost()
        if self._failure is not None:
            raise self._failure

    async def _wait(self, verb: str) -> None:
        with self._run.inside(verb):
            await self._next_turn()
        await self._check(verb)

    async def _store(self, texts: list[str], first: int) -> None:
        if not self.rewinds:
            await super()._store(texts, first)
            return
        # Rewinds of one stream follow each other: each takes back, and copies, what is there.
        async with _rewinding(self._run, self._key):
            await super()._store(texts, first)
        self.rewinds = False

    def _call(self, texts: list[str], first: int) -> Call:
        run, path, key = self._run, self._context.path, self._key
        batch = encode_batch(texts)
        if not self.rewinds:
            return append_call(run, self._context, path, VERB, key, texts, batch, first)
        digest, seq = stream_key(run.workflow_id, key), run.next_write_seq()
        row = run.workflow_id, run.attempt, path, key, batch, seq, stream_end(run, key), digest
        return call_of_stream(run, self._context, REWIND, row, Written(run, key, texts, len(batch), digest))


class _WorkflowBuffer(_Buffer):
    """The buffer of a writer in the body of a workflow: a writer that is full waits for a barrier, which is a step."""

    def __init__(self, database: Database, run: Run, key: str, limits: Limits, path: str) -> None:
        super().__init__(database, run, key, limits)
        self._path = path
        self._unconfirmed: list[str] = []
        """The values since the last barrier."""
        self._unconfirmed_size = 0
        self._confirmed = 0

    @classmethod
    async def open(cls, database: Database, context: WorkflowContext, key: str, limits: Limits) -> _WorkflowBuffer:
        """Record that the writer begins. Its values bear the path of this step."""
        step = Step(context, VERB, key)

        async def nothing() -> tuple[str | None, str | None]:
            return None, None

        (await step.run_once(nothing)).value()
        return cls(database, context.run, key, limits, step.path)

    async def add(self, text: str) -> None:
        self._context()
        await self._run.check_may_act("write", is_begun=False)
        self._put(text)
        self._unconfirmed.append(text)
        self._unconfirmed_size += len(text)
        # Which value is followed by a barrier must not depend on what was sent in the meantime.
        if len(self._unconfirmed) >= self._limits.values or self._unconfirmed_size >= self._limits.bytes:
            await self.flush()
        else:
            self._send_in_time()

    async def flush(self) -> None:
        if not self._unconfirmed:
            return
        step = Step(self._context(), FLUSH, self._key)
        texts, count = self._unconfirmed, self._confirmed + len(self._unconfirmed)
        output = json.dumps({"writer": self._path, "written": count})
        batch = encode_batch(texts)
        self._stop_timer()
        first, self._confirmed = self._confirmed, count
        self._unconfirmed, self._unconfirmed_size = [], 0
        # What is under way is among these values. The statements follow each other, and the later one leaves it out.
        self._texts, self._size, self.count = [], 0, count
        call = append_call(self._run, step, self._path, FLUSH, self._key, texts, batch, first, output)
        (await step.perform(call)).value()
        self._failure = None
        self._send_in_time()

    async def finish(self) -> None:
        if self.is_over:
            return
        try:
            await self.flush()
        finally:
            self.abandon()

    def _context(self) -> WorkflowContext:
        context = calling_context(self._database)
        if isinstance(context, WorkflowContext) and context.run is self._run:
            return context
        raise WrongPlaceError(
            "A stream writer of a workflow is used in the body of that workflow, and not in its steps."
        )

    def _call(self, texts: list[str], first: int) -> Call:
        inside = StepContext(self._run, self._path)
        return append_call(self._run, inside, self._path, VERB, self._key, texts, encode_batch(texts), first)


def _unsettled(run: Run) -> dict[tuple[str, str], Any]:
    if run.writes is None:
        run.next_write_seq()
    assert run.writes is not None
    return run.writes.unsettled


async def _settled(run: Run, path: str, key: str) -> None:
    """Return when nothing is under way any more of what an abandoned writer of this step has sent to the stream."""
    buffer: _StepBuffer | None = _unsettled(run).get((path, key))
    if buffer is not None:
        await buffer.settle()
        _unsettled(run).pop((path, key), None)


def _rewinding(run: Run, key: str) -> asyncio.Lock:
    if run.writes is None:
        run.next_write_seq()
    assert run.writes is not None
    return run.writes.rewinding.setdefault(key, asyncio.Lock())
