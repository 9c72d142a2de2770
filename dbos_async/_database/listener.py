"""The one LISTEN connection of a process: every notification becomes a wake-up.

It reconnects for as long as it runs. What was announced while it was away is not known, so after each
connect everybody looks again. A peer that vanished without a word is found by asking now and then.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

import anyio
import asyncpg

from dbos_async._database.connections import Postgres, is_lost
from dbos_async._database.probe import terminated_after
from dbos_async._database.urls import reason_of
from dbos_async._database.wakeups import Wakeups

log = logging.getLogger("dbos_async")

CHANNEL = "dbos_async"
DIGEST_LETTERS = 16
ASK_EVERY_SECONDS = 5.0
ANSWER_WITHIN_SECONDS = 5.0

OnConnect = Callable[["asyncpg.Connection[asyncpg.Record]"], Awaitable[None]]


class Listener:
    """Runs until cancelled; ``hello`` is called on every new connection before anybody is woken."""

    def __init__(self, postgres: Postgres, wakeups: Wakeups, on_connect: OnConnect | None = None) -> None:
        self._postgres = postgres
        self._wakeups = wakeups
        self._on_connect = on_connect
        self._loop = asyncio.get_running_loop()
        self.connected = anyio.Event()
        """Set once the first connection listens."""
        self.why_away = "no connection could be made"

    async def run(self) -> None:
        """Listen for ever; a lost connection is replaced at once, then with growing pauses."""
        failures = 0
        while True:
            try:
                await self._listen_once()
                failures = 0
            except Exception as error:
                if not is_lost(error) and not isinstance(error, asyncpg.PostgresError):
                    raise
                failures += 1
                self.why_away = reason_of(error)
                if failures == 1:
                    kind = type(error).__name__
                    log.warning("The listener lost the database (%s: %s) and connects again.", kind, reason_of(error))
            await asyncio.sleep(min(0.02 * 2 ** min(failures, 6), 1.0) * random.uniform(0.5, 1.0))

    async def _listen_once(self) -> None:
        connection = await self._postgres.connect()
        lost = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: lost.set())
            with terminated_after(connection, ANSWER_WITHIN_SECONDS):
                await connection.add_listener(CHANNEL, self._on_probe)
                if self._on_connect is not None:
                    await self._on_connect(connection)
            self._wakeups.wake_all()
            self.connected.set()
            while not lost.is_set():
                with anyio.move_on_after(ASK_EVERY_SECONDS):
                    await lost.wait()
                if not lost.is_set():
                    await self._ask(connection)
        finally:
            connection.terminate()

    async def _ask(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        asked_at = self._loop.time()
        try:
            with terminated_after(connection, ANSWER_WITHIN_SECONDS):
                await connection.execute("select 1")
        except BaseException:
            if self._loop.time() - asked_at >= ANSWER_WITHIN_SECONDS:
                # It went dead without a word, and what went the same way and is idle has not said so either.
                self._postgres.discard_idle()
            raise

    def _on_probe(self, _connection: object, backend: int, _channel: str, payload: object) -> None:
        if backend in self._postgres.backends or not isinstance(payload, str):
            return  # Our own commits have woken everybody here already.
        try:
            for start in range(0, len(payload), DIGEST_LETTERS):
                self._wakeups.wake(bytes.fromhex(payload[start : start + DIGEST_LETTERS]))
        except ValueError:
            log.warning("A notification on the channel %s is not one of ours and was ignored.", CHANNEL)
