"""The URL of a database: which hosts it names, and how it may be shown."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit


class Host(NamedTuple):
    """One place where the database may be: a name, an address, or the folder of a Unix socket."""

    name: str
    port: int


def hosts_of(url: str) -> list[Host]:
    """The hosts of a URL that names several; of any other URL none, since asyncpg knows best how to read it."""
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
        return []  # asyncpg says what is wrong with it.


def without_hosts(url: str) -> str:
    """The URL without the hosts in its middle, for a connection whose host is said beside it.

    Where one of several is an IPv6 address, some releases of Python refuse to split the whole.
    """
    return _named_hosts(url)[1]


def asks_for_session(url: str) -> bool:
    """Whether the URL says itself what kind of server it wants (``target_session_attrs``)."""
    try:
        return "target_session_attrs" in parse_qs(urlsplit(url).query)
    except ValueError:
        return False


def why_unusable(url: str, error: Exception) -> str:
    """One sentence on why a database cannot be used, with its URL as far as that can be shown."""
    if not _is_plain(url):
        return (
            f"The database of this URL cannot be used ({type(error).__name__}): write it as "
            "postgresql://user:password@host:port/database, and / ? # @ in the password as %2F %3F %23 %40."
        )
    return f"{without_password(url)} cannot be used: {reason_of(error).removesuffix('.')}."


def reason_of(error: BaseException) -> str:
    """What an error says, in one line."""
    (reason, *_) = str(error).splitlines() or [""]
    return reason or type(error).__name__


def without_password(url: str) -> str:
    """A plain URL as it may be logged and shown."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    return urlunsplit((parts.scheme, f"{user.partition(':')[0]}{at}{host}", parts.path, "", ""))


def _named_hosts(url: str) -> tuple[str, str]:
    # What stands between the user and the path, and the URL without it.
    scheme, slashes, rest = url.partition("://")
    end = min((place for place in map(rest.find, "/?#") if place >= 0), default=len(rest))
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
    # Whether a password can only stand between ":" and "@". A stray "/" or "@" in it makes a part of it look like
    # the host, the port or the database, which are shown, and which errors quote.
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
