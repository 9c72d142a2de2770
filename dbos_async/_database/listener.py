"""The one LISTEN connection of a process: every notification wakes its waiters.

The listener reconnects for as long as it runs. Notifications that were sent while it had no connection are lost, so all
waiters poll once after each connect. A ping every few seconds detects a server that vanished without closing the connection.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import anyio
import asyncpg

from dbos_async._database.connections import Postgres
from dbos_async._database.outages import CONNECT_ERRORS, backoff_seconds
from dbos_async._database.probe import terminated_after
from dbos_async._database.urls import reason_of
from dbos_async._database.wakeups import Wakeups

log = logging.getLogger("dbos_async")

CHANNEL = "dbos_async"
DIGEST_HEX_DIGITS = 16
ASK_EVERY_SECONDS = 5.0
ANSWER_WITHIN_SECONDS = 5.0
LOG_EVERY_SECONDS = 60.0


class Listener:
    """Listens until cancelled."""

    complaint: Final = "The listener has no connection"
    """What health says before the reason."""

    def __init__(self, postgres: Postgres, wakeups: Wakeups) -> None:
        self._postgres = postgres
        self._wakeups = wakeups
        self._loop = asyncio.get_running_loop()
        self.connected: anyio.Event = anyio.Event()
        """Set when the first connection listens."""
        self.is_listening: bool = False
        """Whether it has a connection now."""
        self.last_error: str = "no connection could be made"
        self._log_at = float("-inf")

    async def run(self) -> None:
        """Listen until cancelled. Reconnect at once after a lost connection, then with growing pauses."""
        failures = 0
        while True:
            try:
                await self._listen_once()
                failures = 0
            except Exception as error:
                failures += 1
                self.last_error = reason_of(error)
                if not isinstance(error, CONNECT_ERRORS):
                    self._log_unexpected(error)
                elif failures == 1 and not self._postgres.loop_watch.was_blocked():
                    kind = type(error).__name__
                    self._postgres.outage_log.begin()
                    log.warning("The listener lost the database (%s: %s) and connects again.", kind, reason_of(error))
            await asyncio.sleep(backoff_seconds(failures))

    async def _listen_once(self) -> None:
        connection = await self._postgres.connect_to_listen()
        lost = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: lost.set())
            with terminated_after(connection, ANSWER_WITHIN_SECONDS):
                await connection.add_listener(CHANNEL, self._on_notification)
            self.is_listening = True
            self._postgres.outage_log.end()
            self._wakeups.wake_all()
            self.connected.set()
            while not lost.is_set():
                with anyio.move_on_after(ASK_EVERY_SECONDS):
                    await lost.wait()
                if not lost.is_set():
                    await self._ping(connection)
        finally:
            self.is_listening = False
            connection.terminate()

    def _log_unexpected(self, error: Exception) -> None:
        if self._loop.time() >= self._log_at:
            self._log_at = self._loop.time() + LOG_EVERY_SECONDS
            log.error("The listener failed and begins again.", exc_info=error)

    async def _ping(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        sent_at = self._loop.time()
        try:
            with terminated_after(connection, ANSWER_WITHIN_SECONDS):
                await connection.execute("select 1")
        except BaseException:
            if self._loop.time() - sent_at >= ANSWER_WITHIN_SECONDS:
                # The server vanished without closing this connection, so idle connections to it are dead, too.
                self._postgres.discard_idle()
            raise

    def _on_notification(self, _connection: object, backend: int, _channel: str, payload: object) -> None:
        if backend in self._postgres.backends or not isinstance(payload, str):
            return  # This process woke its own waiters when it committed.
        try:
            for start in range(0, len(payload), DIGEST_HEX_DIGITS):
                self._wakeups.wake(bytes.fromhex(payload[start : start + DIGEST_HEX_DIGITS]))
        except ValueError:
            log.warning(
                "A notification on the channel %s has a payload that is not from dbos_async and was ignored.", CHANNEL
            )
