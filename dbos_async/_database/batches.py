"""Concurrent calls of one statement share a batch, and one batch is one execution of the statement in one transaction.

While a batch is at the server, later calls gather for the next one; a lone call leaves at once. A partition has at most one
batch in flight, so its calls keep their order. A call that fails by itself harms no other call: a deadlock repeats the batch,
and any other error splits it. A call whose value is at fault fails, once it stands alone. The calls of a piece that the server
refuses now, or that meets a lock of another transaction, are set aside (`aside.py`).
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final

import asyncpg

from dbos_async._database.aside import Aside, SetAside
from dbos_async._database.calls import Call, Observer, Result, Row
from dbos_async._database.connections import Postgres
from dbos_async._database.flights import Flight, pieces
from dbos_async._database.outages import Meaning, backoff_seconds
from dbos_async._database.sending import OnBatch, Sending
from dbos_async._database.statement import Statement
from dbos_async._database.time_limits import TimeLimits
from dbos_async._database.urls import reason_of
from dbos_async._database.wakeups import Wakeups
from dbos_async.errors import InvalidValueError, LaunchError

log = logging.getLogger("dbos_async")

MAX_CALLS: Final = 500
MAX_BYTES: Final = 1 << 20

MAX_REFUSALS: Final = 2
"""So often a batch is refused as a whole, before it is split."""

MAX_SET_ASIDE_IN_A_ROW: Final = 3
"""If so many pieces of a batch are refused one after the other, probably all are. The rest stays together."""

RECENT_SECONDS: Final = 60.0


@dataclass(slots=True, eq=False)
class _Partition:
    """The calls of one statement that follow each other."""

    statement: Statement
    waiting: deque[Call] = field(default_factory=deque)
    worker: asyncio.Task[None] | None = None
    flight: Flight | None = None
    """What is under way."""


class Batches:
    """The partitions of one process."""

    def __init__(
        self,
        postgres: Postgres,
        wakeups: Wakeups,
        *,
        give_up_after_seconds: float = 30.0,
        on_batch: OnBatch | None = None,
    ) -> None:
        self._wakeups = wakeups
        self._partitions: dict[tuple[Statement, int], _Partition] = {}
        self._flights: set[Flight] = set()
        self._closed = False
        self.has_calls_left: bool = False
        """Whether calls were given up at the end that the server may still commit."""
        self._loop = asyncio.get_running_loop()
        self._aside = Aside(self._loop, self._attempt_alone)
        self.limits: Final = TimeLimits(
            self._loop, postgres.loop_watch, give_up_after_seconds, self._pending, postgres.names
        )
        self._sending = Sending(self._loop, postgres, self.limits, on_batch)

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
            self.limits.begin(call)
        if self._aside.partitions and self._aside.has(call):
            self._aside.add(call)
            return call
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

    @property
    def losses(self) -> int:
        """How often a connection was lost while a batch was at the server, so that it may have been committed."""
        return self._sending.losses

    def refusals(self) -> dict[Statement, str]:
        """The statements of which the server refuses a call again and again, or keeps it waiting, and why."""
        return self._aside.refusals()

    def is_slow(self, seconds: float) -> bool:
        """Whether a batch has waited for the database longer than this, or a call was set aside in the last minute."""
        now = self._loop.time()
        return any(flight.began < now - seconds for flight in self._flights) or any(
            one.since > now - RECENT_SECONDS for one in self._aside.all
        )

    async def flush(self, partition: str | int) -> None:
        """Wait until no batch that is in flight now can have a call of this partition in it any more."""
        flights = [each for each in self._flights if any(call.partition == partition for call in each.calls)]
        if flights:
            await asyncio.wait([flight.landed(self._loop) for flight in flights])

    async def close(self, *, within_seconds: float = 0.0) -> None:
        """Accept no more calls, and fail those that have no result after this time."""
        self._closed = True
        self.limits.close()
        _, left = await asyncio.gather(
            self._close_partitions(within_seconds), self._aside.close(within_seconds=within_seconds)
        )
        for call in left:
            call.fail(LaunchError("DBOS was shut down while this call was waiting."))

    async def _close_partitions(self, within_seconds: float) -> None:
        workers = [each.worker for each in self._partitions.values() if each.worker is not None]
        if workers:
            _, workers_left = await asyncio.wait(workers, timeout=within_seconds)
            for worker in workers_left:
                worker.cancel()
            if workers_left:
                await asyncio.wait(workers_left)

    async def _work(self, partition: _Partition) -> None:
        untold: list[tuple[Call, Result]] = []
        try:
            while partition.waiting:
                calls = _next_batch(partition.waiting)
                flight = partition.flight = Flight(partition.statement, calls, self._loop.time())
                untold = flight.untold
                self._flights.add(flight)
                try:
                    await self._run(flight)
                finally:
                    self._land(flight)
                # Callers of this batch run now, and their next calls join the next batch. Other waiters are woken once that has
                # been sent, so the server works while they run (decision 4).
                await asyncio.sleep(0)
                if untold:
                    self._loop.call_soon(self._wake_local_waiters, untold)
                    untold = []
        finally:
            partition.worker = None
            self._wake_local_waiters(untold)
            if self._closed:
                for call in partition.waiting:
                    call.fail(LaunchError("DBOS was shut down while this call was waiting."))

    def _land(self, flight: Flight) -> None:
        """The flight is over. Calls that are left have no result since DBOS is closed."""
        self._flights.discard(flight)
        self.has_calls_left |= bool(flight.calls) and bool(flight.at_server)
        for call in flight.calls:
            call.fail(LaunchError("DBOS was shut down while this call was under way."))
        flight.land()

    async def _run(self, flight: Flight) -> None:
        """Execute a batch until each of its calls has a result, has failed by its own fault, or was set aside."""
        while flight.calls:
            try:
                records = await self._sending.execute(flight, flight.calls)
            except Exception as error:
                meaning = self._sending.note_failure(flight, flight.calls, error)
                if meaning is Meaning.CONFLICT:
                    await asyncio.sleep(random.uniform(0, 0.002 * flight.failures))
                elif meaning is Meaning.LOST:
                    await asyncio.sleep(backoff_seconds(flight.failures))
                elif self._closed:
                    return
                elif meaning is Meaning.REFUSED and flight.failures < MAX_REFUSALS:
                    await asyncio.sleep(backoff_seconds(flight.failures))
                elif len(flight.calls) == 1:
                    self._end_alone(flight.calls.pop(), error, meaning)
                else:
                    await self._split(flight)
            else:
                self._resolve(flight, flight.calls, records)
                flight.calls = []

    async def _split(self, flight: Flight) -> None:
        """Execute the calls of a batch in smaller pieces. A piece that is refused, or meets a lock, is set aside call by call.

        Calls are left if the database is away, or seems to refuse every call.
        """
        queue = deque(pieces(flight.calls))
        set_aside_in_a_row = 0
        while queue and set_aside_in_a_row < MAX_SET_ASIDE_IN_A_ROW and not self._closed:
            piece = queue.popleft()
            try:
                records = await self._sending.execute(flight, piece, is_patient=False)
            except Exception as error:
                meaning = self._sending.note_failure(flight, piece, error)
                if meaning in (Meaning.LOST, Meaning.CONFLICT):
                    queue.append(piece)
                    break
                if meaning in (Meaning.VALUE, Meaning.FAULT) and len(piece) > 1:
                    queue.extendleft(reversed([*pieces(piece)]))
                    continue
                for call in piece:
                    self._end_alone(call, error, meaning)
                if meaning not in (Meaning.VALUE, Meaning.FAULT):
                    set_aside_in_a_row += meaning is Meaning.REFUSED
                    queue = deque(filter(None, map(self._without_set_aside, queue)))
            else:
                self._resolve(flight, piece, records)
                set_aside_in_a_row = 0
            flight.calls = [call for piece in queue for call in piece]
        flight.calls = [call for piece in queue for call in piece]
        if flight.calls:
            random.shuffle(flight.calls)  # so that no call that is refused keeps the others behind it for ever
            await asyncio.sleep(backoff_seconds(flight.failures))

    def _without_set_aside(self, piece: list[Call]) -> list[Call]:
        """The calls of a piece, without those that follow another call of their partition: these are set aside, too."""
        following = [call for call in piece if self._aside.has(call)]
        for call in following:
            self._aside.add(call)
        return [call for call in piece if call not in following] if following else piece

    def _end_alone(self, call: Call, error: Exception, meaning: Meaning) -> None:
        """Fail a call that is wrong by itself; set any other aside."""
        if meaning is Meaning.VALUE:
            refusal = InvalidValueError("A value of this call", f"the database refused it: {reason_of(error)}")
            refusal.__cause__ = error
            call.fail(refusal)
        elif meaning is Meaning.FAULT:
            call.fail(error)
        else:
            self._aside.add(call, reason_of(error))

    async def _attempt_alone(self, one: SetAside) -> str | None:
        """Execute a call that was set aside. Why it must be repeated later, if it must."""
        call = one.call
        flight = Flight(call.statement, [call], self._loop.time())
        flight.reason = one.reason
        self._flights.add(flight)
        try:
            while flight.calls:
                try:
                    records = await self._sending.execute(flight, flight.calls, is_patient=one.is_patient)
                except Exception as error:
                    meaning = self._sending.note_failure(flight, flight.calls, error)
                    if meaning is Meaning.CONFLICT:
                        continue
                    if self._closed:
                        break
                    flight.calls = []
                    one.is_locked = meaning is Meaning.LOCKED
                    if meaning in (Meaning.VALUE, Meaning.FAULT):
                        self._end_alone(call, error, meaning)
                        return None
                    return reason_of(error)
                else:
                    self._resolve(flight, flight.calls, records)
                    flight.calls = []
            return None
        finally:
            self._land(flight)

    def _pending(self) -> Iterator[tuple[Call, float, str]]:
        """All calls without a result, when they were sent, and why they have none."""
        for flight in self._flights:
            at_server = {*map(id, flight.at_server)}
            for call in flight.calls:
                yield call, flight.sent_at if id(call) in at_server else -inf, flight.reason
        for partition in self._partitions.values():
            if partition.waiting and partition.waiting[0].done():
                partition.waiting = deque(call for call in partition.waiting if not call.done())
            reason = "" if partition.flight is None else partition.flight.reason
            for call in partition.waiting:
                yield call, -inf, reason
        under_way = {id(call) for flight in self._flights for call in flight.calls}
        for one in self._aside.all:
            if id(one.call) not in under_way:
                yield one.call, -inf, one.reason

    def _resolve(self, flight: Flight, calls: list[Call], records: list[asyncpg.Record]) -> None:
        results: list[Result] = [[] for _ in calls]
        for record in records:
            results[record[0]].append(record)
        for call, result in zip(calls, results, strict=True):
            try:
                call.resolve(result)
                if call.wakes and self._wakeups.has_waiters(call.wakes):
                    flight.untold.append((call, result))
            except Exception:
                log.exception("The result of %s could not be handled.", call.statement.name)
        if len(calls) == 1:
            self._wake_local_waiters(flight.untold)

    def _wake_local_waiters(self, untold: list[tuple[Call, Result]]) -> None:
        for call, result in untold:
            try:
                call.wake_local_waiters(result, self._wakeups)
            except Exception:
                log.exception("The waiters for %s could not be woken.", call.statement.name)
        untold.clear()


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
