"""Concurrent calls of one statement share a batch, and one batch is one execution of the statement in one transaction.

While a batch is at the server, later calls gather for the next one; a lone call leaves at once. A partition has at most one
batch in flight, so its calls keep their order. A call that fails by itself harms no other call: a deadlock repeats the batch,
and an error that concerns data splits it until the call at fault stands alone.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import itertools
import logging
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import asyncpg

from dbos_async._database.calls import Call, Observer, Result, Row, batch_columns
from dbos_async._database.connections import Postgres
from dbos_async._database.outages import RETRYABLE, backoff_seconds, is_lost, is_refused
from dbos_async._database.probe import AFTER_SECONDS
from dbos_async._database.statement import Sql, Statement
from dbos_async._database.urls import reason_of
from dbos_async._database.wakeups import Wakeups
from dbos_async.errors import DatabaseUnavailableError, LaunchError

log = logging.getLogger("dbos_async")

MAX_CALLS = 500
MAX_BYTES = 1 << 20
MAX_RETRIES = 20
MAX_STATEMENT_CANCELS = 2
SWEEP_EVERY_SECONDS = 0.25
WARN_EVERY_SECONDS = 60.0

TOO_LARGE_A_BATCH = (asyncpg.QueryCanceledError, asyncpg.OutOfMemoryError)
"""A batch may be too much for a statement_timeout or for the memory where its calls one by one are not."""


@dataclass(slots=True, eq=False)
class _Partition:
    """The calls of one statement that follow each other."""

    statement: Statement
    waiting: deque[Call] = field(default_factory=deque)
    worker: asyncio.Task[None] | None = None
    batch: Sequence[Call] = ()
    """The calls in flight."""
    began: float = 0.0
    """Since when they are, by the time of the loop."""
    flushes: list[asyncio.Future[None]] = field(default_factory=list)
    """Resolved when nothing is in flight any more."""
    untold: list[tuple[Call, Result]] = field(default_factory=list)
    """Resolved calls that the waiters of this process are not woken for yet."""
    is_at_server: bool = False
    """The statement was sent, and may be committed at any moment."""
    is_silent: bool = False
    """The statement takes long, and the database cannot be asked about it."""

    def land(self) -> None:
        """Nothing is in flight any more."""
        self.batch = ()
        for flush in self.flushes:
            if not flush.done():
                flush.set_result(None)
        self.flushes.clear()

    @property
    def is_stuck(self) -> bool:
        return self.worker is not None and (self.is_silent or not self.is_at_server)


@dataclass(slots=True)
class _Attempts:
    """How often a batch was tried, and what is executed next."""

    sql: Sql
    failures: int = 0
    losses: int = 0
    warn_at: float = 0.0


class Batches:
    """The partitions of one process."""

    def __init__(self, postgres: Postgres, wakeups: Wakeups, *, give_up_after_seconds: float = 30.0) -> None:
        self._postgres = postgres
        self._wakeups = wakeups
        self._give_up_after_seconds = give_up_after_seconds
        self._partitions: dict[tuple[Statement, int], _Partition] = {}
        self._closed = False
        self._sweeper: asyncio.TimerHandle | None = None
        self._departures = itertools.count(1)
        self.losses: int = 0
        """How often a connection was lost while a batch was at the server, so that it may have been committed."""
        self._loop = asyncio.get_running_loop()

    def call(
        self,
        statement: Statement,
        rows: Sequence[Row],
        *,
        partition: str | int,
        size: int = 0,
        wakes: Sequence[bytes] = (),
        retry_forever: bool = False,
        observer: Observer | None = None,
    ) -> Call:
        """Execute a statement with these rows; see `Call`."""
        return self.execute(Call(statement, rows, partition, size, wakes, observer, retry_forever=retry_forever))

    def execute(self, call: Call) -> Call:
        """Put a call into the next batch of its partition. A call that is cancelled before its batch leaves is not executed."""
        if self._closed:
            raise LaunchError("This DBOS or DBOSClient was closed: launch or open one before using it.")
        if not call.retry_forever:
            call.give_up_at = self._loop.time() + self._give_up_after_seconds
        statement = call.statement
        key = statement, hash(call.partition) % statement.parallelism
        partition = self._partitions.get(key)
        if partition is None:
            partition = self._partitions[key] = _Partition(statement)
        partition.waiting.append(call)
        if partition.worker is None:
            # The worker starts in the next turn of the loop, so calls made in this turn share its first batch.
            name = f"dbos_async batches of {statement.name}"
            context = contextvars.Context()  # the worker belongs to no run, and serves many
            partition.worker = self._loop.create_task(self._work(partition), name=name, context=context)
        return call

    def is_slow(self, seconds: float) -> bool:
        """Whether a batch has waited for the database longer than this."""
        since = self._loop.time() - seconds
        return any(partition.batch and partition.began < since for partition in self._partitions.values())

    async def flush(self, partition: str | int) -> None:
        """Wait until no batch that is in flight now can have a call of this partition in it any more."""
        flushes: list[asyncio.Future[None]] = []
        for (statement, number), each in self._partitions.items():
            if number == hash(partition) % statement.parallelism and each.worker is not None:
                flush = self._loop.create_future()
                each.flushes.append(flush)
                flushes.append(flush)
        if flushes:
            await asyncio.wait(flushes)

    async def close(self, *, within_seconds: float = 0.0) -> None:
        """Accept no more calls, and fail those that have no result after this time."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        workers = [each.worker for each in self._partitions.values() if each.worker is not None]
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
                partition.began = self._loop.time()
                try:
                    await self._run(partition, batch)
                finally:
                    partition.land()
                    for call in batch:
                        call.fail(LaunchError("DBOS was shut down while this call was under way."))
                # Callers of this batch run now, and their next calls join the next batch. Other waiters are woken once that has
                # been sent, so the server works while they run (decision 4).
                await asyncio.sleep(0)
                if partition.untold:
                    self._loop.call_soon(self._wake_local_waiters, partition.untold)
                    partition.untold = []
        finally:
            partition.worker = None
            partition.land()
            self._wake_local_waiters(partition.untold)
            if self._closed:
                for call in partition.waiting:
                    call.fail(LaunchError("DBOS was shut down while this call was waiting."))

    async def _run(self, partition: _Partition, batch: list[Call]) -> None:
        """Bring one batch to its end: each call has a result, fails by its own fault, or has waited long enough."""
        statement = partition.statement
        attempts = _Attempts(statement.sql_if_new or statement.sql)
        while batch:
            try:
                records = await self._execute(partition, batch, attempts)
            except Exception as error:
                attempts.failures += 1
                if _concerns_one_call(error, attempts, batch):
                    return await self._split(partition, batch, error)
                if isinstance(error, RETRYABLE):
                    attempts.sql = statement.sql
                    pause = random.uniform(0, 0.002 * attempts.failures)
                else:
                    self._note_outage(partition, batch, attempts, error)
                    pause = backoff_seconds(attempts.failures)
                partition.is_at_server = False
                await asyncio.sleep(pause)
            else:
                return self._resolve(partition, batch, records)
            finally:
                partition.is_at_server = partition.is_silent = False

    async def _execute(self, partition: _Partition, batch: list[Call], attempts: _Attempts) -> list[asyncpg.Record]:
        # A statement that was cut off because it was silent gets more time, in case it is only slow.
        probe_after_seconds = AFTER_SECONDS * 2 ** min(attempts.losses, 5)
        on_probe = functools.partial(self._on_probe, partition)
        async with self._postgres.acquire(probe_after_seconds=probe_after_seconds, on_probe=on_probe) as connection:
            # Calls whose callers timed out or were cancelled while a connection was waited for are dropped.
            batch[:] = [call for call in batch if not call.done() or call.must_finish]
            if not batch:
                return []
            partition.is_at_server = True
            is_ordered = partition.statement.is_ordered
            if is_ordered:
                self._depart(batch)
            if len(batch) == 1 and len(batch[0].rows) == 1:
                order = batch[0].order_columns if is_ordered else ()
                return await connection.fetch(attempts.sql.one_row, 0, *batch[0].rows[0], *order)
            return await connection.fetch(attempts.sql.batch, *batch_columns(batch, is_ordered=is_ordered))

    def _depart(self, batch: list[Call]) -> None:
        """Tell the calls that they leave together: those of one run share a place in its order."""
        departure = next(self._departures)
        for call in batch:
            if call.ticket is not None:
                call.ticket.depart(departure)
            if call.observer is not None:
                call.observer.on_departure(call, departure)

    def _note_outage(self, partition: _Partition, batch: list[Call], attempts: _Attempts, error: Exception) -> None:
        if attempts.warn_at <= self._loop.time():
            attempts.warn_at = self._loop.time() + WARN_EVERY_SECONDS
            kind, reason = type(error).__name__, reason_of(error)
            log.warning("The database is unavailable (%s: %s): calls wait and are repeated.", kind, reason)
        if partition.is_at_server and not is_refused(error):
            attempts.sql = partition.statement.sql
            attempts.losses += 1
            self.losses += 1
            for call in batch:
                call.lose_result()
        partition.is_at_server = False
        self._give_up(reason_of(error))

    def _on_probe(self, partition: _Partition, silence: BaseException | None) -> None:
        partition.is_silent = silence is not None
        if silence is not None:
            self._give_up(reason_of(silence))

    def _give_up(self, reason: str) -> None:
        """Fail the calls that have waited long enough, now and for as long as any partition is stuck."""
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

    async def _split(self, partition: _Partition, batch: list[Call], error: Exception) -> None:
        if len(batch) == 1:
            return batch[0].fail(error)
        middle = len(batch) // 2
        await self._run(partition, batch[:middle])
        await self._run(partition, batch[middle:])

    def _resolve(self, partition: _Partition, batch: list[Call], records: list[asyncpg.Record]) -> None:
        results: list[Result] = [[] for _ in batch]
        for record in records:
            results[record[0]].append(record)
        for call, result in zip(batch, results, strict=True):
            try:
                call.resolve(result)
                if call.wakes and self._wakeups.has_waiters(call.wakes):
                    partition.untold.append((call, result))
            except Exception:
                log.exception("The result of %s could not be handled.", call.statement.name)
        if len(batch) == 1:
            self._wake_local_waiters(partition.untold)

    def _wake_local_waiters(self, untold: list[tuple[Call, Result]]) -> None:
        for call, result in untold:
            try:
                call.wake_local_waiters(result, self._wakeups)
            except Exception:
                log.exception("The waiters for %s could not be woken.", call.statement.name)
        untold.clear()


def _concerns_one_call(error: Exception, attempts: _Attempts, batch: list[Call]) -> bool:
    """Whether the batch is split: to find the call at fault, or since it is too large as one."""
    if isinstance(error, RETRYABLE):
        return attempts.failures > MAX_RETRIES
    if isinstance(error, TOO_LARGE_A_BATCH) and attempts.failures > MAX_STATEMENT_CANCELS and len(batch) > 1:
        return True
    return not is_lost(error)


def _next_batch(waiting: deque[Call]) -> list[Call]:
    batch: list[Call] = []
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
