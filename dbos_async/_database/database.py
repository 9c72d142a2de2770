"""The database as the verbs see it: statements to execute, changes to wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from dbos_async._checks import check_int
from dbos_async._database import defaults, migrations, sequences
from dbos_async._database.access import Access
from dbos_async._database.alarm import Alarm
from dbos_async._database.batches import Batches
from dbos_async._database.calls import Result, Row
from dbos_async._database.connections import Postgres
from dbos_async._database.denied import LOCK_FOR_TRANSACTION
from dbos_async._database.listener import Listener
from dbos_async._database.outages import is_lost
from dbos_async._database.pages import Pages
from dbos_async._database.passwords import PasswordSource
from dbos_async._database.polling import Polling
from dbos_async._database.pooling import PoolerError
from dbos_async._database.probe import AFTER_SECONDS, close, terminated_after
from dbos_async._database.remedies import remedy_for
from dbos_async._database.rights import READS, Rights
from dbos_async._database.standby import Standby
from dbos_async._database.statement import Statement
from dbos_async._database.urls import reason_of, shown_url, why_unusable
from dbos_async._database.user_connections import UserConnections
from dbos_async._database.wakeups import Wakeups
from dbos_async.errors import ConfigurationError, DatabaseUnavailableError, DBOSError

if TYPE_CHECKING:
    from dbos_async._telemetry.telemetry import Telemetry

HOLD: Final = "select pg_advisory_xact_lock(hashtextextended('dbos_async listen_url ' || $1, 0))"
IS_FREE: Final = "select pg_try_advisory_xact_lock(hashtextextended('dbos_async listen_url ' || $1, 0))"


class Database:
    """The access of one process to one database: a few connections, batches of calls, and one listener, or polls in its place."""

    def __init__(
        self,
        access: Access,
        *,
        max_payload_bytes: int = 8 * 2**20,
        max_transactions: int = 10,
        telemetry: Telemetry | None = None,
    ) -> None:
        access = access.in_this_loop()
        self.access: Final = access
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.local_executor_id: str | None = None
        """The id of the executor of this process, if it runs one."""
        self.application_version: str | None = None
        """The version of what this process starts, unless the start names another one."""
        self.max_payload_bytes: int = check_int(max_payload_bytes, 1, "max_payload_bytes")
        """The largest JSON that this process stores, in bytes. A stored value is read whatever its size."""
        self.connect_timeout_seconds: Final = access.connect_timeout_seconds
        self.telemetry: Final = telemetry
        """What OpenTelemetry is told; ``None`` for nothing."""
        self.postgres: Postgres = Postgres(access)
        self.names: Final = self.postgres.names
        self.user_connections: Final = UserConnections(self.postgres, max_transactions)
        """Those of transactional steps."""
        self.wakeups: Wakeups = Wakeups()
        self.alarm: Final = Alarm(self.wakeups)
        self.batches: Batches = Batches(
            self.postgres,
            self.wakeups,
            give_up_after_seconds=access.connect_timeout_seconds,
            on_batch=None if telemetry is None else telemetry.batch,
        )
        self.call: Final = self.batches.call
        self.execute: Final = self.batches.execute
        self.changes: Final = self.wakeups.changes
        self.pages: Final = Pages()
        self.listener: Listener | Polling | None = None
        """What hears of the changes that other processes make, once the database is open."""
        self.standby: Final = None if access.read_url is None else Standby(access, access.read_url)
        self._listening: asyncio.Task[None] | None = None

    async def open(self, *, migrate: bool, rights: Rights = READS) -> None:
        """Connect, bring the schema up to date (or only check it), check these rights on it, and listen or begin to poll."""
        self.postgres.loop_watch.start()
        if self.standby is not None:
            self.standby.start()
        await self._prepare(migrations.migrate if migrate else migrations.check, rights)
        if self.access.listen_url is not None and LOCK_FOR_TRANSACTION not in self.names.denied:
            await self._until_there(self.access.listen_url, self._check_listen_url)
        if self.access.listen:
            listener: Listener | Polling = Listener(self.postgres, self.wakeups, self.local_executor_id)
        else:
            listener = Polling(self.postgres, self.wakeups, lambda: self.local_executor_id)
        self.listener = self.wakeups.source = listener
        self._listening = asyncio.create_task(listener.run(), name="dbos_async listener")
        connected = asyncio.create_task(listener.connected.wait())
        try:
            done, _ = await asyncio.wait(
                (connected, self._listening),
                timeout=self.connect_timeout_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            connected.cancel()
        if self._listening.done():
            self._listening.result()
        if not done:
            raise DatabaseUnavailableError(self.connect_timeout_seconds, False, listener.last_error)

    async def close(self) -> None:
        """End every wait and every call under way, and close every connection."""
        self.wakeups.close()
        self.alarm.close()
        await self.batches.close()
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait([self._listening])
        if self.standby is not None:
            await self.standby.close()
        await self.user_connections.close()
        await self.postgres.close()
        if isinstance(self.access.password, PasswordSource):
            await self.access.password.close()
        self.postgres.loop_watch.stop()

    async def read(
        self,
        statement: Statement,
        rows: Sequence[Row],
        *,
        partition: str | int,
        retry_forever: bool = False,
        is_enough: Callable[[Result], bool] = bool,
        may_lag: bool = True,
    ) -> Result:
        """The answer to a statement that only reads: of the standby, if there is one and its answer is enough, else of the primary.

        Only what was there and stays so is enough: what a standby does not see may be there. Whoever goes on to wait says that the
        answer must not lag.
        """
        if self.standby is not None and may_lag:
            result = await self.standby.read(statement, rows, partition, is_enough)
            if result is not None:
                return result
        return await self.call(statement, rows, partition=partition, retry_forever=retry_forever)

    async def _prepare(self, schema: Callable[..., Awaitable[object]], rights: Rights) -> None:
        async def work() -> None:
            connection = await self.postgres.connect()
            try:
                if not connection.has_session and self.access.listen and self.access.listen_url is None:
                    raise ConfigurationError(f"{PoolerError()}.")
                with self.postgres.watching(connection, AFTER_SECONDS, None):
                    await connection.set_lock_timeout("0")  # a migration waits for another one
                    await schema(connection, self.names, rights=rights)
                    if not self.access.read_only:
                        await defaults.check(connection)
                        await sequences.repair(connection, self.names)
                    self.names.channel = await migrations.channel(connection, self.names)
            finally:
                await close(connection)

        await self._until_there(self.access.url, work)

    async def _check_listen_url(self) -> None:
        """Raise unless both URLs name one database: only there a lock that one connection holds is taken for another one."""
        listening = await self.postgres.connect_to_listen()
        try:
            if not listening.has_session:
                raise ConfigurationError(f"{PoolerError()}.")
            async with self.postgres.acquire() as connection:
                with terminated_after(listening, AFTER_SECONDS):
                    async with listening.transaction():
                        await listening.execute(HOLD, secret := uuid4().hex)
                        is_another = await connection.fetchval(IS_FREE, secret)
        finally:
            await close(listening)
        if is_another:
            raise ConfigurationError(
                f"listen_url={shown_url(self.access.listen_url or '')} is of another database than "
                f"{shown_url(self.access.url)}: let both name the same one, and listen_url the way to it without a pooler."
            )

    async def _until_there(self, url: str, work: Callable[[], Awaitable[None]]) -> None:
        # The work can be repeated, so this waits for a database that is not there yet or goes away meanwhile.
        give_up_at = asyncio.get_running_loop().time() + self.connect_timeout_seconds
        while True:
            try:
                await work()
                return
            except DBOSError:
                raise
            except Exception as error:
                if not is_lost(error) or remedy_for(error) is not None:
                    raise ConfigurationError(why_unusable(url, error)) from None
                if asyncio.get_running_loop().time() >= give_up_at:
                    raise DatabaseUnavailableError(self.connect_timeout_seconds, False, reason_of(error)) from error
                await asyncio.sleep(0.2)
