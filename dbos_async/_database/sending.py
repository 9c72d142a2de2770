"""Sends the calls of a flight to the server, and notes what it means when that fails."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
from collections.abc import Callable
from typing import Final

import asyncpg

from dbos_async._database.calls import Call, batch_columns
from dbos_async._database.connection_kinds import LOCK_TIMEOUT, OwnConnection
from dbos_async._database.connections import Postgres
from dbos_async._database.flights import Flight
from dbos_async._database.outages import Meaning, is_usable_after, meaning_of
from dbos_async._database.probe import AFTER_SECONDS
from dbos_async._database.time_limits import TimeLimits
from dbos_async._database.urls import reason_of

log = logging.getLogger("dbos_async")

IMPATIENT_LOCK_TIMEOUT: Final = "20ms"

MAX_CONFLICTS: Final = 20
"""So often a batch is repeated because others changed the same rows. After that it counts as refused."""

WARN_EVERY_SECONDS: Final = 60.0

LOCKED: Final = "another transaction holds a lock that the call needs"

OnBatch = Callable[[str, int, float], None]
"""Is told of each batch: the name of the statement, how many calls it had, and how many seconds the server took."""


class Sending:
    """What all batches of one process share on their way to the server."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, postgres: Postgres, limits: TimeLimits, on_batch: OnBatch | None = None
    ) -> None:
        self._loop, self._postgres, self._limits, self._on_batch = loop, postgres, limits, on_batch
        self._departures = itertools.count(1)
        self._warn_at: dict[Meaning, float] = {}
        self.losses: int = 0
        """How often a connection was lost while a batch was at the server, so that it may have been committed."""

    async def execute(self, flight: Flight, calls: list[Call], *, is_patient: bool = True) -> list[asyncpg.Record]:
        """Execute the statement for these calls of a flight, without those whose callers have left.

        If it ``is_patient`` it waits half a second for a lock, else only as long as other batches hold theirs.
        """
        # A statement that was cut off because it was silent gets more time, in case it is only slow.
        probe_after_seconds = AFTER_SECONDS * 2 ** min(flight.losses, 5)
        flight.at_server = ()
        on_probe = functools.partial(self._on_probe, flight)
        async with self._postgres.acquire(probe_after_seconds=probe_after_seconds, on_probe=on_probe) as connection:
            # Calls whose callers timed out or were cancelled while a connection was waited for are dropped.
            calls[:] = [call for call in calls if not call.done() or call.must_finish]
            if not calls:
                return []
            if is_patient:
                records = await self._fetch(connection, flight, calls)
            else:
                records = await self._fetch_impatiently(connection, flight, calls)
        if self._postgres.outage_log.is_open:
            self._postgres.outage_log.end()
        if self._on_batch is not None:
            self._on_batch(flight.statement.name, len(calls), self._loop.time() - flight.sent_at)
        return records

    async def _fetch_impatiently(
        self, connection: OwnConnection, flight: Flight, calls: list[Call]
    ) -> list[asyncpg.Record]:
        await connection.set_lock_timeout(IMPATIENT_LOCK_TIMEOUT)
        try:
            records = await self._fetch(connection, flight, calls)
        except Exception as error:
            if is_usable_after(error):
                await connection.set_lock_timeout(LOCK_TIMEOUT)
            raise
        await connection.set_lock_timeout(LOCK_TIMEOUT)
        return records

    async def _fetch(self, connection: OwnConnection, flight: Flight, calls: list[Call]) -> list[asyncpg.Record]:
        flight.at_server, flight.sent_at = calls, self._loop.time()
        is_ordered = flight.statement.is_ordered
        if is_ordered:
            self._depart(calls)
        if len(calls) == 1 and len(calls[0].rows) == 1:
            row, statement = calls[0].rows[0], flight.statement
            order = calls[0].order_columns if is_ordered else ()
            records: list[asyncpg.Record] = []
            usual = statement.sql_if_usual if flight.sql is statement.sql_if_new else None
            if usual is not None and statement.is_usual is not None and statement.is_usual(row):
                records = await connection.fetch(usual, 0, *row, *order)
            if not records:
                records = await connection.fetch(flight.sql.one_row, 0, *row, *order)
        else:
            records = await connection.fetch(flight.sql.batch, *batch_columns(calls, is_ordered=is_ordered))
        return records

    def _depart(self, calls: list[Call]) -> None:
        """Tell the calls that they leave together: those of one run share a place in its order."""
        departure = next(self._departures)
        for call in calls:
            if call.ticket is not None:
                call.ticket.depart(departure)
            if call.observer is not None:
                call.observer.on_departure(call, departure)

    def note_failure(self, flight: Flight, calls: list[Call], error: Exception) -> Meaning:
        """Note that these calls of a flight have failed together; what that means for them."""
        flight.failures += 1
        meaning = meaning_of(error)
        if meaning in (Meaning.CONFLICT, Meaning.LOST):
            flight.sql = flight.statement.sql
        if meaning is Meaning.CONFLICT:
            flight.conflicts += 1
            if flight.conflicts > MAX_CONFLICTS:
                meaning = Meaning.REFUSED
        if meaning is Meaning.LOST and flight.at_server:
            flight.losses += 1
            self.losses += 1
            for call in calls:
                call.lose_result()
        flight.at_server = ()
        if meaning in (Meaning.LOST, Meaning.REFUSED, Meaning.LOCKED):
            flight.reason = reason_of(error) + (f": {LOCKED}" if meaning is Meaning.LOCKED else "")
            if self._limits.end_if_forbidden and isinstance(error, asyncpg.InsufficientPrivilegeError):
                self._limits.fail_forbidden(calls, flight.reason)
                return meaning
            self._limits.fail_late(calls, flight.reason)
            self._warn(flight, error, meaning)
        return meaning

    def _warn(self, flight: Flight, error: Exception, meaning: Meaning) -> None:
        now = self._loop.time()
        if (
            now < self._warn_at.get(meaning, now)
            or meaning is Meaning.LOCKED
            or self._postgres.loop_watch.was_blocked()
        ):
            return
        self._warn_at[meaning] = now + WARN_EVERY_SECONDS
        kind, reason = type(error).__name__, reason_of(error)
        if meaning is Meaning.LOST:
            self._postgres.outage_log.begin()
            log.warning("The database is unavailable (%s: %s): calls wait and are repeated.", kind, reason)
        else:
            name = flight.statement.name
            log.warning("The database refuses %s (%s: %s): calls wait and are repeated.", name, kind, reason)

    def _on_probe(self, flight: Flight, silence: Exception | None) -> None:
        if silence is not None:
            flight.reason = reason_of(silence)
            self._warn(flight, silence, Meaning.LOST)  # the statement itself may fail much later
