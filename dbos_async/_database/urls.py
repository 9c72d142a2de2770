"""The URL of a database: the hosts that it names, and what of it may be shown."""

from __future__ import annotations

import functools
import logging
from typing import Final, NamedTuple
from urllib.parse import parse_qs, unquote, unquote_plus, urlsplit, urlunsplit

from dbos_async._logs import shown, without_stop

_log = logging.getLogger("dbos_async")

_LIBPQ_ONLY: Final = frozenset({
    "channel_binding", "client_encoding", "connect_timeout", "fallback_application_name", "gssdelegation", "gssencmode",
    "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "load_balance_hosts", "max_protocol_version",
    "min_protocol_version", "replication", "require_auth", "requirepeer", "scram_client_key", "scram_server_key", "sslcertmode",
    "sslcompression", "sslcrldir", "sslkeylogfile", "sslsni", "tcp_user_timeout",
})  # fmt: skip
"""Parameters of a URL that libpq knows and asyncpg takes for settings of the server, which would refuse them."""

_WEAKENS: Final = frozenset(
    {"channel_binding=require", "gssencmode=require", "require_auth", "requirepeer", "sslcertmode=require"}
)
"""Those of them that ask for a protection which asyncpg does not have."""


class Host(NamedTuple):
    """One server of the database. Its name is a host name, an IP address, or the folder of a Unix socket."""

    name: str
    port: int


def without_libpq_parameters(url: str) -> str:
    """Return the URL without the parameters that only libpq knows; the log names those that would have protected something."""
    before, mark, query = url.partition("?")
    query, hash_mark, fragment = query.partition("#")
    kept: list[str] = []
    names_host = _named_hosts(url)[0] != "" or "&host=" in f"&{query}"
    for each in query.split("&"):
        name, _, value = each.partition("=")
        name = unquote_plus(name)
        if name == "hostaddr":
            kept += [] if names_host else [f"host={value}"]
        elif name not in _LIBPQ_ONLY:
            kept.append(each)
        elif name in _WEAKENS or f"{name}={unquote_plus(value)}" in _WEAKENS:
            _warn(name)
    return f"{before}{mark if kept else ''}{'&'.join(kept)}{hash_mark}{fragment}"


@functools.cache  # once in a process
def _warn(name: str) -> None:
    _log.warning("The URL of the database asks for %s, which asyncpg does not have: it is left out.", name)


def hosts_of(url: str) -> list[Host]:
    """Return the hosts of a URL that names several, and an empty list for any other URL, which asyncpg reads itself."""
    named, rest = _named_hosts(url)
    try:
        query = parse_qs(urlsplit(rest).query)
        names = [unquote(name) for name in named.split(",")]
        if names == [""]:
            names = query.get("host", [""])[-1].split(",")
        if len(names) < 2:
            return []
        ports = query.get("port", [""])[-1].split(",")
        if len(ports) == 1:
            ports *= len(names)
        return [_host(name, port) for name, port in zip(names, ports, strict=True)]
    except ValueError:
        return []  # asyncpg raises an error that names the mistake.


def without_hosts(url: str) -> str:
    """Return the URL without its hosts, for a connection whose host is passed as an argument.

    Some releases of Python cannot split a URL that has an IPv6 address among several hosts.
    """
    return _named_hosts(url)[1]


def names_session(url: str) -> bool:
    """Return whether the URL itself asks for a kind of server (``target_session_attrs``)."""
    try:
        return "target_session_attrs" in parse_qs(urlsplit(url).query)
    except ValueError:
        return False


def why_unusable(url: str, error: Exception) -> str:
    """Return one sentence that says why a database cannot be used, with its URL if that is safe to show."""
    if not _is_plain(url):
        return (
            f"The database of this URL cannot be used ({type(error).__name__}): write it as "
            "postgresql://user:password@host:port/database, and / ? # @ in the password as %2F %3F %23 %40."
        )
    return f"{without_password(url)} cannot be used: {reason_of(error)}."


def reason_of(error: BaseException) -> str:
    """Return the first line of an error's message as it may be shown in a sentence, or the name of its type if it has none."""
    (reason, *_) = str(error).splitlines() or [""]
    return without_stop(shown(reason)) or type(error).__name__


def shown_url(url: str) -> str:
    """Return a URL as it may be logged: without its password, and not at all if it cannot be told what in it is the password."""
    return without_password(url) if _is_plain(url) else "a URL that cannot be shown"


def without_password(url: str) -> str:
    """Return a plain URL without its password and query, as it may be logged and shown."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    return urlunsplit((parts.scheme, f"{user.partition(':')[0]}{at}{host}", parts.path, "", ""))


def _named_hosts(url: str) -> tuple[str, str]:
    # The hosts, which are between the user and the path, and the URL without them.
    scheme, slashes, rest = url.partition("://")
    end = min((index for index in map(rest.find, "/?#") if index >= 0), default=len(rest))
    user, at, hosts = rest[:end].rpartition("@")
    return hosts, f"{scheme}{slashes}{user}{at}{rest[end:]}"


def _host(name: str, port: str) -> Host:
    if not name.startswith("/"):
        if name.startswith("["):
            address, _, own_port = name[1:].partition("]")
            name, own_port = address, own_port.removeprefix(":")
        else:
            name, _, own_port = name.partition(":")
        port = own_port or port
    if not name:
        raise ValueError("A host has no name.")
    return Host(name, int(port or 5432))


def _is_plain(url: str) -> bool:
    # Whether a password can only be between ":" and "@". An unescaped "/" or "@" in a password makes a part of it look
    # like the host, the port or the database, which errors quote.
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    hosts = parts.netloc.rpartition("@")[2]
    return (
        parts.scheme in ("postgresql", "postgres")
        and url.count("@") == parts.netloc.count("@") <= 1
        and all(_has_plain_port(host) for host in hosts.split(","))
        and "password" not in parts.query
    )


def _has_plain_port(host: str) -> bool:
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        return True
    return port.isascii() and port.isdigit() and int(port) < 65536 and (":" not in name or name.endswith("]"))
