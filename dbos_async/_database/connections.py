"""The connections of one process to Postgres: a small pool for statements, and single ones that their callers own.

Pooled connections keep their prepared statements. A URL may name several hosts: each new connection goes to the host that
accepts writes.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from dbos_async._database.loop_watch import LoopWatch
from dbos_async._database.outages import OutageLog, is_lost, is_usable_after
from dbos_async._database.probe import AFTER_SECONDS, OnProbe, Probe, close
from dbos_async._database.urls import Host, hosts_of, names_session, reason_of, without_hosts, without_libpq_parameters

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
    # What waits longer for a lock than this is repeated on its own, and holds up nothing else (decision 51).
    "lock_timeout": "500ms",
    # The server's keepalive packets detect a client that vanished, and keep firewalls from forgetting the connection.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "60000",
}

KEEPALIVES: Final = {name: value for name, value in SETTINGS.items() if name.startswith("tcp_")}

RECEIVE_BYTES = 1 << 16
HOST_SECONDS = 5.0
"""How long one host has to accept a connection, at the first attempt."""
RETURN_SECONDS = 1.0
"""How long to wait for a connection that is in use, when the server allows no further one."""


class ConnectionKind(NamedTuple):
    """What a connection is made of: its class, and the settings of its session."""

    connection_class: type[asyncpg.Connection[asyncpg.Record]]
    settings: dict[str, str]
    executes_calls: bool
    """Whether this process wakes its own waiters after what is committed here."""


class Postgres:
    """A pool of up to ``max_connections`` connections to one database, opened when needed, the last used first."""

    def __init__(
        self,
        url: str,
        *,
        max_connections: int = 8,
        connect_timeout_seconds: float = 30.0,
        read_only: bool = False,
    ) -> None:
        url = without_libpq_parameters(url)
        hosts = hosts_of(url)
        self._url = without_hosts(url) if hosts else url
        self._connect_timeout_seconds = connect_timeout_seconds
        self._hosts: list[Host | None] = [*hosts] or [None]
        self._host_seconds = min(HOST_SECONDS, connect_timeout_seconds)
        url_names_session = names_session(self._url) or "PGTARGETSESSIONATTRS" in os.environ
        self._is_read_only = read_only
        self._session = None if url_names_session else SessionAttribute.read_write
        self._was_connected = False
        self._idle: list[asyncpg.Connection[asyncpg.Record]] = []
        self._in_use = 0
        """How many connections are acquired, or are being handed to a waiter."""
        self._waiters: deque[asyncio.Future[asyncpg.Connection[asyncpg.Record]]] = deque()
        self._slots = asyncio.Semaphore(max_connections)
        self._closed = False
        self.loop_watch: Final = LoopWatch()
        self.outage_log: Final = OutageLog()
        self._probe = Probe(self.connect, self.discard_idle)
        self.watching: Final = self._probe.watching
        self.watch: Final = self._probe.watch
        self.unwatch: Final = self._probe.unwatch
        self.backends: set[int] = set()
        """The ids of the server processes of all open connections: their notifications come from this process."""

    @property
    def usage(self) -> tuple[int, int]:
        """How many connections for statements are used now, and how many are idle."""
        return self._in_use, len(self._idle)

    async def connect(self, kind: ConnectionKind | None = None) -> asyncpg.Connection[asyncpg.Record]:
        """Open a connection to the host that accepts writes. The caller owns it and must close it."""
        errors: list[Exception] = []
        hosts = deque(self._hosts)
        while hosts:
            host = hosts.popleft()
            try:
                connection = await self._connect_to(host, kind or _OWN)
            except TimeoutError:
                if self.loop_watch.was_blocked():
                    hosts.appendleft(host)  # the host may have answered in time
                    continue
                errors.append(TimeoutError(f"no connection within {self._host_seconds:g} seconds"))
                continue
            except Exception as error:
                errors.append(error)
                continue
            self._was_connected = True
            self._host_seconds = min(HOST_SECONDS, self._connect_timeout_seconds)
            # Try the host that worked first at the next connect.
            self._hosts.sort(key=lambda other: other != host)
            return connection
        if all(isinstance(error, TimeoutError) for error in errors):
            # The hosts may only be slow, so each gets more time at the next attempt.
            self._host_seconds = min(2 * self._host_seconds, self._connect_timeout_seconds)
        raise self._error_to_raise(errors)

    def acquire(self, *, probe_after_seconds: float = AFTER_SECONDS, on_probe: OnProbe | None = None) -> Acquisition:
        """Return a context manager that acquires a connection and releases it: ``async with postgres.acquire() as connection``.

        A connection that broke, or whose statement was interrupted, is not used again. While a statement takes long, the
        server is probed, see `Probe.watching`. Without ``on_probe`` the caller does not want to wait long for a database
        that is away.
        """
        return Acquisition(self, probe_after_seconds, on_probe)

    async def take(self, *, wait_forever: bool) -> asyncpg.Connection[asyncpg.Record]:
        """Return an idle or a new connection, as soon as fewer than ``max_connections`` are in use."""
        await self._slots.acquire()
        try:
            connection = self._pop_idle()
            if connection is None:
                async with asyncio.timeout(None if wait_forever else HOST_SECONDS):
                    connection = await self._connect_or_reuse()
        except BaseException:
            self._slots.release()
            raise
        self._in_use += 1
        return connection

    def release(self, connection: asyncpg.Connection[asyncpg.Record], error: BaseException | None) -> None:
        """Give a taken connection back, with the error that its use ended with, if any."""
        self._in_use -= 1
        if error is None or is_usable_after(error):
            self._give_back(connection)
        else:
            connection.terminate()
        self._slots.release()

    def discard_idle(self) -> None:
        """Terminate all idle connections: another connection was found dead, and these may be dead, too."""
        while self._idle:
            self._idle.pop().terminate()

    async def close(self) -> None:
        """Close every idle connection. Those in use are closed when they are released."""
        self._closed = True
        await self._probe.close()
        idle, self._idle = self._idle, []
        await asyncio.gather(*map(close, idle))

    async def _connect_to(self, host: Host | None, kind: ConnectionKind) -> asyncpg.Connection[asyncpg.Record]:
        connection = await asyncpg.connect(
            self._url,
            host=host and host.name,
            port=host and host.port,
            timeout=self._host_seconds,
            target_session_attrs=self._session,
            connection_class=kind.connection_class,
            server_settings=kind.settings,
            max_cached_statement_lifetime=0,
        )
        if not kind.executes_calls:
            return connection
        if self._is_read_only:
            await connection.execute("begin isolation level repeatable read, read only")
        backend = connection.get_server_pid()
        self.backends.add(backend)
        # The server reuses process ids: after the close, this id may be that of another process's connection.
        connection.add_termination_listener(lambda _: self.backends.discard(backend))
        return connection

    def _error_to_raise(self, errors: list[Exception]) -> Exception:
        for error in errors:
            if isinstance(error, asyncpg.TooManyConnectionsError):
                return error
        for error in errors:
            # A wrong password or database name is reported at once, unless a connection succeeded before.
            if not is_lost(error) and not self._was_connected:
                return error
        if len(errors) == 1 and is_lost(errors[0]):
            return errors[0]
        return ConnectionError("; ".join(map(reason_of, errors)))

    async def _connect_or_reuse(self) -> asyncpg.Connection[asyncpg.Record]:
        connection = self._pop_idle()
        if connection is not None:
            return connection
        try:
            return await self.connect()
        except asyncpg.TooManyConnectionsError:
            connection = self._pop_idle()  # One may have been released meanwhile.
            if connection is not None:
                return connection
            if not self._in_use:
                raise
            # Use the connections that exist: the next one that is released goes to the first waiter.
            waiter: asyncio.Future[asyncpg.Connection[asyncpg.Record]] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await asyncio.wait([waiter], timeout=RETURN_SECONDS)
            except asyncio.CancelledError:
                if not waiter.cancel():
                    self._in_use -= 1
                    self._give_back(waiter.result())
                raise
            if waiter.cancel():
                raise
            self._in_use -= 1
            return waiter.result()

    def _pop_idle(self) -> asyncpg.Connection[asyncpg.Record] | None:
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
                waiter = self._waiters.popleft()
                if not waiter.done():
                    waiter.set_result(connection)
                    self._in_use += 1
                    return
            self._idle.append(connection)


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


_OWN: Final = ConnectionKind(PiecewiseConnection, SETTINGS, executes_calls=True)


class Acquisition:
    """Takes a connection, watches it while it is used, and releases it."""

    __slots__ = ("_connection", "_on_probe", "_postgres", "_probe_after_seconds")

    _connection: asyncpg.Connection[asyncpg.Record]

    def __init__(self, postgres: Postgres, probe_after_seconds: float, on_probe: OnProbe | None) -> None:
        self._postgres, self._probe_after_seconds, self._on_probe = postgres, probe_after_seconds, on_probe

    async def __aenter__(self) -> asyncpg.Connection[asyncpg.Record]:
        self._connection = await self._postgres.take(wait_forever=self._on_probe is not None)
        self._postgres.watch(self._connection, self._probe_after_seconds, self._on_probe)
        return self._connection

    async def __aexit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self._postgres.unwatch(self._connection)
        self._postgres.release(self._connection, error)
