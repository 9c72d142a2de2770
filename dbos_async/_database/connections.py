"""The connections of one process to Postgres: a small pool for statements, and single ones that their callers own.

Pooled connections keep their prepared statements.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

import asyncpg

from dbos_async._database.access import Access
from dbos_async._database.connecting import HOST_SECONDS, Connector
from dbos_async._database.connection_kinds import OWN, C, ConnectionKind, OwnConnection, PiecewiseConnection
from dbos_async._database.loop_watch import LoopWatch
from dbos_async._database.names import Names
from dbos_async._database.outages import OutageLog, is_usable_after
from dbos_async._database.probe import AFTER_SECONDS, OnProbe, Probe, close
from dbos_async._database.timeline import Timeline

RETURN_SECONDS: Final = 1.0
"""How long to wait for a connection that is in use, when the server allows no further one."""

STATEMENTS: Final = "__asyncpg_"
"""How the names begin that asyncpg gives the statements of a session."""


class Postgres:
    """A pool of up to ``Access.max_connections`` connections to one database, opened when needed, the last used first."""

    def __init__(self, access: Access) -> None:
        self.loop_watch: Final = LoopWatch()
        self._access = access
        self.names: Final = Names(access.schema)
        self._connector = Connector(access, access.url, self.names, self.loop_watch)
        self._listening_connector = (
            self._connector
            if access.listen_url is None
            else Connector(access, access.listen_url, self.names, self.loop_watch)
        )
        self._idle: list[OwnConnection] = []
        self._in_use = 0
        """How many connections are acquired, or are being handed to a waiter."""
        self._waiters: deque[asyncio.Future[OwnConnection]] = deque()
        self._slots = asyncio.Semaphore(access.max_connections)
        self._closed = False
        self.outage_log: Final = OutageLog()
        self.timeline: Final = Timeline()
        self._probe = Probe(self.connect, self._connector.log_in, self.discard_idle)
        self.watching: Final = self._probe.watching
        self.watch: Final = self._probe.watch
        self.unwatch: Final = self._probe.unwatch
        self.backends: set[int] = set()
        """The ids of the server processes of all open connections: their notifications come from this process."""

    @property
    def usage(self) -> tuple[int, int]:
        """How many connections for statements are used now, and how many are idle."""
        return self._in_use, len(self._idle)

    async def connect(self) -> OwnConnection:
        """Open a connection to the host that accepts writes. The caller owns it and must close it."""
        connection = await self._connector.connect(OWN)
        await self._look(connection)
        if self._access.read_only:
            await connection.execute("begin isolation level repeatable read, read only")
        backend = connection.backend
        if backend is None:
            return connection  # whoever else uses the process of the server now, its notifications are to be heard
        self.backends.add(backend)
        # The server reuses process ids: after the close, this id may be that of another process's connection.
        connection.add_termination_listener(lambda _: self.backends.discard(backend))
        return connection

    async def connect_plain(self, kind: ConnectionKind[C]) -> C:
        """Open a connection for the statements of users. The caller owns it and must close it."""
        connection = await self._connector.connect(kind)
        await self._look(connection)
        return connection

    async def _look(self, connection: Any) -> None:
        try:
            await self.timeline.look(connection)
        except BaseException:
            connection.terminate()
            raise

    async def connect_to_listen(self) -> OwnConnection:
        """Open a connection that keeps its session: for LISTEN and for locks of sessions. The caller owns it and must close it."""
        return await self._listening_connector.connect(OWN)

    def acquire(self, *, probe_after_seconds: float = AFTER_SECONDS, on_probe: OnProbe | None = None) -> Acquisition:
        """Return a context manager that acquires a connection and releases it: ``async with postgres.acquire() as connection``.

        A connection that broke, or whose statement was interrupted, is not used again. While a statement takes long, the
        server is probed, see `Probe.watching`. Without ``on_probe`` the caller does not want to wait long for a database
        that is away.
        """
        return Acquisition(self, probe_after_seconds, on_probe)

    async def take(self, *, wait_forever: bool) -> OwnConnection:
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

    def release(self, connection: OwnConnection, error: BaseException | None) -> None:
        """Give a taken connection back, with the error that its use ended with, if any."""
        self._in_use -= 1
        if error is None or is_usable_after(error):
            self._give_back(connection)
        elif self._connector.note_error(error):
            connection.terminate()
            self.discard_idle()
        else:
            connection.terminate()
        self._slots.release()

    def note_error(self, connection: PiecewiseConnection, error: BaseException, *, is_to_listen: bool = False) -> bool:
        """Whether this error shows that the connection has no session any more, since a pooler has changed its mode."""
        is_direct = connection.backend == connection.get_server_pid()
        if is_direct or not connection.has_session or STATEMENTS not in str(error):
            return False
        return (self._listening_connector if is_to_listen else self._connector).note_error(error)

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

    async def _connect_or_reuse(self) -> OwnConnection:
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
            waiter: asyncio.Future[OwnConnection] = asyncio.get_running_loop().create_future()
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

    def _pop_idle(self) -> OwnConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return None

    def _give_back(self, connection: OwnConnection) -> None:
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


class Acquisition:
    """Takes a connection, watches it while it is used, and releases it."""

    __slots__ = ("_connection", "_on_probe", "_postgres", "_probe_after_seconds")

    _connection: OwnConnection

    def __init__(self, postgres: Postgres, probe_after_seconds: float, on_probe: OnProbe | None) -> None:
        self._postgres, self._probe_after_seconds, self._on_probe = postgres, probe_after_seconds, on_probe

    async def __aenter__(self) -> OwnConnection:
        self._connection = await self._postgres.take(wait_forever=self._on_probe is not None)
        self._postgres.watch(self._connection, self._probe_after_seconds, self._on_probe)
        return self._connection

    async def __aexit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self._postgres.unwatch(self._connection)
        self._postgres.release(self._connection, error)
