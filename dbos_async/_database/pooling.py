"""A pooler between this process and the server: whether there is one, and whether it keeps sessions.

The server tells each client the id of the process that serves it. A pooler tells its own clients an id of its making, so a
connection whose statements run in another process goes through a pooler. In session mode that process stays, and the connection
is like a direct one. In transaction mode each transaction may run in another process: `connection_kinds.py` says what follows.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from dbos_async._database.connection_kinds import C, ConnectionKind, PiecewiseConnection, is_own

NAME: Final = "application_name"

LOOKS: Final = 12
"""How often both connections are asked before a pooler is taken for one that keeps sessions."""

REFUSED_SETTING: Final = "unsupported startup parameter"
"""PgBouncer's error for a connection that begins with settings it does not know."""

FIND_NAME: Final = "select name from pg_prepared_statements where statement like $1"

MIXED_UP: Final = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)
"""What a statement ends with that was prepared in another process of the server, before it has done anything."""

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
        self._keeps_statements: bool | None = None

    def settings(self, kind: ConnectionKind[C]) -> dict[str, str]:
        """The settings that a connection of this kind begins with."""
        return kind.settings if self._passes_settings else {NAME: kind.settings[NAME]}

    def may_connect_after(self, error: Exception) -> bool:
        """Whether a pooler has refused the settings, and takes a connection without them."""
        is_refused = self._passes_settings and REFUSED_SETTING in str(error)
        self._passes_settings = self._passes_settings and not is_refused
        return is_refused

    def note_error(self, error: BaseException | None) -> bool:
        """Whether an error of a connection shows that it has no session after all, so that none of them has."""
        shows = isinstance(error, MIXED_UP)
        if shows:
            self._keeps_sessions = self._keeps_statements = False
        return shows

    async def recognise(self, connection: PiecewiseConnection, open_another: Open) -> None:
        """Find out whether this connection has a session, and if so, give it its settings."""
        backend = await backend_of(connection)
        is_direct, needs_settings = backend == connection.get_server_pid(), True
        if is_direct:
            needs_settings, self._passes_settings, self._keeps_sessions = not self._passes_settings, True, None
            self._keeps_statements = None
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
        elif is_own(connection):
            if self._keeps_statements is None:
                self._keeps_statements = await keeps_statements(connection)
            connection.keeps_statements = self._keeps_statements


async def keeps_sessions(one: asyncpg.Connection[asyncpg.Record], other: asyncpg.Connection[asyncpg.Record]) -> bool:
    """Whether each of these two connections has a process of the server for itself.

    A pooler in transaction mode gives whoever comes a process that is idle, and to the next one the same, unless others have taken
    it meanwhile. They cannot do so for long and leave both with the process that each had before, while one holds its own
    for a while and gives it back.
    """
    first, second = await backend_of(one), await backend_of(other)
    for n in range(LOOKS):
        if first == second or await backend_of(one) != first:
            return False
        async with _transaction(other, is_open=n % 2 == 0):
            if await backend_of(other) != second or await backend_of(one) != first:
                return False
    return True


async def keeps_statements(connection: PiecewiseConnection) -> bool:
    """Whether the pooler keeps the prepared statements of each client (PgBouncer 1.21 with max_prepared_statements, and others).

    It then gives them names of its own in the processes of the server: clients choose theirs without knowing of each other.
    """
    execute = asyncpg.Connection.execute
    await execute(connection, "begin read only")
    try:
        prepared = await connection.prepare(f"/* {connection.tag} */ {FIND_NAME}", name=connection.tag)
        name = await prepared.fetchval(f"/* {connection.tag} */%")
        if name == connection.tag:
            await execute(connection, f'deallocate "{name}"')
    except asyncpg.PostgresError:
        name = None
    await execute(connection, "rollback")
    return name not in (None, connection.tag)


@asynccontextmanager
async def _transaction(connection: asyncpg.Connection[asyncpg.Record], *, is_open: bool) -> AsyncGenerator[None]:
    execute = asyncpg.Connection.execute  # connections of the library translate what they execute
    if is_open:
        await execute(connection, "begin read only")
    yield
    if is_open:
        await execute(connection, "rollback")


async def backend_of(connection: asyncpg.Connection[asyncpg.Record]) -> int:
    """The process of the server in which a transaction of this connection runs."""
    backend: int = await asyncpg.Connection.fetchval(connection, "select pg_backend_pid()")
    return backend
