"""Opens single connections to one database. A URL may name several hosts: each connection goes to the host that accepts writes."""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
from collections import deque
from typing import Final

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from dbos_async._database.access import Access, TakesStandby
from dbos_async._database.connection_kinds import OWN, C, ConnectionKind, is_own
from dbos_async._database.loop_watch import LoopWatch
from dbos_async._database.names import Names
from dbos_async._database.outages import is_lost
from dbos_async._database.passwords import PasswordSource
from dbos_async._database.pooling import Pooling
from dbos_async._database.remedies import may_pass
from dbos_async._database.tls import missing_file, system_context, verifies_names
from dbos_async._database.urls import DatabaseUrl, Host, read_url, reason_of
from dbos_async.errors import ConfigurationError

HOST_SECONDS: Final = 5.0
"""How long one host has to accept a connection, at the first attempt; connect_timeout in the URL says otherwise."""

MAX_HOST_SECONDS: Final = 10.0
"""What the URL may say at most: a lease lasts 15 s, and another host may be the one that answers."""

NEED_NO_WRITES: Final = frozenset({"any", "standby", "prefer-standby", "read-only"})


class Connector:
    """Opens connections by one of the URLs of an access."""

    def __init__(self, access: Access, url: str, names: Names, loop_watch: LoopWatch) -> None:
        self._access, self._names = access, names
        self._url = read_url(url)
        self._password = access.password and PasswordSource.of(access.password)
        self._hosts = [*self._url.hosts]
        wanted = min(self._url.connect_seconds or HOST_SECONDS, MAX_HOST_SECONDS)
        self._first_seconds = self._host_seconds = min(wanted, access.connect_timeout_seconds)
        self._session = _session(self._url, access)
        self._loop_watch = loop_watch
        self._was_connected = False
        self._pooling = Pooling()

    @functools.cached_property
    def _ssl(self) -> ssl.SSLContext | None:
        return system_context(self._url.for_asyncpg)

    async def connect(self, kind: ConnectionKind[C]) -> C:
        """Open a connection to the host that accepts writes. The caller owns it and must close it."""
        password = None if self._password is None else await self._password()
        errors: list[Exception] = []
        hosts = deque(self._hosts)
        addresses: set[Host | None] = set()
        while hosts:
            host = hosts.popleft()
            try:
                connection = await self._connect_to(host, kind, password)
            except TimeoutError:
                if self._loop_watch.was_blocked():
                    hosts.appendleft(host)  # the host may have answered in time
                    continue
                errors.append(TimeoutError(f"no connection within {self._host_seconds:g} seconds"))
            except Exception as error:
                error = self._explained(error)
                if host in addresses and not is_lost(error):
                    continue  # a proxy may need the name, by TLS: what it says to an address is not the reason
                errors.append(error)
                if not (is_lost(error) and may_pass(error)):
                    continue
            else:
                self._was_connected = True
                self._host_seconds = self._first_seconds
                # Try the host that worked first at the next connect.
                self._hosts.sort(key=lambda other: other != host)
                return connection
            found = await self._addresses(host)
            addresses.update(found)
            hosts.extendleft(found)
        if all(isinstance(error, TimeoutError) for error in errors):
            # The hosts may only be slow, so each gets more time at the next attempt.
            self._host_seconds = min(2 * self._host_seconds, self._access.connect_timeout_seconds)
        raise self._error_to_raise(errors)

    def note_error(self, error: BaseException | None) -> bool:
        """Whether an error of a connection shows that the connections have no sessions."""
        return self._pooling.note_error(error)

    async def log_in(self) -> None:
        """Connect to the host that worked last, and ask nothing: a pooler answers that itself."""
        password = None if self._password is None else await self._password()
        host = self._hosts[0]
        connection = await asyncpg.connect(
            **self._url.arguments(host, password),
            ssl=self._ssl,
            timeout=self._host_seconds,
            server_settings=self._settings(OWN),
        )
        connection.terminate()

    async def _connect_to(self, host: Host | None, kind: ConnectionKind[C], password: str | None) -> C:
        """Open a connection to this host, and find out whether it has a session. The time limit is for all of that."""
        opened: list[C] = []

        async def open_another() -> C:
            opened.append(await self._open(host, kind, password))
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

    async def _open(self, host: Host | None, kind: ConnectionKind[C], password: str | None) -> C:
        return await asyncpg.connect(
            **self._url.arguments(host, password),
            ssl=self._ssl,
            timeout=self._host_seconds,
            target_session_attrs=self._session,
            connection_class=kind.connection_class,
            server_settings=self._settings(kind),
            max_cached_statement_lifetime=0,
        )

    def _settings(self, kind: ConnectionKind[C]) -> dict[str, str]:
        return {**self._url.settings, **self._pooling.settings(kind)}

    async def _addresses(self, host: Host | None) -> list[Host]:
        """The addresses of a host whose name has several. Of those, asyncpg takes the first that answers, which may be a standby.

        A certificate that must have the name in it is none for an address.
        """
        if host is None or host.name.startswith("/") or verifies_names(self._url.for_asyncpg):
            return []
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host.name, host.port, type=socket.SOCK_STREAM)
        except OSError:
            return []
        addresses = dict.fromkeys(Host(str(info[4][0]), host.port) for info in found)
        return [*addresses] if len(addresses) > 1 else []

    def _explained(self, error: Exception) -> Exception:
        """The error, or a better one: that of a missing file does not say which, and looks as if the server were away."""
        if isinstance(error, OSError) and (missing := missing_file(self._url.for_asyncpg)):
            name, path = missing
            return asyncpg.ClientConfigurationError(f"the file of {name}, {path}, is not there or cannot be read")
        return error

    def _error_to_raise(self, errors: list[Exception]) -> Exception:
        for error in errors:
            if isinstance(error, asyncpg.TooManyConnectionsError):
                return error
        if not self._was_connected:
            # What only another URL or another setting can mend is reported at once, unless a connection succeeded before.
            for error in errors:
                if not is_lost(error):
                    return error
            if len(errors) == 1 or not any(map(may_pass, errors)):
                return errors[0]
        if len(errors) == 1 and is_lost(errors[0]):
            return errors[0]
        return ConnectionError("; ".join(dict.fromkeys(map(reason_of, errors))))


def _session(url: DatabaseUrl, access: Access) -> SessionAttribute:
    """Which of the hosts to take."""
    wanted = url.target_session_attrs or _without_wish(url, access).value
    if wanted not in {each.value for each in SessionAttribute}:
        known = ", ".join(each.value for each in SessionAttribute)
        raise ConfigurationError(f"target_session_attrs in the URL of the database must be one of {known}.")
    if access.read_only or access.takes_standby is not TakesStandby.NEVER or wanted not in NEED_NO_WRITES:
        return SessionAttribute(wanted)
    if wanted == SessionAttribute.any.value:
        return SessionAttribute.read_write  # of any hosts, one that can be used
    raise ConfigurationError(
        f"The URL of the database asks for a standby (target_session_attrs={wanted}), and dbos_async has to write: "
        "leave that out, and it finds the host that takes writes."
    )


def _without_wish(url: DatabaseUrl, access: Access) -> SessionAttribute:
    """Which of the hosts to take if the URL does not say."""
    is_alone = len(url.hosts) == 1 and access.takes_standby is TakesStandby.IF_NAMED
    return (
        SessionAttribute.any if is_alone or access.takes_standby is TakesStandby.ALWAYS else SessionAttribute.read_write
    )
