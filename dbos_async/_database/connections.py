"""The connections of one process to Postgres: a few for statements, which keep their prepared plans, and extra ones on demand.

Which errors mean that a connection is gone, that the database cannot do it now, and that the same statement may simply be
said again, is decided here. A URL may name several hosts: the one that takes writes is found at every connect.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from dbos_async._database.probe import AFTER_SECONDS, OnProbe, Probe, close
from dbos_async._database.urls import Host, asks_for_session, hosts_of, reason_of, without_hosts

if TYPE_CHECKING:
    _Plain = asyncpg.Connection[asyncpg.Record]
else:
    _Plain = asyncpg.Connection

REFUSED = (
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.PostgresIOError,
)
"""The database cannot do it now (it is read-only, full, or told to stop), and has said so: nothing was committed."""

LOST = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InternalClientError,
    *REFUSED,
)
"""The database cannot be reached, or the connection broke: whether the statement was committed is not known, unless refused."""

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
    # The server notices a client that vanished, and its questions keep the connection known to firewalls.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "60000",
}

TRANSACTION_TIMEOUT = "25P04"
"""An error that only newer releases of asyncpg have a class for."""

RECEIVE_BYTES = 1 << 16
HOST_SECONDS = 5.0
RETURN_SECONDS = 1.0


def is_lost(error: BaseException) -> bool:
    """Whether this error says that the database is away or cannot do it now, rather than that the statement is wrong."""
    if isinstance(error, asyncpg.InterfaceError):
        # asyncpg says "connection is closed" and "this value cannot be encoded" with the same family of errors.
        return not isinstance(error, ValueError)
    return isinstance(error, LOST) or getattr(error, "sqlstate", None) == TRANSACTION_TIMEOUT


def is_refused(error: BaseException) -> bool:
    """Whether the database itself has said that it did not do it."""
    return isinstance(error, REFUSED)


class Postgres:
    """Up to ``max_connections`` connections to one database, opened when needed, last used first."""

    def __init__(self, url: str, *, max_connections: int = 8, connect_timeout_seconds: float = 30.0) -> None:
        hosts = hosts_of(url)
        self._url = without_hosts(url) if hosts else url
        self._connect_timeout_seconds = connect_timeout_seconds
        self._hosts: list[Host | None] = [*hosts] or [None]
        self._host_seconds = min(HOST_SECONDS, connect_timeout_seconds)
        says_itself = asks_for_session(self._url) or "PGTARGETSESSIONATTRS" in os.environ
        self._session = None if says_itself else SessionAttribute.read_write
        self._was_usable = False
        self._idle: list[asyncpg.Connection[asyncpg.Record]] = []
        self._in_use = 0
        """How many are with somebody, or on their way to somebody who waited."""
        self._waiters: deque[asyncio.Future[asyncpg.Connection[asyncpg.Record]]] = deque()
        self._room = asyncio.Semaphore(max_connections)
        self._closed = False
        self._probe = Probe(self.connect, self.discard_idle)
        self.watching: Final = self._probe.watching
        self.watch: Final = self._probe.watch
        self.unwatch: Final = self._probe.unwatch
        self.backends: set[int] = set()
        """The server processes behind the open connections: their notifications are our own."""

    async def connect(self) -> asyncpg.Connection[asyncpg.Record]:
        """A new connection that belongs to the caller, who closes it. It is to the host that takes writes, wherever that is."""
        errors: list[Exception] = []
        for host in list(self._hosts):
            try:
                connection = await self._connect_to(host)
            except TimeoutError:
                errors.append(TimeoutError(f"no connection within {self._host_seconds:g} seconds"))
                continue
            except Exception as error:
                errors.append(error)
                continue
            self._was_usable = True
            self._host_seconds = min(HOST_SECONDS, self._connect_timeout_seconds)
            # The last good one is asked first.
            self._hosts.sort(key=lambda other: other != host)
            return connection
        if all(isinstance(error, TimeoutError) for error in errors):
            # Perhaps they are only slow: then each gets more time at the next attempt.
            self._host_seconds = min(2 * self._host_seconds, self._connect_timeout_seconds)
        raise self._why_not(errors)

    def connection(self, *, probe_after_seconds: float = AFTER_SECONDS, on_probe: OnProbe | None = None) -> Acquisition:
        """A connection for one statement. One that was interrupted or broke is not used again.

        A statement that takes long is looked after, see `Probe.watching`; without ``heard`` nothing here waits long for
        a database that is away.
        """
        return Acquisition(self, probe_after_seconds, on_probe)

    async def acquire_connection(self, *, retry_forever: bool) -> asyncpg.Connection[asyncpg.Record]:
        """A connection, as soon as there is room for one more."""
        await self._room.acquire()
        try:
            connection = self._take_idle()
            if connection is None:
                # Who does not want to hear of probes does not want to wait long, either: it shuts down.
                async with asyncio.timeout(None if retry_forever else HOST_SECONDS):
                    connection = await self._find()
        except BaseException:
            self._room.release()
            raise
        self._in_use += 1
        return connection

    def release_connection(self, connection: asyncpg.Connection[asyncpg.Record], error: BaseException | None) -> None:
        """It is not needed any more, after this error if there was one."""
        self._in_use -= 1
        if error is None or _leaves_it_usable(error):
            self._give_back(connection)
        else:
            connection.terminate()
        self._room.release()

    def discard_idle(self) -> None:
        """Use no idle connection again: one of the same age turned out to be dead, and had not said so."""
        while self._idle:
            self._idle.pop().terminate()

    async def close(self) -> None:
        """Close every idle connection; the others are closed when they come back."""
        self._closed = True
        await self._probe.close()
        idle, self._idle = self._idle, []
        await asyncio.gather(*map(close, idle))

    async def _connect_to(self, host: Host | None) -> asyncpg.Connection[asyncpg.Record]:
        connection = await asyncpg.connect(
            self._url,
            host=host and host.name,
            port=host and host.port,
            timeout=self._host_seconds,
            target_session_attrs=self._session,
            connection_class=_Connection,
            server_settings=SETTINGS,
            max_cached_statement_lifetime=0,
        )
        backend = connection.get_server_pid()
        self.backends.add(backend)
        # The server gives process ids out again, so a closed connection's id may soon be somebody else's.
        connection.add_termination_listener(lambda _: self.backends.discard(backend))
        return connection

    def _why_not(self, errors: list[Exception]) -> Exception:
        for error in errors:
            if isinstance(error, asyncpg.TooManyConnectionsError):
                return error
        for error in errors:
            # A wrong password or database is for a person to repair; but what was right once may be right again.
            if not is_lost(error) and not self._was_usable:
                return error
        if len(errors) == 1 and is_lost(errors[0]):
            return errors[0]
        return ConnectionError("; ".join(map(reason_of, errors)))

    async def _find(self) -> asyncpg.Connection[asyncpg.Record]:
        connection = self._take_idle()
        if connection is not None:
            return connection
        try:
            return await self.connect()
        except asyncpg.TooManyConnectionsError:
            connection = self._take_idle()  # One may have come back meanwhile.
            if connection is not None:
                return connection
            if not self._in_use:
                raise
            # Go on with those that there are: the next one that is free is for whoever waits longest.
            place: asyncio.Future[asyncpg.Connection[asyncpg.Record]] = asyncio.get_running_loop().create_future()
            self._waiters.append(place)
            try:
                await asyncio.wait([place], timeout=RETURN_SECONDS)
            except asyncio.CancelledError:
                if not place.cancel():
                    self._in_use -= 1
                    self._give_back(place.result())
                raise
            if place.cancel():
                raise
            self._in_use -= 1
            return place.result()

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
            while self._waiters:
                place = self._waiters.popleft()
                if not place.done():
                    place.set_result(connection)
                    self._in_use += 1
                    return
            self._idle.append(connection)


class _Connection(_Plain):
    """A connection that takes what comes in pieces of moderate size.

    asyncio's own 256 KiB are new memory from the system for each of them, which takes ten times as long as the receiving.
    """

    __slots__ = ()

    def __init__(self, protocol: Any, transport: Any, *others: Any) -> None:
        super().__init__(protocol, transport, *others)
        if hasattr(transport, "max_size"):
            transport.max_size = RECEIVE_BYTES


class Acquisition:
    """``async with`` one of the connections: lent, looked after while it is used, and taken back."""

    __slots__ = ("_connection", "_on_probe", "_postgres", "_probe_after_seconds")

    _connection: asyncpg.Connection[asyncpg.Record]

    def __init__(self, postgres: Postgres, probe_after_seconds: float, on_probe: OnProbe | None) -> None:
        self._postgres, self._probe_after_seconds, self._on_probe = postgres, probe_after_seconds, on_probe

    async def __aenter__(self) -> asyncpg.Connection[asyncpg.Record]:
        self._connection = await self._postgres.acquire_connection(retry_forever=self._on_probe is not None)
        self._postgres.watch(self._connection, self._probe_after_seconds, self._on_probe)
        return self._connection

    async def __aexit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self._postgres.unwatch(self._connection)
        self._postgres.release_connection(self._connection, error)


def _leaves_it_usable(error: BaseException) -> bool:
    if isinstance(error, asyncpg.InterfaceError):
        return isinstance(error, ValueError)
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
        return False  # The primary is somewhere else now.
    return isinstance(error, asyncpg.PostgresError) and (is_refused(error) or not is_lost(error))
