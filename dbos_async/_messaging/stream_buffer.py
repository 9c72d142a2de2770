"""The buffer of a stream writer: one batch at a time is under way, and the values of the next one gather behind it."""

from __future__ import annotations

import asyncio
import contextvars
from abc import ABC, abstractmethod
from typing import Final, NamedTuple

from dbos_async._database.calls import Call
from dbos_async._database.database import Database
from dbos_async._runs.run import Run
from dbos_async._runs.run_writes import RunWrites
from dbos_async._serialization.exceptions import decode_error

VERB: Final = "stream_writer"


class Limits(NamedTuple):
    """What a buffer holds at most, and for how long."""

    values: int
    bytes: int
    seconds: float


class Buffer(ABC):
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
    def outlasts_cancelling(self) -> bool:
        """Whether a cancellation is a barrier, as the end of the block is."""
        return False

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

    async def settle(self) -> None:
        """Return when nothing is under way any more, so that whatever is written now stands behind it."""
        while self._is_sending and self._run.stopped is None:
            await self._next_turn()

    def _put(self, text: str) -> None:
        if not self._texts:
            self._since = self._database.loop.time()
        self._texts.append(text)
        self._size += bytes_of(text)

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
        self._wake()  # there is room
        try:
            await self._store(texts, first)
            self._stored = first + len(texts)
        except BaseException as error:
            self._failure = error
            if not isinstance(error, Exception):
                raise
        finally:
            self._is_sending = False
            self._wake()
        self._send_in_time()

    async def _store(self, texts: list[str], first: int) -> None:
        if self._run.host.only_replays:
            return
        record = (await self._database.execute(self._call(texts, first)))[0]
        if record["outcome"] == "lost":
            self._run.host.check_ownership_soon(self._run)
            raise LostError
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


class LostError(Exception):
    """The run does not own its workflow any more."""


def bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def writes_of(run: Run) -> RunWrites:
    """What the run has written so far."""
    if run.writes is None:
        run.writes = RunWrites()
    return run.writes
