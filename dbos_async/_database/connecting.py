"""Opens single connections to one database. A URL may name several hosts: each connection goes to the host that accepts writes."""

from __future__ import annotations

import os
from collections import deque
from typing import Final, cast

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from dbos_async._database.access import Access
from dbos_async._database.connection_kinds import ConnectionKind, OwnConnection
from dbos_async._database.loop_watch import LoopWatch
from dbos_async._database.names import Names
from dbos_async._database.outages import is_lost
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

    async def connect(self, kind: ConnectionKind) -> asyncpg.Connection[asyncpg.Record]:
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
        if issubclass(
            kind.connection_class, OwnConnection
        ):  # isinstance takes each connection of asyncpg for any other
            cast("OwnConnection", connection).names = self._names
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
