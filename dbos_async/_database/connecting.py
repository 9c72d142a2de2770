"""Opens single connections to one database. A URL may name several hosts: each connection goes to the host that accepts writes."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import Final

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from dbos_async._database.access import Access
from dbos_async._database.connection_kinds import OWN, C, ConnectionKind, is_own
from dbos_async._database.loop_watch import LoopWatch
from dbos_async._database.names import Names
from dbos_async._database.outages import is_lost
from dbos_async._database.pooling import Pooling
from dbos_async._database.urls import Host, hosts_of, names_session, reason_of, without_hosts, without_libpq_parameters

HOST_SECONDS: Final = 5.0
"""How long one host has to accept a connection, at the first attempt."""


class Connector:
    """Opens connections by one of the URLs of an access."""

    def __init__(self, access: Access, url: str, names: Names, loop_watch: LoopWatch) -> None:
        url = without_libpq_parameters(url)
        hosts = hosts_of(url)
        self._access, self._names = access, names
        self._url = without_hosts(url) if hosts else url
        self._hosts: list[Host | None] = [*hosts] or [None]
        self._host_seconds = min(HOST_SECONDS, access.connect_timeout_seconds)
        url_names_session = names_session(self._url) or "PGTARGETSESSIONATTRS" in os.environ
        self._session = None if url_names_session else SessionAttribute.read_write
        self._loop_watch = loop_watch
        self._was_connected = False
        self._pooling = Pooling()

    async def connect(self, kind: ConnectionKind[C]) -> C:
        """Open a connection to the host that accepts writes. The caller owns it and must close it."""
        errors: list[Exception] = []
        hosts = deque(self._hosts)
        while hosts:
            host = hosts.popleft()
            try:
                connection = await self._connect_to(host, kind)
            except TimeoutError:
                if self._loop_watch.was_blocked():
                    hosts.appendleft(host)  # the host may have answered in time
                    continue
                errors.append(TimeoutError(f"no connection within {self._host_seconds:g} seconds"))
                continue
            except Exception as error:
                errors.append(error)
                continue
            self._was_connected = True
            self._host_seconds = min(HOST_SECONDS, self._access.connect_timeout_seconds)
            # Try the host that worked first at the next connect.
            self._hosts.sort(key=lambda other: other != host)
            return connection
        if all(isinstance(error, TimeoutError) for error in errors):
            # The hosts may only be slow, so each gets more time at the next attempt.
            self._host_seconds = min(2 * self._host_seconds, self._access.connect_timeout_seconds)
        raise self._error_to_raise(errors)

    async def log_in(self) -> None:
        """Connect to the host that worked last, and ask nothing: a pooler answers that itself."""
        host = self._hosts[0]
        connection = await asyncpg.connect(
            self._url,
            host=host and host.name,
            port=host and host.port,
            timeout=self._host_seconds,
            server_settings=self._pooling.settings(OWN),
        )
        connection.terminate()

    async def _connect_to(self, host: Host | None, kind: ConnectionKind[C]) -> C:
        """Open a connection to this host, and find out whether it has a session. The time limit is for all of that."""
        opened: list[C] = []

        async def open_another() -> C:
            opened.append(await self._open(host, kind))
            return opened[-1]

        try:
            async with asyncio.timeout(self._host_seconds):
                try:
                    connection = await open_another()
                except asyncpg.PostgresError as error:
                    if not self._pooling.may_connect_after(error):
                        raise
                    connection = await open_another()
                await self._pooling.recognise(connection, open_another)
        except BaseException:
            for each in opened:
                each.terminate()
            raise
        if is_own(connection):
            connection.names = self._names
        return connection

    async def _open(self, host: Host | None, kind: ConnectionKind[C]) -> C:
        return await asyncpg.connect(
            self._url,
            host=host and host.name,
            port=host and host.port,
            timeout=self._host_seconds,
            target_session_attrs=self._session,
            connection_class=kind.connection_class,
            server_settings=self._pooling.settings(kind),
            max_cached_statement_lifetime=0,
        )

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
