"""The one LISTEN connection of a process: every notification wakes its waiters.

It listens to few channels, so that a notification wakes few processes. Their names begin with what only those know who may read
the tables (`Names.channel`):

``…``         what releases before these channels announce
``…_x``       executors: workflows that nobody owns, and messages for which it is not known who will run the receiver
``…_to_ID``   one executor, by the end of its id: messages to the workflows that it runs, and cancellations of these
``…_0``-``f`` whoever waits for a value, an event, an end or an answer: by the first letter of the digest, while somebody waits

The listener reconnects for as long as it runs. Notifications that were sent while it had no connection are lost, so all
waiters poll once after each connect. A ping every few seconds detects a server that vanished without closing the connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import anyio
import asyncpg

from dbos_async._database.connections import Postgres
from dbos_async._database.news import NEWS, read_news
from dbos_async._database.outages import CONNECT_ERRORS, backoff_seconds
from dbos_async._database.pooling import PoolerError
from dbos_async._database.probe import terminated_after
from dbos_async._database.shared_keys import GROUPS, SharedKey
from dbos_async._database.urls import reason_of
from dbos_async._database.wakeups import LocalUpdate, Wakeups
from dbos_async.errors import ConfigurationError

log = logging.getLogger("dbos_async")

EXECUTORS: Final = "_x"
OF_EXECUTOR: Final = "_to_"
ID_LETTERS: Final = 12
"""How many letters at the end of its id name the channel of an executor."""
DIGEST_HEX_DIGITS = 16
ASK_EVERY_SECONDS = 5.0
ANSWER_WITHIN_SECONDS = 5.0
LOG_EVERY_SECONDS = 60.0
UNLISTEN_AFTER_SECONDS = 60.0


class Listener:
    """Listens until cancelled."""

    complaint: Final = "The listener has no connection"
    """What health says before the reason."""

    def __init__(self, postgres: Postgres, wakeups: Wakeups, executor_id: str | None) -> None:
        self._postgres = postgres
        self._wakeups = wakeups
        self._executor_id = executor_id
        self._loop = asyncio.get_running_loop()
        self.connected: anyio.Event = anyio.Event()
        """Set when the first connection listens."""
        self.is_listening: bool = False
        """Whether it has a connection now."""
        self.last_error: str = "no connection could be made"
        self._log_at = self._warn_at = float("-inf")
        self._has_warned = False
        self._stir = asyncio.Event()
        """Set when there is something to do: the connection was lost, or somebody waits for a group that is not heard."""
        self._heard: set[int] = set()
        """The groups of shared keys whose channels are listened to."""
        self._unused: dict[int, float] = {}
        """Since when nobody has waited for a group that is heard."""
        self._next_heard: asyncio.Event | None = None
        """Set when the groups are heard for which somebody waits now."""

    def begin(self, keys: Sequence[bytes]) -> asyncio.Event | None:
        """Somebody waits for these keys; the event is set when their changes are heard, see `Source`."""
        if not self.is_listening:
            return None  # all waiters are woken when it is
        for key in keys:
            if isinstance(key, SharedKey) and key.group not in self._heard:
                if self._next_heard is None:
                    self._next_heard = asyncio.Event()
                    self._stir.set()
                return self._next_heard
        return None

    def end(self, key: bytes) -> None:
        """The last one has left. Its channel is left later."""

    def begin_run(self, key: bytes, workflow_id: str, attempt: int) -> None:
        """What cancels the run is announced on the channel of the executor."""

    def end_run(self, key: bytes) -> None:
        """The run is over."""

    async def run(self) -> None:
        """Listen until cancelled. Reconnect at once after a lost connection, then with growing pauses."""
        failures = 0
        while True:
            try:
                await self._listen_once()
                failures = 0
            except Exception as error:
                if isinstance(error, PoolerError) and not self.connected.is_set():
                    raise ConfigurationError(f"{error}.") from None
                failures += 1
                self.last_error = reason_of(error)
                if not isinstance(error, CONNECT_ERRORS):
                    self._log_unexpected(error)
                elif (
                    failures == 1 and self._loop.time() >= self._warn_at and not self._postgres.loop_watch.was_blocked()
                ):
                    self._warn_at = self._loop.time() + LOG_EVERY_SECONDS
                    kind = type(error).__name__
                    self._postgres.outage_log.begin()
                    log.warning("The listener lost the database (%s: %s) and connects again.", kind, reason_of(error))
            await asyncio.sleep(backoff_seconds(failures))

    async def _listen_once(self) -> None:
        connection = await self._postgres.connect_to_listen()
        stir = self._stir = asyncio.Event()
        try:
            if not connection.has_session:
                raise PoolerError
            connection.add_termination_listener(lambda _: stir.set())
            with terminated_after(connection, ANSWER_WITHIN_SECONDS):
                for suffix in ("", *self._suffixes_of_executors()):
                    await self._listen(connection, suffix)
            while await self._hear_groups(connection):
                pass
            self.is_listening = True
            self._postgres.outage_log.end()
            self._wakeups.wake_all()
            self.connected.set()
            while not connection.is_closed():
                with suppress(TimeoutError):
                    async with asyncio.timeout(ASK_EVERY_SECONDS):
                        await stir.wait()
                stir.clear()
                if connection.is_closed():
                    return
                if self._next_heard is None:
                    await self._ping(connection)
                    await self._leave_unused(connection)
                else:
                    heard, self._next_heard = self._next_heard, None
                    try:
                        await self._hear_groups(connection)
                    finally:
                        heard.set()
        finally:
            self.is_listening = False
            self._heard.clear()
            self._unused.clear()
            if self._next_heard is not None:
                self._next_heard.set()
                self._next_heard = None
            connection.terminate()

    def _suffixes_of_executors(self) -> tuple[str, ...]:
        return () if self._executor_id is None else (EXECUTORS, OF_EXECUTOR + self._executor_id[-ID_LETTERS:])

    async def _listen(self, connection: asyncpg.Connection[asyncpg.Record], suffix: str) -> None:
        await connection.add_listener(self._postgres.names.channel + suffix, self._on_notification)

    async def _hear_groups(self, connection: asyncpg.Connection[asyncpg.Record]) -> bool:
        """Listen to the channels of the groups for which somebody waits. True if there were some that were not heard."""
        missing = [group for group in range(GROUPS) if self._wakeups.waiting[group] and group not in self._heard]
        with terminated_after(connection, ANSWER_WITHIN_SECONDS):
            for group in missing:
                await self._listen(connection, f"_{group:x}")
                self._heard.add(group)
        return bool(missing)

    async def _leave_unused(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """Listen no longer to the channels for which nobody has waited for some time."""
        now = self._loop.time()
        for group in list(self._heard):
            if self._wakeups.waiting[group]:
                self._unused.pop(group, None)
            elif self._unused.setdefault(group, now) + UNLISTEN_AFTER_SECONDS <= now:
                # Who comes from now on waits until it is listened to again.
                self._heard.discard(group)
                del self._unused[group]
                with terminated_after(connection, ANSWER_WITHIN_SECONDS):
                    await connection.remove_listener(f"{self._postgres.names.channel}_{group:x}", self._on_notification)

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
        wake = self._wakeups.wake
        try:
            if payload.startswith(NEWS):
                for key, news, size in read_news(payload):
                    wake(key, None if news is None else LocalUpdate(news, size))
                return
            for start in range(0, len(payload), DIGEST_HEX_DIGITS):
                wake(bytes.fromhex(payload[start : start + DIGEST_HEX_DIGITS]))
        except ValueError:
            self._warn_of_strangers()

    def _warn_of_strangers(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning("A notification has a payload that is not from dbos_async and was ignored, as are all such.")
