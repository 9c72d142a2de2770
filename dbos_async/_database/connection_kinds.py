"""What the connections of the library are made of: their classes, and the settings of their sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import asyncpg

from dbos_async._database.names import Names

if TYPE_CHECKING:
    _Plain = asyncpg.Connection[asyncpg.Record]
else:
    _Plain = asyncpg.Connection

SETTINGS = {
    "application_name": "dbos_async",
    # One generic plan serves all calls and saves the time to plan each. The plan must suit tables of any size, so statements
    # read tables by index and never join them whole. Only small sets are compared in memory.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    # What the role or the database has as a default must not change what a statement means. Functions of the schema look anew with
    # each of their statements, which they could not at a stricter level.
    "default_transaction_isolation": "read committed",
    "standard_conforming_strings": "on",
    # What waits longer for a lock than this is repeated on its own, and holds up nothing else (decision 51).
    "lock_timeout": "500ms",
    # The server's keepalive packets detect a client that vanished, and keep firewalls from forgetting the connection.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "60000",
}

KEEPALIVES: Final = {name: value for name, value in SETTINGS.items() if name.startswith("tcp_")}

RECEIVE_BYTES: Final = 1 << 16


class ConnectionKind(NamedTuple):
    """What a connection is made of: its class, and the settings of its session."""

    connection_class: type[asyncpg.Connection[asyncpg.Record]]
    settings: dict[str, str]
    executes_calls: bool
    """Whether this process wakes its own waiters after what is committed here."""


class PiecewiseConnection(_Plain):
    """A connection that reads its socket in pieces of 64 KiB.

    asyncio reads 256 KiB at a time, for which malloc gets new memory from the system and returns it: "select 1" then takes
    50 µs of the client's CPU instead of 22 (tests/test_savings.py).
    """

    __slots__ = ()

    def __init__(self, protocol: Any, transport: Any, *others: Any) -> None:
        super().__init__(protocol, transport, *others)
        if hasattr(transport, "max_size"):
            transport.max_size = RECEIVE_BYTES


_DEFAULT_NAMES: Final = Names()


class OwnConnection(PiecewiseConnection):
    """A connection for statements of the library, whose SQL has the names of this database in it (`names.py`)."""

    __slots__ = ("names",)

    names: Names

    def __init__(self, protocol: Any, transport: Any, *others: Any) -> None:
        super().__init__(protocol, transport, *others)
        self.names = _DEFAULT_NAMES  # asyncpg itself may ask something before it hands the connection out

    def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        """Execute a query of the library and return its rows."""
        return super().fetch(self.names(query), *args, **options)

    def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        """Execute a query of the library and return its first row."""
        return super().fetchrow(self.names(query), *args, **options)

    def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        """Execute a query of the library and return a value of its first row."""
        return super().fetchval(self.names(query), *args, **options)

    def execute(self, query: str, *args: Any, **options: Any) -> Any:
        """Execute a command of the library."""
        return super().execute(self.names(query), *args, **options)

    def cursor(self, query: str, *args: Any, **options: Any) -> Any:
        """Read the rows of a query of the library piece by piece."""
        return super().cursor(self.names(query), *args, **options)


OWN: Final = ConnectionKind(OwnConnection, SETTINGS, executes_calls=True)
