"""The thread that keeps the lease of an executor, also while its event loop is blocked.

It has an event loop and a connection of its own. Once a second it moves the beat, an advisory lock, and every other time it renews
the row. The server gives the lock without touching a table, so neither locks nor refusals keep the beat from moving. Other
executors take either for a sign of life. Without a session (behind a pooler in transaction mode, or with ``listen=False``) there
are no such locks, and it renews the row every time. The thread stops when the event loop of the program is closed, or has been
blocked for too long.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

import asyncpg

from dbos_async._database.access import Access
from dbos_async._database.connection_kinds import OwnConnection
from dbos_async._database.connections import Postgres
from dbos_async._database.loop_watch import LoopWatch
from dbos_async._database.outages import backoff_seconds
from dbos_async._database.probe import close, terminated_after
from dbos_async._database.statement import Statement
from dbos_async._database.urls import reason_of
from dbos_async._lifecycle.blocked_loop import BlockedLoop

log = logging.getLogger("dbos_async")

ANSWER_WITHIN_SECONDS: Final = 5.0
LOOK_EVERY_SECONDS: Final = 0.5
MAX_BEAT: Final = 2**31 - 1

LOCK_LIVENESS: Final = "select pg_advisory_lock_shared(hashtextextended('dbos_async executor ' || $1, 0))"

BEAT: Final = """
    select pg_try_advisory_lock_shared(hashtext('dbos_async beat ' || $1), $2),
           case when $3::int4 is not null then pg_advisory_unlock_shared(hashtext('dbos_async beat ' || $1), $3) end
"""


class LeaseEvents(Protocol):
    """What the thread tells the executor, in the executor's event loop."""

    def on_renewed(self, *, is_new: bool) -> None:
        """The lease was renewed; ``is_new`` when the database did not know the executor."""

    def on_overdue(self, reason: str) -> None:
        """The lease was not renewed in time: others may take the workflows over."""

    def on_problem(self, error: Exception) -> None:
        """An attempt to renew the lease has failed."""


