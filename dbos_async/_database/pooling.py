"""A pooler between this process and the server: whether there is one, and whether it keeps sessions.

The server tells each client the id of the process that serves it. A pooler tells its own clients an id of its making, so a
connection whose statements run in another process goes through a pooler. In session mode that process stays, and the connection
is like a direct one. In transaction mode each transaction may run in another process: `connection_kinds.py` says what follows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import asyncpg

from dbos_async._database.connection_kinds import C, ConnectionKind, PiecewiseConnection, is_own

NAME: Final = "application_name"

LOOKS: Final = 3

REFUSED_SETTING: Final = "unsupported startup parameter"
"""PgBouncer's error for a connection that begins with settings it does not know."""

Open = Callable[[], Awaitable[PiecewiseConnection]]


class PoolerError(ConnectionError):
    """A connection that must have a session goes through a pooler in transaction mode."""

    def __init__(self) -> None:
        super().__init__(
            "A pooler in transaction mode is in front of the database, where LISTEN and the locks of leases are lost: pass "
            "listen_url=, a URL of Postgres itself or of a pooler in session mode, or pass listen=False"
        )


class Pooling:
    """What is known of the way to one server. A connection is asked each time; the mode of a pooler is found out once."""

    def __init__(self) -> None:
        self._passes_settings = True
        self._keeps_sessions: bool | None = None

    def settings(self, kind: ConnectionKind[C]) -> dict[str, str]:
        """The settings that a connection of this kind begins with."""
        return kind.settings if self._passes_settings else {NAME: kind.settings[NAME]}

    def may_connect_after(self, error: Exception) -> bool:
        """Whether a pooler has refused the settings, and takes a connection without them."""
        is_refused = self._passes_settings and REFUSED_SETTING in str(error)
        self._passes_settings = self._passes_settings and not is_refused
        return is_refused

    async def recognise(self, connection: PiecewiseConnection, open_another: Open) -> None:
        """Find out whether this connection has a session, and if so, give it its settings."""
        backend = await backend_of(connection)
        is_direct, needs_settings = backend == connection.get_server_pid(), True
        if is_direct:
            needs_settings, self._passes_settings, self._keeps_sessions = not self._passes_settings, True, None
        elif self._keeps_sessions is None:
            another = await open_another()
            try:
                self._keeps_sessions = await keeps_sessions(connection, another)
            finally:
                another.terminate()
        if is_direct or self._keeps_sessions:
            connection.keep_session(backend)
            if is_own(connection) and needs_settings:
                await connection.set_session()


async def keeps_sessions(one: asyncpg.Connection[asyncpg.Record], other: asyncpg.Connection[asyncpg.Record]) -> bool:
    """Whether each of these two connections has a process of the server for itself.

    While another transaction is open, a pooler in transaction mode gives a connection another process; or that transaction already
    has the process of the first one.
    """
    first = await backend_of(one)
    execute = asyncpg.Connection.execute
    await execute(other, "begin read only")
    try:
        if await backend_of(other) == first:
            return False
        for _ in range(LOOKS):
            if await backend_of(one) != first:
                return False
    finally:
        await execute(other, "rollback")
    return True


async def backend_of(connection: asyncpg.Connection[asyncpg.Record]) -> int:
    """The process of the server in which a transaction of this connection runs."""
    backend: int = await asyncpg.Connection.fetchval(connection, "select pg_backend_pid()")
    return backend
