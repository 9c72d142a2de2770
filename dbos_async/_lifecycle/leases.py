"""Leases: how executors show that they are alive, and what happens to the workflows of those that are not.

A thread of its own renews the lease of a launched executor (`lease_thread.py`). Each executor observes the others. One that has
expired (`expiry.py`) is removed, and workflows whose owner is no executor are freed again and again, so that live executors claim
them: also those that the owner's calls in flight make later, and those whose rows somebody had locked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

import asyncpg

from dbos_async._database.change_keys import UNOWNED_KEY
from dbos_async._database.denied import LIVENESS, LOCKS, START_TIME
from dbos_async._database.outages import CONNECT_ERRORS, Meaning, meaning_of
from dbos_async._database.probe import terminated_after
from dbos_async._database.sql import load
from dbos_async._database.urls import reason_of
from dbos_async._executor.executor import Executor
from dbos_async._lifecycle.blocked_loop import BlockedLoop
from dbos_async._lifecycle.expiry import Expiry, has_left
from dbos_async._lifecycle.lease_thread import LeaseThread
from dbos_async._lifecycle.leftovers import Leftovers
from dbos_async._lifecycle.services import LOG_EVERY_SECONDS
from dbos_async._logs import counted
from dbos_async._serialization.values import encode_value
from dbos_async.errors import ConfigurationError, DatabaseUnavailableError

log = logging.getLogger("dbos_async")

LEASE_SECONDS = 15.0
RENEW_EVERY_SECONDS = 1.0

LOOK_EVERY_SECONDS: Final = 1.0
LOOK_AGAIN_SECONDS: Final = 0.25
"""How soon the next look is when the connection of another executor seems to be lost."""

FREE_EVERY_SECONDS: Final = 5.0
MAX_FREED: Final = 1000

LEAVE_WITHIN_SECONDS: Final = 3.0
LEAVE_AGAIN_SECONDS: Final = 0.1

with load(__name__) as sql:
    RENEW: Final = sql.statement("RENEW", parallelism=1)
    OTHERS: Final = sql.statement("OTHERS", parallelism=1)
    EXPIRE: Final = sql.statement("EXPIRE", parallelism=1)
    FREE: Final = sql.statement("FREE", parallelism=1)
    LEAVE: Final = sql.statement("LEAVE", parallelism=1)


class Leases:
    """Keeps the lease of one executor, and frees the workflows of executors that have expired or left."""

    def __init__(self, executor: Executor, leftovers: Leftovers, *, max_blocked_seconds: float) -> None:
        self._database = executor.database
        self._executor = executor
        self._loop = asyncio.get_running_loop()
        self._registered: asyncio.Future[None] = self._loop.create_future()
        self._expiry = Expiry(executor.executor_id)
        self._namesakes: dict[str, datetime] = {}
        """Executors of the same executor_id that were there first, and their leases at the first look."""
        self._free_at = 0.0
        self._log_at = 0.0
        self._leftovers = leftovers
        self.thread = LeaseThread(
            self._database.access,
            executor.id,
            RENEW,
            self._row,
            self,
            self._database.postgres.loop_watch,
            BlockedLoop(executor),
            lease_seconds=LEASE_SECONDS,
            renew_every_seconds=RENEW_EVERY_SECONDS,
            max_blocked_seconds=max_blocked_seconds,
        )

    async def register(self, within_seconds: float) -> None:
        """Become an executor."""
        self.thread.may_lock = self._database.names.denied.isdisjoint(LIVENESS)
        self.thread.start()
        try:
            async with asyncio.timeout(within_seconds):
                await self._registered
        except TimeoutError:
            raise DatabaseUnavailableError(within_seconds, False, self.thread.problem) from None

    @property
    def may_be_registered(self) -> bool:
        """Whether other executors may know this one."""
        return self.thread.may_have_row

    async def leave(self) -> None:
        """Be an executor no longer, and free the workflows that ran here, so that others claim them at once."""
        self.thread.renews = False
        row = self._executor.id, self._database.batches.has_calls_left, UNOWNED_KEY
        give_up_at = time.monotonic() + LEAVE_WITHIN_SECONDS
        try:
            while True:
                try:
                    async with self._database.postgres.acquire() as connection:
                        # A pooler that is paused takes the connection, and answers nothing.
                        with terminated_after(connection, max(give_up_at - time.monotonic(), LEAVE_AGAIN_SECONDS)):
                            await connection.fetch(LEAVE.sql.one_row, 0, *row)
                    return
                except CONNECT_ERRORS as error:
                    if time.monotonic() > give_up_at:
                        text = "The workflows that ran here could not be freed (%s): other executors take them over."
                        log.warning(text, reason_of(error))
                        return
                await asyncio.sleep(LEAVE_AGAIN_SECONDS)
        finally:
            await self.thread.stop()

    def on_renewed(self, *, is_new: bool) -> None:
        """The lease was renewed; ``is_new`` when the database did not know this executor."""
        executor = self._executor
        if not self._registered.done():
            self._registered.set_result(None)
        elif is_new:
            log.warning("This executor was silent for so long that its lease expired: its workflows may run elsewhere.")
            executor.suspend("other executors take its workflows over")
            executor.stop_runs("another executor takes its workflow over")
            self._leftovers.begin_anew()
        elif executor.suspended is not None and not self._leftovers.begins_anew:
            log.info("The lease of this executor is renewed.")
            executor.go_on()

    def on_overdue(self, reason: str) -> None:
        """The lease was not renewed in time: others may take the workflows over."""
        if self._executor.suspended is None and not self._executor.closing:
            text = "The lease of this executor is overdue (%s): others may take its workflows over, and it begins none."
            log.warning(text, reason)
            self._executor.suspend("the lease is overdue")

    def on_problem(self, error: Exception) -> None:
        """An attempt to renew the lease has failed."""
        if self._registered.done():
            meaning = meaning_of(error)
            if meaning is Meaning.LOST or time.monotonic() < self._log_at:
                return  # the listener says that the database is away
            self._log_at = time.monotonic() + LOG_EVERY_SECONDS
            text = "The row of this executor is not renewed (%s). The beat goes on, and the renewal is tried again."
            log.warning(text, reason_of(error), exc_info=None if meaning is Meaning.LOCKED else error)
        elif isinstance(error, asyncpg.InsufficientPrivilegeError):
            self._registered.set_exception(
                ConfigurationError(
                    f"This role may not work with the tables of dbos_async ({reason_of(error)}): "
                    "grant it the rights on them, or connect as another role."
                )
            )

    async def keep_looking(self) -> None:
        """Observe the other executors, and free what has no owner any more, until cancelled."""
        with self._database.changes() as changes:
            async for subscription in changes:
                await self.look()
                subscription.poll_within(LOOK_AGAIN_SECONDS if self._expiry.is_suspicious else LOOK_EVERY_SECONDS)

    async def look(self) -> None:
        """Remove the executors that have expired, and free workflows whose owner is none."""
        executor = self._executor
        self._expiry.trusts_locks = self._database.names.denied.isdisjoint((LOCKS, START_TIME))
        rows = await self._database.call(OTHERS, [(executor.id, LEASE_SECONDS)], partition="", retry_forever=True)
        is_first = self._free_at == 0.0
        if is_first:
            self._namesakes = {row["id"]: row["lease_until"] for row in rows if self._is_namesake(row)}
        self._warn_of_namesakes(rows)
        expired = self._expiry.look(rows, time.monotonic(), LEASE_SECONDS, can_renew=self.thread.is_renewing)
        if executor.suspended is not None:
            return
        if expired:
            removed = await self._database.call(EXPIRE, expired, partition="", retry_forever=True)
            if removed:
                log.info("This executor has removed %s that expired.", counted(len(removed), "executor"))
        if expired or time.monotonic() >= self._free_at:
            await self._look_at_server()
            await self._free()

    async def _look_at_server(self) -> None:
        # New connections look by themselves. This notes whether commits wait for a standby now, and looks behind a pooler.
        with suppress(*CONNECT_ERRORS):
            async with self._database.postgres.acquire() as connection:
                await self._database.postgres.timeline.look(connection)

    def _is_namesake(self, row: asyncpg.Record) -> bool:
        return row["executor_id"] == self._executor.executor_id and not has_left(row)

    def _warn_of_namesakes(self, rows: list[asyncpg.Record]) -> None:
        """Warn once of each that was there first and lives: it holds its lock or, without a session, renews its lease."""
        for row in rows if self._namesakes else ():
            lease = self._namesakes.get(row["id"])
            if lease is None or not self._is_namesake(row):
                continue
            if row["is_locked"] or (not row["keeps_session"] and row["lease_until"] != lease):
                del self._namesakes[row["id"]]
                log.warning(
                    "Another executor with the executor_id %r is live, since %s: give each process an executor_id of its own.",
                    row["executor_id"], row["started_at"].isoformat(" ", "seconds"),
                )  # fmt: skip

    async def _free(self) -> None:
        row = MAX_FREED, UNOWNED_KEY
        workflows = MAX_FREED
        while workflows >= MAX_FREED:
            answer = await self._database.call(FREE, [row], partition="", retry_forever=True, wakes=[UNOWNED_KEY])
            workflows = answer[0]["workflows"]
            if workflows:
                log.info("This executor has freed %s whose executor is gone.", counted(workflows, "workflow"))
        self._free_at = time.monotonic() + FREE_EVERY_SECONDS

    def _row(self) -> tuple[Any, ...]:
        executor = self._executor
        names = encode_value(list(executor.workflows))
        return executor.id, executor.executor_id, executor.application_version, names, LEASE_SECONDS
