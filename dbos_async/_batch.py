"""Concurrent calls of one statement ride in one batch, and one batch is one statement is one transaction.

While a batch is at the server, later calls gather and go together next; a lone call goes at once.
Of one lane at most one batch is in flight, so calls of one lane keep their order.
A call that fails by itself harms no other: deadlocks repeat the batch, bad data splits it until the guilty call stands alone.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from dbos_async._postgres import REPEATABLE, Postgres, is_lost
from dbos_async._wakeups import Wakeups
from dbos_async.errors import DatabaseUnavailableError, LaunchError

log = logging.getLogger("dbos_async")

MOST_CALLS = 500
MOST_BYTES = 1 << 20
MOST_REPEATS = 20

Answer = list[asyncpg.Record]


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """SQL over a set of calls: ``$1`` is each row's call number, the other parameters are the columns of its rows.

    Every row of the answer begins with the number of the call that it answers.
    """

    name: str
    sql: str
    lanes: int = 2


@dataclass(slots=True, eq=False)
class _Call:
    rows: Sequence[tuple[Any, ...]]
    size: int
    wakes: Sequence[bytes]
    give_up_at: float
    answered: Callable[[Answer], None] | None
    future: asyncio.Future[Answer]
    was_sent: bool = False

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def settle(self, answer: Answer, wakeups: Wakeups) -> None:
        # What follows from a commit happens here and not in the caller, who may have been cancelled meanwhile.
        for key in self.wakes:
            wakeups.wake(key)
        if self.answered is not None:
            self.answered(answer)
        if not self.future.done():
            self.future.set_result(answer)


@dataclass(slots=True, eq=False)
class _Lane:
    statement: Statement
    waiting: deque[_Call] = field(default_factory=deque)
    worker: asyncio.Task[None] | None = None
    landings: list[asyncio.Future[None]] = field(default_factory=list)
    """Whom to tell when the batch in flight has landed."""


class Batches:
    """All the lanes of one process."""

    def __init__(self, postgres: Postgres, wakeups: Wakeups, *, patience_seconds: float = 30.0) -> None:
        self._postgres = postgres
        self._wakeups = wakeups
        self._patience_seconds = patience_seconds
        self._lanes: dict[tuple[Statement, int], _Lane] = {}
        self._closed = False
        self.losses = 0
        """How often a connection was lost while a batch was under way, so that it may have been committed."""
        self._loop = asyncio.get_running_loop()

    def call(
        self,
        statement: Statement,
        rows: Sequence[tuple[Any, ...]],
        *,
        lane: str,
        size: int = 0,
        wakes: Sequence[bytes] = (),
        patient: bool = False,
        answered: Callable[[Answer], None] | None = None,
    ) -> asyncio.Future[Answer]:
        """Make one call of the statement. ``lane`` is the workflow it is about; ``size`` its weight in bytes.

        A ``patient`` call outlasts any outage of the database. ``answered`` is called with the answer even if the
        caller was cancelled meanwhile. A call that is cancelled before its batch left is not made.
        """
        if self._closed:
            raise LaunchError("This DBOS or DBOSClient was closed: launch or open one before using it.")
        give_up_at = float("inf") if patient else self._loop.time() + self._patience_seconds
        call = _Call(rows, size, wakes, give_up_at, answered, self._loop.create_future())
        key = statement, hash(lane) % statement.lanes
        its_lane = self._lanes.get(key)
        if its_lane is None:
            its_lane = self._lanes[key] = _Lane(statement)
        its_lane.waiting.append(call)
        if its_lane.worker is None:
            # The worker starts in the next turn of the loop, so calls made in this turn go together.
            its_lane.worker = self._loop.create_task(
                self._work(its_lane), name=f"dbos_async batches of {statement.name}"
            )
        return call.future

    async def land(self, lane: str) -> None:
        """Wait until no batch that is in flight now can have a call of this lane in it any more."""
        landings: list[asyncio.Future[None]] = []
        for (statement, number), its_lane in self._lanes.items():
            if number == hash(lane) % statement.lanes and its_lane.worker is not None:
                landing = self._loop.create_future()
                its_lane.landings.append(landing)
                landings.append(landing)
        if landings:
            await asyncio.wait(landings)

    async def close(self, *, within_seconds: float = 0.0) -> None:
        """Take no more calls, and end those that have not been answered in that time."""
        self._closed = True
        workers = [lane.worker for lane in self._lanes.values() if lane.worker is not None]
        if workers:
            _, workers_left = await asyncio.wait(workers, timeout=within_seconds)
            for worker in workers_left:
                worker.cancel()
            if workers_left:
                await asyncio.wait(workers_left)

    async def _work(self, lane: _Lane) -> None:
        try:
            while lane.waiting:
                batch = _next_batch(lane.waiting)
                try:
                    await self._run(lane.statement, batch)
                finally:
                    for landing in lane.landings:
                        if not landing.done():
                            landing.set_result(None)
                    lane.landings.clear()
                    for call in batch:
                        if not call.future.done():
                            call.fail(LaunchError("DBOS was shut down while this call was under way."))
        finally:
            lane.worker = None
            if self._closed:
                for call in lane.waiting:
                    call.fail(LaunchError("DBOS was shut down while this call was waiting."))

    async def _run(self, statement: Statement, batch: list[_Call]) -> None:
        """Bring one batch to its end: every call is answered, fails by its own fault, or has waited long enough."""
        repeats = 0
        lost_since: float | None = None
        while batch:
            on_its_way = False
            try:
                async with self._postgres.connection() as connection:
                    on_its_way = True
                    records = await connection.fetch(statement.sql, *_columns(batch))
            except REPEATABLE as error:
                repeats += 1
                if repeats > MOST_REPEATS:
                    return await self._split(statement, batch, error)
                await asyncio.sleep(random.uniform(0, 0.002 * repeats))
            except Exception as error:
                if not is_lost(error):
                    return await self._split(statement, batch, error)
                now = self._loop.time()
                if lost_since is None:
                    lost_since = now
                    log.warning("The database is away (%s): calls wait and are repeated.", type(error).__name__)
                self.losses += on_its_way
                for call in batch:
                    call.was_sent |= on_its_way
                    if call.give_up_at <= now:
                        call.fail(DatabaseUnavailableError(self._patience_seconds, call.was_sent, str(error)))
                # A call whose answer matters to more than its caller is brought to its end even if the caller left.
                batch = [
                    c for c in batch if not c.future.done() or (c.future.cancelled() and c.answered and c.was_sent)
                ]
                repeats += 1
                await asyncio.sleep(min(0.02 * 2 ** min(repeats, 6), 1.0) * random.uniform(0.5, 1.0))
            else:
                return self._answer(batch, records)

    async def _split(self, statement: Statement, batch: list[_Call], error: Exception) -> None:
        if len(batch) == 1:
            return batch[0].fail(error)
        middle = len(batch) // 2
        await self._run(statement, batch[:middle])
        await self._run(statement, batch[middle:])

    def _answer(self, batch: list[_Call], records: list[asyncpg.Record]) -> None:
        answers: list[Answer] = [[] for _ in batch]
        for record in records:
            answers[record[0]].append(record)
        for call, answer in zip(batch, answers, strict=True):
            try:
                call.settle(answer, self._wakeups)
            except Exception as error:
                log.exception("An answer could not be handled.")
                call.fail(error)


def _next_batch(waiting: deque[_Call]) -> list[_Call]:
    batch: list[_Call] = []
    size = rows = 0
    while waiting and len(batch) < MOST_CALLS:
        call = waiting[0]
        if call.future.done():
            waiting.popleft()
            continue
        size += call.size
        rows += len(call.rows)
        if batch and (size > MOST_BYTES or rows > MOST_CALLS):
            break
        batch.append(waiting.popleft())
    return batch


def _columns(batch: list[_Call]) -> list[Sequence[Any]]:
    numbers: list[int] = []
    rows: list[tuple[Any, ...]] = []
    for number, call in enumerate(batch):
        rows.extend(call.rows)
        numbers.extend([number] * len(call.rows))
    return [numbers, *zip(*rows, strict=True)]
