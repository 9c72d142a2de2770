"""The connections of transactional steps: plain ones, on which the statements of users run as on any connection of asyncpg.

They come from a pool of their own, so no call of the library waits for a transaction that takes long, or that waits for a lock.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

import asyncpg

from dbos_async._database.connection_kinds import KEEPALIVES, ConnectionKind, PiecewiseConnection
from dbos_async._database.connections import Postgres
from dbos_async._database.denied import UNLOCK_ALL
from dbos_async._database.outages import CONNECT_ERRORS
from dbos_async._database.probe import AFTER_SECONDS, terminated_after

log = logging.getLogger("dbos_async")

CLEAN_UP_SECONDS: Final = 5.0
"""So long may a rollback and a reset take that nobody waits for. After that the connection is closed."""

CLOSE_WITHIN_SECONDS: Final = 1.0

WATCHED: Final = (
    "execute", "executemany", "fetch", "fetchmany", "fetchrow", "fetchval", "copy_from_query", "copy_from_table",
    "copy_records_to_table", "copy_to_table",
)  # fmt: skip


class UserConnection(PiecewiseConnection):
    """A connection that is terminated when the server does not work on its statement, so that nobody waits for ever."""

    __slots__ = ("answer", "is_reset", "postgres", "was_closed")

    def __init__(self, protocol: Any, transport: Any, *others: Any) -> None:
        super().__init__(protocol, transport, *others)
        self.postgres: Postgres | None = None
        """What watches its statements, once it is given to somebody."""
        self.answer: Any = None
        """What the last statement has answered. To a commit that is ROLLBACK if the transaction had failed."""
        self.is_reset = False
        """Whether its session is as new, so that the pool need not reset it."""
        self.was_closed = False
        """Whether somebody has closed it, so that it was not lost."""

    def get_reset_query(self) -> str:
        """What makes the session as new. asyncpg's statements leave the role as it is."""
        query: str = super().get_reset_query()
        if self.postgres is not None and UNLOCK_ALL in self.postgres.names.denied:
            query = query.replace(f"SELECT {UNLOCK_ALL};", "")
        return f"{query}\nRESET SESSION AUTHORIZATION;\nRESET ROLE;"

    async def commit_and_reset(self) -> None:
        """Commit, and reset the session, if there is one, by the same message. That saves a round trip."""
        self._top_xact = None  # as at every end of a transaction of asyncpg
        await self.execute(f"COMMIT;\n{self.get_reset_query()}" if self.has_session else "COMMIT")
        self.is_reset = True

    async def close(self, *, timeout: float | None = None) -> None:
        """Close it in good order."""
        self.was_closed = True
        await super().close(timeout=timeout)


def _watched(name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    method = getattr(asyncpg.Connection, name)

    @functools.wraps(method)
    async def call(self: UserConnection, *args: Any, **kwargs: Any) -> Any:
        postgres = self.postgres
        if postgres is None or self.is_closed():
            return await method(self, *args, **kwargs)  # which says that it is closed
        postgres.watch(self, AFTER_SECONDS, None)
        try:
            self.answer = await method(self, *args, **kwargs)
            return self.answer
        finally:
            postgres.unwatch(self)

    return call


for _name in WATCHED:
    if hasattr(asyncpg.Connection, _name):  # fetchmany is new
        setattr(UserConnection, _name, _watched(_name))

PLAIN: Final = ConnectionKind(UserConnection, {"application_name": "dbos_async transaction", **KEEPALIVES})


def _terminate(opening: asyncio.Task[asyncpg.Connection[asyncpg.Record]]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().terminate()


async def _reset(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    assert isinstance(connection, UserConnection)
    if connection.has_session and not connection.is_reset:
        await connection.execute(connection.get_reset_query())
    connection.is_reset = False


class UserConnections:
    """A pool of up to ``most`` plain connections, opened when they are needed."""

    def __init__(self, postgres: Postgres, most: int) -> None:
        self._postgres, self._most = postgres, most
        self._loop = asyncio.get_running_loop()
        self._pool: Any = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def acquire(self) -> Any:
        """Return a connection as soon as one is free."""
        if self._pool is None:
            pool: Any = asyncpg.create_pool  # asyncpg's stubs do not know reset
            self._pool = pool(
                min_size=0,
                max_size=self._most,
                connect=self._connect,
                reset=_reset,
                connection_class=UserConnection,
            )
            await self._pool  # opens nothing yet
        return await self._pool.acquire()

    async def release(self, connection: Any) -> None:
        """Return a connection to the pool whose session is reset, so that nothing is to be waited for."""
        await self._pool.release(connection)

    def give_back(self, connection: Any, transaction: Any) -> None:
        """Return the connection to the pool, after a rollback if its transaction is still open. Nobody waits for that."""
        if connection._con is None:
            return  # it is there already
        self.spawn(self._give_back(connection, transaction))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this in the background, in no run's context."""
        task = self._loop.create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Close every connection, those in use after a second."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLEAN_UP_SECONDS)
        if self._pool is not None:
            try:
                async with asyncio.timeout(CLOSE_WITHIN_SECONDS):
                    await self._pool.close()
            except (TimeoutError, *CONNECT_ERRORS):
                self._pool.terminate()

    async def _connect(self, *_: Any, **__: Any) -> asyncpg.Connection[asyncpg.Record]:
        # In no run's context, which the transport would keep for ever.
        work = self._postgres.connect_plain(PLAIN)
        opening = self._loop.create_task(work, context=contextvars.Context())
        try:
            connection = await opening
        except asyncio.CancelledError:
            # It may be open already, or become so: then nobody else would close it.
            opening.add_done_callback(_terminate, context=contextvars.Context())
            raise
        assert isinstance(connection, UserConnection)
        connection.postgres = self._postgres
        return connection

    async def _give_back(self, connection: Any, transaction: Any) -> None:
        held = connection._con
        if held is None:
            return  # it was lost, and the pool knows
        try:
            with terminated_after(held, CLEAN_UP_SECONDS):
                if not held.is_closed() and held.is_in_transaction():
                    await transaction.rollback()
                await self._pool.release(connection)
        except Exception as error:
            log.debug("A connection of a transaction could not be cleaned up and is closed: %s", error)
            held.terminate()
