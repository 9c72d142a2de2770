"""What the connections of the library are made of: their classes, and the settings of their sessions.

A session is a process of the server that one connection has for itself. Behind a pooler in transaction mode a connection has none:
each transaction may run in another process, which belongs to others a moment later. Nothing may be left there, and nothing that
was left there is found again. So a connection without a session

- leaves no prepared statement: the text goes with each execution, and only its description is kept here. Some poolers keep the
  prepared statements of each client themselves (`Pooling`), and then the text need not go again;
- sends its settings with each execution, for this transaction alone, in the same message (`settings_messages`);
- is known to the server by a name of its own, for as long as its statement runs (`probe.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeGuard, TypeVar
from uuid import uuid4

import asyncpg

from dbos_async._database.names import Names
from dbos_async._database.outages import CONNECT_ERRORS

if TYPE_CHECKING:
    _Plain = asyncpg.Connection[asyncpg.Record]
else:
    _Plain = asyncpg.Connection

_PLANNING: Final = {
    # One generic plan serves all calls and saves the time to plan each. The plan must suit tables of any size, so statements
    # read tables by index and never join them whole. Only small sets are compared in memory.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}

_MEANING: Final = {
    # What the role or the database has as a default must not change what a statement means. Functions of the schema look anew with
    # each of their statements, which they could not at a stricter level.
    "default_transaction_isolation": "read committed",
    "standard_conforming_strings": "on",
}

LOCK_TIMEOUT: Final = "500ms"
"""What waits longer for a lock than this is repeated on its own, and holds up nothing else (decision 51)."""

SETTINGS = {
    "application_name": "dbos_async",
    **_PLANNING,
    **_MEANING,
    "lock_timeout": LOCK_TIMEOUT,
    # The server's keepalive packets detect a client that vanished, and keep firewalls from forgetting the connection.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "60000",
}

KEEPALIVES: Final = {name: value for name, value in SETTINGS.items() if name.startswith("tcp_")}

RECEIVE_BYTES: Final = 1 << 16


class PiecewiseConnection(_Plain):
    """A connection that reads its socket in pieces of 64 KiB, and needs no session of the server until it is known to have one.

    asyncio reads 256 KiB at a time, for which malloc gets new memory from the system and returns it: "select 1" then takes
    50 µs of the client's CPU instead of 22 (tests/test_savings.py).
    """

    __slots__ = ("backend", "has_session", "keeps_statements", "tag", "wire")

    def __init__(self, protocol: Any, transport: Any, *others: Any) -> None:
        super().__init__(protocol, transport, *others)
        self.has_session: bool = False
        """Whether one process of the server executes everything that comes over this connection."""
        self.keeps_statements: bool = False
        """Whether prepared statements are kept without a session."""
        self.backend: int | None = None
        """The id of that process."""
        self.tag: Final = f"dbos_async {uuid4().hex[:16]}"
        """The name of a connection without a session while its statement runs."""
        self.wire: Final = transport
        if hasattr(transport, "max_size"):
            transport.max_size = RECEIVE_BYTES

    def keep_session(self, backend: int) -> None:
        """Rely on the session from now on."""
        self.has_session, self.backend = True, backend

    async def _get_statement(self, query: str, timeout: float | None, **options: Any) -> Any:
        # asyncpg names its statements alike in all processes. In a shared process of the server that could be the statement
        # of somebody else, so a statement without a session has no name, and its text is sent again with each execution.
        base: Any = super()  # asyncpg's stubs lack the method
        if self.has_session or options.get("named"):
            return await base._get_statement(query, timeout, **options)
        if self.keeps_statements:
            return await base._get_statement(query, timeout, **options | {"named": True, "use_cache": False})
        statement = await base._get_statement(query, timeout, **options | {"use_cache": False})
        statement.mark_unprepared()
        return statement

    def _get_unique_id(self, prefix: str) -> str:
        base: Any = super()  # asyncpg's stubs lack the method
        name: str = base._get_unique_id(prefix)
        return name if self.has_session else f"{name}{self.tag[-16:]}"


_DEFAULT_NAMES: Final = Names()


class OwnConnection(PiecewiseConnection):
    """A connection for statements of the library, whose SQL has the names of this database in it (`names.py`)."""

    __slots__ = ("_described", "lock_timeout", "names")

    def __init__(self, protocol: Any, transport: Any, *others: Any) -> None:
        super().__init__(protocol, transport, *others)
        self.names: Callable[[str], str] = (
            _DEFAULT_NAMES  # asyncpg itself may ask something before it hands the connection out
        )
        self.lock_timeout: str = LOCK_TIMEOUT
        """How long a statement waits for a lock."""
        self._described: dict[str, Any] = {}

    def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        """Execute a query of the library and return its rows."""
        return self._send(super().fetch, self.names(query), args, options)

    def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        """Execute a query of the library and return its first row."""
        return self._send(super().fetchrow, self.names(query), args, options)

    def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        """Execute a query of the library and return a value of its first row."""
        return self._send(super().fetchval, self.names(query), args, options)

    def execute(self, query: str, *args: Any, **options: Any) -> Any:
        """Execute a command of the library."""
        if not args:
            return super().execute(self.names(query), **options)
        return self._send(super().execute, self.names(query), args, options)

    async def set_lock_timeout(self, value: str) -> None:
        """Wait so long for a lock from now on; "0" is for ever."""
        if self.has_session:
            await super().execute(f"set lock_timeout = '{value}'")
        self.lock_timeout = value

    async def set_session(self) -> None:
        """Give the session the settings that statements need, after a pooler has not let them pass."""
        settings = {**_PLANNING, **_MEANING, "lock_timeout": self.lock_timeout}
        await super().execute("; ".join(f"set {name} = '{value}'" for name, value in settings.items()))

    def _send(
        self, method: Callable[..., Coroutine[Any, Any, Any]], query: str, args: Any, options: dict[str, Any]
    ) -> Coroutine[Any, Any, Any]:
        if self.has_session or self.is_in_transaction():
            return method(query, *args, **options)
        if query in self._described:
            return self._send_with_settings(method, query, args, options)
        return self._send_in_transaction(method, query, args, options)

    async def _send_with_settings(
        self, method: Callable[..., Coroutine[Any, Any, Any]], query: str, args: Any, options: dict[str, Any]
    ) -> Any:
        # What is sent until asyncpg's Sync is one transaction. asyncpg passes over the answers, which have no rows.
        self.wire.write(settings_messages(self.tag, self.lock_timeout))
        try:
            return await method(query, *args, **options)
        except asyncpg.InterfaceError:
            if not self.is_closed():
                await super().execute("select 1")  # an argument was refused, and no Sync was sent
            raise

    async def _send_in_transaction(
        self, method: Callable[..., Coroutine[Any, Any, Any]], query: str, args: Any, options: dict[str, Any]
    ) -> Any:
        """For the first execution, before which the server describes the statement: that waits for locks, too."""
        settings = _local_settings(self.tag, self.lock_timeout)
        await super().execute(
            "begin; " + "; ".join(f"set local {name} = '{value}'" for name, value in settings.items())
        )
        try:
            result = await method(query, *args, **options)
        except CONNECT_ERRORS:
            with suppress(*CONNECT_ERRORS):
                await super().execute("rollback")
            raise
        await super().execute("commit")
        return result

    async def _get_statement(self, query: str, timeout: float | None, **options: Any) -> Any:
        if self.has_session or options.get("ignore_custom_codec"):
            return await super()._get_statement(query, timeout, **options)
        statement = self._described.get(query)
        if statement is None:
            statement = self._described[query] = await super()._get_statement(query, timeout, **options)
        return statement

    def cursor(self, query: str, *args: Any, **options: Any) -> Any:
        """Read the rows of a query of the library piece by piece."""
        return super().cursor(self.names(query), *args, **options)


def is_own(connection: object) -> TypeGuard[OwnConnection]:
    """Whether this is a connection for statements of the library. To asyncpg, each is an instance of every kind."""
    return issubclass(type(connection), OwnConnection)


C = TypeVar("C", bound=PiecewiseConnection)


@dataclass(frozen=True)
class ConnectionKind(Generic[C]):
    """What a connection is made of: its class, and the settings of its session."""

    connection_class: type[C]
    settings: dict[str, str]


OWN: Final = ConnectionKind(OwnConnection, SETTINGS)


def _local_settings(tag: str, lock_timeout: str) -> dict[str, str]:
    return {"application_name": tag, "lock_timeout": lock_timeout, **_PLANNING}


def settings_messages(tag: str, lock_timeout: str) -> bytes:
    """The messages to the server that set all this until the end of the transaction: Parse, Bind and Execute of one query.

    The query has no rows. It needs no Sync, so the statement that follows is in the same transaction.
    """
    settings = _local_settings(tag, lock_timeout).items()
    calls = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in settings)
    parse = f"\0select where concat({calls}) is null\0\0\0".encode()
    return b"".join(
        kind + (len(body) + 4).to_bytes(4) + body for kind, body in ((b"P", parse), (b"B", bytes(8)), (b"E", bytes(5)))
    )
