"""The connections of an examination: everything on them is over within seconds, and nothing on them can change data."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from dbos_async._database.connection_kinds import OwnConnection
from dbos_async._database.names import Names
from dbos_async._database.outages import CONNECT_ERRORS
from dbos_async._database.probe import close, terminated_after
from dbos_async._database.statement import Statement
from dbos_async._database.tls import system_context
from dbos_async._database.urls import Host, read_url

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

CONNECT_WITHIN_SECONDS: Final = 5.0
ANSWER_WITHIN_SECONDS: Final = 5.0
"""How long the server has for one statement before the connection counts as dead. Its own limit is a second shorter."""

BEGIN: Final = "begin isolation level read committed read only"
LIMITS: Final = "set local statement_timeout = '4s'; set local lock_timeout = '500ms'"
"""For the transaction of a statement: they work behind a pooler of any mode, too, and leave the session as it was."""


class Session:
    """One connection, opened anew when it is lost, and further ones for the checks that need several.

    What one check finds and others want to know is noted here: whether a pooler is in between that does not keep sessions,
    and whether the schema is as this release needs it.
    """

    def __init__(self, url: str, names: Names) -> None:
        self.url: Final = url
        self.names: Final = names
        self._parsed: Final = read_url(url)
        self.hosts: list[Host | None] = [*self._parsed.hosts]
        """The first one is the host that is examined."""
        self.keeps_sessions = True
        self.has_schema = False
        self.schema_fits = False
        self._connection: Connection | None = None
        self._others: set[Connection] = set()

    @property
    def is_reachable(self) -> bool:
        """Whether a connection was chosen."""
        return self._connection is not None

    def choose(self, host: Host | None, connection: Connection) -> None:
        """Examine this host, over this connection."""
        self.hosts.sort(key=lambda other: other != host)
        self._connection = connection
        self._others.discard(connection)

    async def open(self) -> Connection:
        """Return the connection; open a new one if it is lost."""
        if self._connection is None or self._connection.is_closed():
            self.choose(self.hosts[0], await self.connect())
            assert self._connection is not None
        return self._connection

    async def connect(self, host: Host | None = None, settings: dict[str, str] | None = None) -> Connection:
        """Open a further connection, with a short time limit. It is closed at the end of the check."""
        host = host or self.hosts[0]
        try:
            connection: OwnConnection = await asyncpg.connect(
                **self._parsed.arguments(host),
                ssl=system_context(self._parsed.for_asyncpg),
                timeout=CONNECT_WITHIN_SECONDS,
                statement_cache_size=0,  # poolers mix up named statements
                connection_class=OwnConnection,
                server_settings={**self._parsed.settings, **(settings or {"application_name": "dbos_async doctor"})},
            )
        except TimeoutError:
            raise TimeoutError(f"no connection within {CONNECT_WITHIN_SECONDS:g} seconds") from None
        connection.names = self.names
        self._others.add(connection)
        return connection

    async def fetch(self, statement: Statement, *columns: object) -> list[asyncpg.Record]:
        """Execute one statement, in a transaction that cannot write."""
        return await fetch(await self.open(), statement, *columns)

    async def row(self, statement: Statement, *columns: object) -> asyncpg.Record:
        """Execute one statement that has one row."""
        (row,) = await self.fetch(statement, *columns)
        return row

    async def close_others(self) -> None:
        """Close every connection but the first."""
        others, self._others = self._others, set()
        await asyncio.gather(*map(close, others))

    async def close(self) -> None:
        """Close every connection."""
        if self._connection is not None:
            self._others.add(self._connection)
        await self.close_others()


async def fetch(connection: Connection, statement: Statement, *columns: object, limits: str = LIMITS) -> list[Any]:
    """Execute one statement over this connection, in a transaction that cannot write."""
    give_up_at = asyncio.get_running_loop().time() + ANSWER_WITHIN_SECONDS
    with terminated_after(connection, ANSWER_WITHIN_SECONDS):
        try:
            await connection.execute(f"{BEGIN}; {limits}" if limits else BEGIN)
            found: list[Any] = await connection.fetch(statement.sql.one_row, 0, *columns)
        except asyncpg.PostgresError as error:
            if isinstance(error, asyncpg.PostgresConnectionError) or connection.is_closed():
                raise _late(error, give_up_at) from None
            await connection.execute("rollback")
            raise
        except CONNECT_ERRORS as error:
            connection.terminate()
            raise _late(error, give_up_at) from None
        except BaseException:
            connection.terminate()
            raise
        await connection.execute("rollback")
    return found


def _late(error: Exception, give_up_at: float) -> Exception:
    """The error of a connection that was lost, or a better one when it was given up."""
    if asyncio.get_running_loop().time() >= give_up_at:
        return TimeoutError(f"no answer within {ANSWER_WITHIN_SECONDS:g} seconds")
    return error
