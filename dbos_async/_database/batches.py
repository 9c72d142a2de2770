"""Concurrent calls of one statement ride in one batch, and one batch is one statement is one transaction.

While a batch is at the server, later calls gather and go together next; a lone call goes at once.
Of one lane at most one batch is in flight, so calls of one lane keep their order.
A call that fails by itself harms no other: deadlocks repeat the batch, bad data splits it until the guilty call stands alone.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import asyncpg

from dbos_async._database.connections import REPEATABLE, Postgres, is_lost, is_refused
from dbos_async._database.probe import AFTER_SECONDS
from dbos_async._database.statement import Statement
from dbos_async._database.urls import reason_of
from dbos_async._database.wakeups import LocalUpdate, Wakeups
from dbos_async.errors import DatabaseUnavailableError, LaunchError

log = logging.getLogger("dbos_async")

MAX_CALLS = 500
MAX_BYTES = 1 << 20
MAX_RETRIES = 20
MAX_STATEMENT_CANCELS = 2
SWEEP_EVERY_SECONDS = 0.25
WARN_EVERY_SECONDS = 60.0

TOO_MUCH = (asyncpg.QueryCanceledError, asyncpg.OutOfMemoryError)
"""A batch may be too much at a time where its calls are not: for a statement_timeout, or for the memory."""

Answer = list[asyncpg.Record]


class Handoff(Protocol):
    """What rides along with a call; ``rows_alone`` are those of the call without it, for when its answer was lost."""

    rows_alone: Sequence[tuple[Any, ...]]

    def answered(self, answer: Answer) -> bool:
        """Hear how it went; true when nobody else needs to hear of the call."""
        ...


class Follower(Protocol):
    """Goes on where a call has ended, without a task that waits for it."""

    def answered(self, answer: Answer) -> None:
        """Hear the answer, also that to a call which was cancelled when it had been sent."""

    def failed(self, error: BaseException | None) -> None:
        """Hear why there is no answer; ``None`` when the call was cancelled."""


class _Call(asyncio.Future[Answer]):
    """The rows of one call, and the future of its answer."""

    __slots__ = ("answered", "follower", "give_up_at", "handoff", "news", "rows", "size", "wakes", "was_sent")

    def __init__(
        self,
        rows: Sequence[tuple[Any, ...]],
        size: int,
        wakes: Sequence[bytes],
        give_up_at: float,
        answered: Callable[[Answer], None] | None,
        news: Callable[[Answer], LocalUpdate | None] | None,
        handoff: Handoff | None,
        follower: Follower | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(loop=loop)
        self.rows, self.size, self.wakes = rows, size, wakes
        self.give_up_at, self.answered = give_up_at, answered
        self.news, self.handoff = news, handoff
        self.follower = follower
        self.was_sent = False

    def fail(self, error: BaseException) -> None:
        if not self.done():
            self.set_exception(error)
            if self.follower is not None:
                self.exception()  # heard of
                self.follower.failed(error)

    def cancel(self, msg: Any | None = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled and self.follower is not None:
            self.follower.failed(None)
        return cancelled

    def settle(self, answer: Answer) -> bool:
        """Give the caller the answer; true when others may wait for what was done."""
        # What follows from a commit happens here and not in the caller, who may have been cancelled meanwhile.
        if self.answered is not None:
            self.answered(answer)
        if self.follower is not None:
            self.follower.answered(answer)
        # The caller goes on before those who are woken, and may wait already when they answer.
        if not self.done():
            self.set_result(answer)
        # A message that was handed over is nothing to look for any more.
        if self.handoff is not None and self.handoff.answered(answer):
            return False
        return bool(self.wakes)

    @property
    def concerns_others(self) -> bool:
        """Whether the answer matters to more than the caller."""
        return bool(self.answered or self.follower or self.wakes)

    def tell(self, answer: Answer, wakeups: Wakeups) -> None:
        """Wake who waits for what was done, with the news of it."""
        news = None if self.news is None else self.news(answer)
        for key in self.wakes:
            wakeups.wake(key, news)


@dataclass(slots=True, eq=False)
class _Partition:
    statement: Statement
    waiting: deque[_Call] = field(default_factory=deque)
    worker: asyncio.Task[None] | None = None
    in_flight: list[asyncio.Future[None]] = field(default_factory=list)
    """Whom to tell when the batch in flight has landed."""
    batch: Sequence[_Call] = ()
    """The calls in flight."""
    cleanups_done: list[tuple[_Call, Answer]] = field(default_factory=list)
    """Calls that were answered, and of which others are to be told."""
    is_at_server: bool = False
    """Their statement was sent, and may be committed at any moment."""
    is_silent: bool = False
    """It has not been answered for long, and the database cannot be asked about it."""

    def flush(self) -> None:
        """Nothing is in flight."""
        self.batch = ()
        for landed in self.in_flight:
            if not landed.done():
                landed.set_result(None)
        self.in_flight.clear()

    @property
    def is_stuck(self) -> bool:
        return self.worker is not None and (self.is_silent or not self.is_at_server)


class Batches:
    """All the lanes of one process."""

    def __init__(self, postgres: Postgres, wakeups: Wakeups, *, give_up_after_seconds: float = 30.0) -> None:
        self._postgres = postgres
        self._wakeups = wakeups
        self._give_up_after_seconds = give_up_after_seconds
        self._partitions: dict[tuple[Statement, int], _Partition] = {}
        self._closed = False
        self._sweeper: asyncio.TimerHandle | None = None
        self.losses: int = 0
        """How often a connection was lost while a batch was under way, so that it may have been committed."""
        self._loop = asyncio.get_running_loop()

    def call(
        self,
        statement: Statement,
        rows: Sequence[tuple[Any, ...]],
        *,
        partition: str | int,
        size: int = 0,
        wakes: Sequence[bytes] = (),
        retry_forever: bool = False,
        answered: Callable[[Answer], None] | None = None,
        news: Callable[[Answer], LocalUpdate | None] | None = None,
        handoff: Handoff | None = None,
        follower: Follower | None = None,
    ) -> asyncio.Future[Answer]:
        """Make one call of the statement. ``lane`` is the workflow that it is about, or the
        lane of the run that makes it; ``size`` is its weight in bytes.

        A ``patient`` call outlasts any outage of the database. ``answered`` is called with the answer even if the
        caller was cancelled meanwhile; ``news`` says what to tell those who are woken. A ``follower`` hears of every end
        that the call may have. A call that is cancelled before its batch left is not made.
        """
        if self._closed:
            raise LaunchError("This DBOS or DBOSClient was closed: launch or open one before using it.")
        give_up_at = float("inf") if retry_forever else self._loop.time() + self._give_up_after_seconds
        call = _Call(rows, size, wakes, give_up_at, answered, news, handoff, follower, self._loop)
        key = statement, hash(partition) % statement.parallelism
        found = self._partitions.get(key)
        if found is None:
            found = self._partitions[key] = _Partition(statement)
        found.waiting.append(call)
        if found.worker is None:
            # The worker starts in the next turn of the loop, so calls made in this turn go together.
            found.worker = self._loop.create_task(self._work(found), name=f"dbos_async batches of {statement.name}")
        return call

    async def flush(self, partition: str | int) -> None:
        """Wait until no batch that is in flight now can have a call of this lane in it any more."""
        in_flight: list[asyncio.Future[None]] = []
        for (statement, number), found in self._partitions.items():
            if number == hash(partition) % statement.parallelism and found.worker is not None:
                landed = self._loop.create_future()
                found.in_flight.append(landed)
                in_flight.append(landed)
        if in_flight:
            await asyncio.wait(in_flight)

    async def flush_handoff(self, handoff: Handoff) -> None:
        """Wait until the call that this rides with is neither waiting nor on its way."""
        while True:
            for partition in self._partitions.values():
                if any(call.handoff is handoff for calls in (partition.batch, partition.waiting) for call in calls):
                    break
            else:
                return
            landed = self._loop.create_future()
            partition.in_flight.append(landed)
            await landed

    async def close(self, *, within_seconds: float = 0.0) -> None:
        """Take no more calls, and end those that have not been answered in that time."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        workers = [partition.worker for partition in self._partitions.values() if partition.worker is not None]
        if workers:
            _, workers_left = await asyncio.wait(workers, timeout=within_seconds)
            for worker in workers_left:
                worker.cancel()
            if workers_left:
                await asyncio.wait(workers_left)

    async def _work(self, partition: _Partition) -> None:
        try:
            while partition.waiting:
                partition.batch = batch = _next_batch(partition.waiting)
                try:
                    await self._run(partition, batch)
                finally:
                    partition.flush()
                    for call in batch:
                        if not call.done():
                            call.fail(LaunchError("DBOS was shut down while this call was under way."))
                # Who was answered may call again in this turn of the loop, and then goes along with the next batch. That one
                # leaves before others are told, so the server has something to do while they do something.
                await asyncio.sleep(0)
                if partition.cleanups_done:
                    self._loop.call_soon(self._tell, partition.cleanups_done)
                    partition.cleanups_done = []
        finally:
            partition.worker = None
            partition.flush()
            self._tell(partition.cleanups_done)
            if self._closed:
                for call in partition.waiting:
                    call.fail(LaunchError("DBOS was shut down while this call was waiting."))

    async def _run(self, partition: _Partition, batch: list[_Call]) -> None:
        """Bring one batch to its end: every call is answered, fails by its own fault, or has waited long enough."""
        repeats = losses = 0
        warn_at = 0.0
        sql = partition.statement.sql_if_new or partition.statement.sql
        # A statement that was cut off for its silence gets more time, in case it is only slow.
        while batch:
            probe_after_seconds = AFTER_SECONDS * 2 ** min(losses, 5)
            try:
                async with self._postgres.connection(
                    probe_after_seconds=probe_after_seconds, on_probe=functools.partial(self._on_probe, partition)
                ) as connection:
                    # Who has given up or left meanwhile was told that nothing was done, or does not mind. A call whose
                    # answer matters to more than its caller is brought to its end even if the caller left.
                    batch = [c for c in batch if not c.done() or (c.cancelled() and c.was_sent and c.concerns_others)]
                    if not batch:
                        return
                    partition.is_at_server = True
                    if len(batch) == 1 and len(batch[0].rows) == 1:
                        records = await connection.fetch(sql.one_row, 0, *batch[0].rows[0])
                    else:
                        records = await connection.fetch(sql.batch, *_columns(batch))
            except REPEATABLE as error:
                sql = partition.statement.sql
                repeats += 1
                if repeats > MAX_RETRIES:
                    return await self._split(partition, batch, error)
                await asyncio.sleep(random.uniform(0, 0.002 * repeats))
            except Exception as error:
                repeats += 1
                too_much = isinstance(error, TOO_MUCH) and repeats > MAX_STATEMENT_CANCELS and len(batch) > 1
                if too_much or not is_lost(error):
                    return await self._split(partition, batch, error)
                if warn_at <= self._loop.time():
                    warn_at = self._loop.time() + WARN_EVERY_SECONDS
                    kind = type(error).__name__
                    log.warning("The database is away (%s: %s): calls wait and are repeated.", kind, reason_of(error))
                if partition.is_at_server and not is_refused(error):
                    sql = partition.statement.sql
                    losses += 1
                    self.losses += 1
                    for call in batch:
                        call.was_sent = True
                        if call.handoff is not None:
                            call.rows = call.handoff.rows_alone
                partition.is_at_server = False
                self._give_up(reason_of(error))
                await asyncio.sleep(min(0.02 * 2 ** min(repeats, 6), 1.0) * random.uniform(0.5, 1.0))
            else:
                return self._answer(partition, batch, records)
            finally:
                partition.is_at_server = partition.is_silent = False

    def _on_probe(self, partition: _Partition, silence: BaseException | None) -> None:
        partition.is_silent = silence is not None
        if silence is not None:
            self._give_up(reason_of(silence))

    def _give_up(self, reason: str) -> None:
        """Fail the calls that have waited long enough, now and for as long as any lane is stuck."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        now = self._loop.time()
        stuck = [partition for partition in self._partitions.values() if partition.is_stuck]
        for partition in stuck:
            for calls, is_at_server in ((partition.batch, partition.is_at_server), (partition.waiting, False)):
                for call in calls:
                    if call.give_up_at <= now:
                        may_have_committed = call.was_sent or is_at_server
                        call.fail(DatabaseUnavailableError(self._give_up_after_seconds, may_have_committed, reason))
            partition.waiting = deque(call for call in partition.waiting if not call.done())
        self._sweeper = self._loop.call_later(SWEEP_EVERY_SECONDS, self._give_up, reason) if stuck else None

    async def _split(self, partition: _Partition, batch: list[_Call], error: Exception) -> None:
        if len(batch) == 1:
            return batch[0].fail(error)
        middle = len(batch) // 2
        await self._run(partition, batch[:middle])
        await self._run(partition, batch[middle:])

    def _answer(self, partition: _Partition, batch: list[_Call], records: list[asyncpg.Record]) -> None:
        answers: list[Answer] = [[] for _ in batch]
        for record in records:
            answers[record[0]].append(record)
        for call, answer in zip(batch, answers, strict=True):
            try:
                if call.settle(answer) and self._wakeups.has_waiters(call.wakes):
                    partition.cleanups_done.append((call, answer))
            except Exception as error:
                log.exception("An answer could not be handled.")
                call.fail(error)
        if len(batch) == 1:
            self._tell(partition.cleanups_done)

    def _tell(self, cleanups_done: list[tuple[_Call, Answer]]) -> None:
        for call, answer in cleanups_done:
            try:
                call.tell(answer, self._wakeups)
            except Exception:
                log.exception("An answer could not be told.")
        cleanups_done.clear()


def _next_batch(waiting: deque[_Call]) -> list[_Call]:
    batch: list[_Call] = []
    size = rows = 0
    while waiting and len(batch) < MAX_CALLS:
        call = waiting[0]
        if call.done():
            waiting.popleft()
            continue
        size += call.size
        rows += len(call.rows)
        if batch and (size > MAX_BYTES or rows > MAX_CALLS):
            break
        batch.append(waiting.popleft())
    return batch


def _columns(batch: list[_Call]) -> list[Sequence[Any]]:
    numbers: list[int] = []
    rows: list[tuple[Any, ...]] = []
    for number, call in enumerate(batch):
        rows.extend(call.rows)
        numbers.extend([number] * len(call.rows))
    # Short of elements is null as well, and nothing to write: an element costs the client a quarter of a microsecond.
    return [numbers, *[() if _is_null(column) else column for column in zip(*rows, strict=True)]]


def _is_null(column: tuple[Any, ...]) -> bool:
    return column[0] is None and column.count(None) == len(column)