class LeaseThread:
    """Keeps one lease. ``row`` makes the columns of the renewal; all else may be read from any thread."""

    def __init__(
        self,
        access: Access,
        executor_id: str,
        renew: Statement,
        row: Callable[[], tuple[Any, ...]],
        events: LeaseEvents,
        loop_watch: LoopWatch,
        blocked_loop: BlockedLoop,
        *,
        lease_seconds: float,
        renew_every_seconds: float,
        max_blocked_seconds: float,
    ) -> None:
        self._access, self._executor_id, self._renew, self._row = access, executor_id, renew, row
        self._events, self._loop_watch, self._blocked_loop = events, loop_watch, blocked_loop
        self._lease_seconds = lease_seconds
        self._renew_every_seconds = renew_every_seconds
        self._max_blocked_seconds = max_blocked_seconds
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread_loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[object] | None = None
        self._postgres: Postgres | None = None
        self._is_started = self._must_stop = False
        self._is_overdue = False
        self.may_lock: bool = True
        """Whether the role may lock and unlock what shows that this executor lives."""
        self.renews: bool = True
        """Whether the row is renewed. Without that only the beat goes on."""
        self.may_have_row: bool = False
        """Whether a renewal was sent, which makes the row of the executor."""
        self.alive_at: float | None = None
        """When the last beat or renewal that succeeded was sent, by the monotonic clock; ``None`` before the first."""
        self.renewed_at: float | None = None
        """When the last renewal was answered."""
        self.problem: str = "no connection could be made"
        """Why the last attempt failed; empty when it succeeded."""

    @property
    def is_alive(self) -> bool:
        """Whether the lease is kept."""
        return self.alive_at is not None and time.monotonic() - self.alive_at < self._lease_seconds

    @property
    def is_renewing(self) -> bool:
        """Whether renewals succeed at present: nothing keeps executors from that, such as a lock of the table."""
        return self.renewed_at is not None and time.monotonic() - self.renewed_at < 3 * self._renew_every_seconds

    @property
    def seconds_left(self) -> float:
        """For how long the lease lasts if nothing keeps it; below zero when it is overdue."""
        return 0.0 if self.alive_at is None else self.alive_at + self._lease_seconds - time.monotonic()

    def start(self) -> None:
        """Keep the lease from now on."""
        self._is_started = True
        threading.Thread(target=self._main, name="dbos_async lease", daemon=True).start()

    async def stop(self) -> None:
        """Keep it no longer; return when the thread has ended."""
        self._must_stop = True
        if not self._is_started:
            return
        if self._thread_loop is not None and self._task is not None:
            with suppress(RuntimeError):  # its loop is closed already
                self._thread_loop.call_soon_threadsafe(self._task.cancel)
        await asyncio.wait([self._ended])

    def _main(self) -> None:
        try:
            while not self._is_over:
                try:
                    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                        runner.run(self._keep())
                except asyncio.CancelledError:
                    return  # it was stopped
                except Exception:
                    log.exception("The thread that keeps the lease failed and begins again.")
                    time.sleep(1)
        finally:
            self._tell(self._ended.set_result, None)

    async def _keep(self) -> None:
        self._task, self._thread_loop = asyncio.current_task(), asyncio.get_running_loop()
        looking = asyncio.create_task(self._look())
        self._postgres = postgres = Postgres(self._access)
        failures = 0
        try:
            while not self._is_over:
                before = self.alive_at
                try:
                    if self._may_renew:
                        await self._keep_on(postgres)
                except Exception as error:
                    self._note_problem(error)
                failures = 0 if self.alive_at != before else failures + 1
                await asyncio.sleep(backoff_seconds(failures))
        finally:
            looking.cancel()
            await postgres.close()

    async def _keep_on(self, postgres: Postgres) -> None:
        """Keep the lease over one connection, until that breaks."""
        connection = await postgres.connect_to_listen()
        if not connection.has_session or not self._access.listen or not self.may_lock:
            await self._keep_row(connection)
            return
        beat: int | None = None
        is_locked = False
        renew_at = 0.0
        try:
            while not self._is_over and self._may_renew:
                sent_at = time.monotonic()
                is_locked = is_locked or await self._execute(connection, LOCK_LIVENESS, self._executor_id)
                next_beat = time.monotonic_ns() // 1_000_000 % MAX_BEAT
                has_moved = await self._execute(connection, BEAT, self._executor_id, next_beat, beat)
                if has_moved:
                    beat = next_beat
                    if self.alive_at is not None:
                        self.alive_at = sent_at
                if self.renews and (sent_at >= renew_at or not has_moved):
                    await self._renew_row(connection, sent_at, keeps_session=True)
                    renew_at = sent_at + (0.0 if self.problem else 1.5 * self._renew_every_seconds)
                await self._pause(connection)
        finally:
            await close(connection)

    async def _keep_row(self, connection: OwnConnection) -> None:
        """Keep the lease by renewals alone, over one connection, until that breaks."""
        try:
            while not self._is_over and self._may_renew:
                if self.renews:
                    await self._renew_row(connection, time.monotonic(), keeps_session=False)
                await self._pause(connection)
        finally:
            await close(connection)

    async def _pause(self, connection: OwnConnection) -> None:
        """Wait until the next beat or renewal is due, or the connection is lost: then others give this executor two seconds."""
        is_lost = asyncio.Event()
        connection.add_termination_listener(note := lambda _: is_lost.set())
        with suppress(TimeoutError):
            async with asyncio.timeout(0.0 if connection.is_closed() else self._renew_every_seconds):
                await is_lost.wait()
        connection.remove_termination_listener(note)

    async def _execute(self, connection: OwnConnection, sql: str, *args: object) -> bool:
        """Execute this. False if the server refused it: the connection stays, and so does what it has locked."""
        try:
            with terminated_after(connection, ANSWER_WITHIN_SECONDS):
                await connection.fetch(sql, *args)
        except asyncpg.PostgresError as error:
            if self._is_of_no_use(connection, error):
                raise
            self._note_problem(error)
            return False
        return True

    def _is_of_no_use(self, connection: OwnConnection, error: asyncpg.PostgresError) -> bool:
        """Whether this error, which is no refusal then, shows that the connection was lost, or has no session any more."""
        if connection.is_closed():
            return True
        return self._postgres is not None and self._postgres.note_error(connection, error, is_to_listen=True)

    async def _renew_row(self, connection: OwnConnection, sent_at: float, *, keeps_session: bool) -> None:
        self.may_have_row = True
        try:
            with terminated_after(connection, ANSWER_WITHIN_SECONDS):
                records = await connection.fetch(self._renew.sql.one_row, 0, *self._row(), keeps_session)
        except asyncpg.PostgresError as error:
            if self._is_of_no_use(connection, error):
                raise
            self._note_problem(error)  # the beat goes on
        else:
            self.alive_at, self.renewed_at = sent_at, time.monotonic()
            self.problem, self._is_overdue = "", False
            self._tell(lambda: self._events.on_renewed(is_new=bool(records[0]["is_new"])))

    async def _look(self) -> None:
        """Look several times a second whether the lease is overdue, or the event loop of the program is blocked."""
        looked_at = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_EVERY_SECONDS)
            now = time.monotonic()
            if self.alive_at is not None and not self.is_alive and not self._is_overdue:
                self._is_overdue = True
                stood_still = now - looked_at >= 4 * LOOK_EVERY_SECONDS
                silence = "this process stood still" if stood_still else "the database does not answer"
                self._tell(self._events.on_overdue, self.problem or silence)
            if now - looked_at < 4 * LOOK_EVERY_SECONDS and self._loop.is_running():  # this process was not frozen
                try:
                    self._blocked_loop.look(now - self._loop_watch.beat_at)
                except Exception:  # it reads the frames of another thread, with whatever objects are there
                    log.debug("What blocks the event loop could not be named.", exc_info=True)
            looked_at = now

    @property
    def _is_over(self) -> bool:
        return self._must_stop or self._loop.is_closed()

    @property
    def _may_renew(self) -> bool:
        if time.monotonic() - self._loop_watch.beat_at < self._max_blocked_seconds:
            return True
        self.problem = f"the event loop has been blocked for {self._max_blocked_seconds:g} seconds"
        return False

    def _note_problem(self, error: Exception) -> None:
        self.problem = f"{type(error).__name__}: {reason_of(error)}"
        self._tell(self._events.on_problem, error)

    def _tell(self, callback: Callable[..., object], *args: object) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(callback, *args)
