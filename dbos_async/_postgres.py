"""The connections of one process to Postgres: a few for statements, which keep their prepared plans, and extra ones on demand.

Which errors mean that a connection is gone, and which that the same statement may simply be said again, is decided here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import asyncpg

LOST = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.IdleSessionTimeoutError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InternalClientError,
)
"""The database cannot be reached, or the connection broke: whether the statement was committed is not known."""

REPEATABLE = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.UniqueViolationError,
)
"""Somebody else was at the same rows: nothing was done, and the same statement now sees what they did."""

SETTINGS = {
    "application_name": "dbos_async",
    # One plan for all calls saves planning each time. Tables are looked up by index and never joined whole,
    # whatever their size was when the plan was made; only small sets are compared in memory.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}


def is_lost(error: BaseException) -> bool:
    """Whether this error says that the connection is gone rather than that the statement is wrong."""
    if isinstance(error, asyncpg.InterfaceError):
        # asyncpg says "connection is closed" and "this value cannot be encoded" with the same family of errors.
        return not isinstance(error, ValueError)
    return isinstance(error, LOST)


class Postgres:
    """Up to ``max_connections`` connections to one database, opened when needed, last used first."""

    def __init__(self, url: str, *, max_connections: int = 8, connect_timeout_seconds: float = 30.0) -> None:
        self._url = url
        self._connect_timeout_seconds = connect_timeout_seconds
        self._idle: list[asyncpg.Connection[asyncpg.Record]] = []
        self._room = asyncio.Semaphore(max_connections)
        self._closed = False
        self.backends: set[int] = set()
        """The server processes behind the open connections: their notifications are our own."""

    async def connect(self, **settings: str) -> asyncpg.Connection[asyncpg.Record]:
        """A new connection that belongs to the caller, who closes it."""
        connection = await asyncpg.connect(
            self._url,
            timeout=self._connect_timeout_seconds,
            server_settings=SETTINGS | settings,
            max_cached_statement_lifetime=0,
        )
        backend = connection.get_server_pid()
        self.backends.add(backend)
        # The server gives process ids out again, so a closed connection's id may soon be somebody else's.
        connection.add_termination_listener(lambda _: self.backends.discard(backend))
        return connection

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """A connection for one statement. One that was interrupted or broke is not used again."""
        async with self._room:
            connection = self._take_idle() or await self.connect()
            try:
                yield connection
            except asyncpg.PostgresError:
                self._give_back(connection)
                raise
            except BaseException as error:
                if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError):
                    self._give_back(connection)
                else:
                    connection.terminate()
                raise
            self._give_back(connection)

    async def close(self) -> None:
        """Close every idle connection; the others are closed when they come back."""
        self._closed = True
        while self._idle:
            connection = self._idle.pop()
            try:
                await connection.close(timeout=5)
            except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection.terminate()

    def _take_idle(self) -> asyncpg.Connection[asyncpg.Record] | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return None

    def _give_back(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        if self._closed:
            connection.terminate()
        elif not connection.is_closed():
            self._idle.append(connection)


def why_unusable(url: str, error: Exception) -> str:
    """One sentence on why a database cannot be used, with its URL as far as that can be shown."""
    if not _is_plain(url):
        return (
            f"The database of this URL cannot be used ({type(error).__name__}): write it as "
            "postgresql://user:password@host:port/database, and / ? # @ in the password as %2F %3F %23 %40."
        )
    (reason, *_) = str(error).splitlines() or [type(error).__name__]
    return f"{without_password(url)} cannot be used: {reason.removesuffix('.')}."


def without_password(url: str) -> str:
    """A plain URL as it may be logged and shown."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    return urlunsplit((parts.scheme, f"{user.partition(':')[0]}{at}{host}", parts.path, "", ""))


def _is_plain(url: str) -> bool:
    # Whether a password can only stand between ":" and "@". A stray "/" or "@" in it makes a part of it look like
    # the host, the port or the database, which are shown, and which errors quote.
    try:
        parts = urlsplit(url)
        has_port = parts.port is not None
    except ValueError:
        return False
    return (
        parts.scheme in ("postgresql", "postgres")
        and url.count("@") == parts.netloc.count("@") <= 1
        and ("@" in url or ":" not in parts.netloc or has_port)
        and "password" not in parts.query
    )
