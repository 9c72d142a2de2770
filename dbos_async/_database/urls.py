"""The URL of a database: what users give is read here, in whatever of the usual forms, and what of it may be shown."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, NoReturn
from urllib.parse import unquote, unquote_plus, urlencode

from dbos_async._database import url_parameters
from dbos_async._database.remedies import remedy_for
from dbos_async._logs import shown, without_stop
from dbos_async.errors import ConfigurationError

SCHEMES: Final = frozenset({"postgres", "postgresql", "postgis"})

FORM: Final = (
    "write it as postgresql://user:password@host:port/database, and / ? # @ % in the password as %2F %3F %23 %40 %25"
)

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9.-]*)(\+[A-Za-z0-9_]+)?:(//)?")
_HOST: Final = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]+))(?::([0-9]*))?")
_PAIR: Final = re.compile(r"\s*([a-z_]+)\s*=\s*(?:'((?:\\.|[^'\\])*)'|(?!')((?:\\.|[^\s\\])*))(?=\s|$)", re.DOTALL)
_KEYWORDS: Final = re.compile(r"(host|hostaddr|port|dbname|user|password|service|sslmode|connect_timeout|options)\s*=")
_MAX_PORT: Final = 65535


class Host(NamedTuple):
    """One server of the database. Its name is a host name, an IP address, or the folder of a Unix socket."""

    name: str
    port: int


@dataclass(frozen=True)
class DatabaseUrl:
    """A URL that was read."""

    shown: str
    """The URL as it may be logged and shown: without its password and its parameters."""
    hosts: tuple[Host | None, ...]
    """``None`` stands for the host that asyncpg finds itself: that of a service, else a local one."""
    user: str | None
    password: str | None = field(repr=False)
    database: str | None
    for_asyncpg: dict[str, str] = field(repr=False)
    """Parameters that asyncpg reads."""
    settings: dict[str, str] = field(repr=False)
    """Settings of the session."""
    target_session_attrs: str | None
    """Which kind of server the URL asks for."""
    connect_seconds: float | None
    """How long a host may take to accept a connection."""
    port: int | None = None
    """The port at the host that asyncpg finds itself."""

    def arguments(self, host: Host | None, password: str | None = None) -> dict[str, Any]:
        """What to pass to ``asyncpg.connect`` for this host, but for settings of the session; ``None``: the password of the URL."""
        return {
            "dsn": f"postgresql://?{urlencode(self.for_asyncpg)}" if self.for_asyncpg else "postgresql://",
            "host": host and host.name,
            "port": host.port if host else self.port,
            "user": self.user,
            "password": self.password if password is None else password,
            "database": self.database,
        }


def read_url(given: str) -> DatabaseUrl:
    """Read a URL, or a string of libpq's keywords. Raises `ConfigurationError`, which says how to write it and shows none of it."""
    text = given.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1].strip()  # those of a .env file, which not everything that reads it takes off
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        _refuse("it has a line end, a tab or another control character in it")
    if _KEYWORDS.match(text):
        return _made_of("", None, _keywords(text))
    return _read(text)


def why_unusable(url: str, error: Exception, *, with_remedy: bool = True) -> str:
    """Return one sentence that says why a database cannot be used and what to change, with its URL."""
    try:
        name = read_url(url).shown
    except ConfigurationError as unreadable:
        return str(unreadable)
    found = remedy_for(error)
    if found is None:
        return f"{name} cannot be used: {reason_of(error)}."
    reason = without_stop(shown(found.reason)) if found.reason else reason_of(error)
    return f"{name} cannot be used: {reason}{f': {found.remedy}' if with_remedy else ''}."


def reason_of(error: BaseException) -> str:
    """Return the first line of an error's message as it may be shown in a sentence, or the name of its type if it has none."""
    (reason, *_) = str(error).splitlines() or [""]
    return without_stop(shown(reason)) or type(error).__name__


def shown_url(url: str) -> str:
    """Return a URL as it may be logged: without its password, and not at all if it cannot be told what in it is the password."""
    try:
        return read_url(url).shown
    except ConfigurationError:
        return "a URL that cannot be shown"


def url_of_environment() -> str | None:
    """Return ``$DBOS_DATABASE_URL``; ``None`` if it is not set, or empty."""
    url = os.environ.get("DBOS_DATABASE_URL")
    if url and not url.strip():
        raise ConfigurationError("DBOS_DATABASE_URL is blank: set it to the URL of the database, or unset it.")
    return url or None


def _read(text: str) -> DatabaseUrl:
    scheme = _SCHEME.match(text)
    if scheme is None or scheme[1].lower() not in SCHEMES or (text[scheme.end() :] and not scheme[3]):
        begins = f"it begins with {scheme[0]} and not" if scheme and scheme[3] else "it does not begin"
        _refuse(f"{begins} with postgresql://")
    rest = text[scheme.end() :]
    end = min((index for index in map(rest.find, "/?#") if index >= 0), default=len(rest))
    who, at, hosts = rest[:end].rpartition("@")
    # An unescaped "/", "?", "#" or "@" in a password makes a part of it look like the host or the database, which errors show.
    if text.count("@") > (1 if at else 0):
        _refuse("it has more than one @, or one behind / ? #")
    if "#" in rest:
        _refuse("it has a # in it, behind which other programs read nothing")
    path, _, query = rest[end:].partition("?")
    user, colon, password = who.partition(":")
    parameters: dict[str, str] = {}
    for each in filter(None, query.split("&")):
        name, sign, value = each.partition("=")
        if not sign:
            _refuse("a parameter behind the ? has no =")
        name, value = _decoded(name, plus=True), _decoded(value, plus=True)
        several = name in ("host", "port") and name in parameters  # as SQLAlchemy writes several hosts
        parameters[name] = f"{parameters[name]},{value}" if several else value
    if colon and password:
        parameters["password"] = _decoded(password)
    if user:
        parameters["user"] = _decoded(user)
    if path[1:]:
        parameters["dbname"] = _decoded(path[1:])
    return _made_of(f"postgresql://{user}{at}{hosts}{path}", hosts, parameters)


def _made_of(name: str, hosts: str | None, given: dict[str, str]) -> DatabaseUrl:
    given = dict(given)
    place = {
        each: given.pop(each, "") for each in ("host", "hostaddr", "port", "dbname", "database", "user", "password")
    }
    parameters = url_parameters.with_environment(given)
    attributes = parameters.pop("target_session_attrs", None)
    seconds = url_parameters.seconds_of(parameters.pop("connect_timeout", None))
    for_asyncpg, settings = url_parameters.split(parameters)
    found = _hosts_of(hosts or "", place, is_service="service" in for_asyncpg)
    database = place["dbname"] or place["database"]
    if "://" in database:
        _refuse("its dbname is a URL itself")
    if hosts is None:
        name = f"postgresql://{place['user']}{'@' if place['user'] else ''}{place['host']}/{database}"
    return DatabaseUrl(
        shown=name,
        hosts=tuple(found) or (None,),
        user=place["user"] or None,
        password=place["password"] or None,
        database=database or None,
        for_asyncpg=for_asyncpg,
        settings=settings,
        target_session_attrs=attributes,
        connect_seconds=seconds,
        port=None if found or not place["port"] else _port(place["port"]),
    )


def _hosts_of(authority: str, place: dict[str, str], *, is_service: bool) -> list[Host]:
    """The hosts that are named before the path, else by parameters, else by the environment."""
    names = authority or place["host"] or place["hostaddr"] or ("" if is_service else os.environ.get("PGHOST", ""))
    if not names:
        return []
    found = names.split(",")
    have_own = all(re.search(r"(^|[^:]+|\]):[0-9]+$", each) for each in found)
    ports = (place["port"] or ("" if have_own else os.environ.get("PGPORT", ""))).split(",")
    if len(ports) == 1:
        ports *= len(found)
    if len(ports) != len(found):
        _refuse(f"it names {len(found)} hosts and {len(ports)} ports")
    return [_host(name, port, is_encoded=bool(authority)) for name, port in zip(found, ports, strict=True)]


def _host(text: str, port: str, *, is_encoded: bool) -> Host:
    if not is_encoded and (text.startswith("/") or (text.count(":") > 1 and "[" not in text)):
        return Host(text, _port(port))  # the folder of a socket, or an IPv6 address
    found = _HOST.fullmatch(text)
    if found is None:
        _refuse("what stands for a host is none, or its port is no number")
    name = found[1] or found[2]
    return Host(_decoded(name) if is_encoded else name, _port(found[3] or port))


def _port(text: str) -> int:
    if not text:
        return 5432
    if not (text.isascii() and text.isdigit()) or len(text) > 5 or not 0 < int(text) <= _MAX_PORT:
        _refuse(f"a port is not a number from 1 to {_MAX_PORT}")
    return int(text)


def _keywords(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    end = 0
    while match := _PAIR.match(text, end):
        found[match[1]] = re.sub(r"\\(.)", r"\1", match[2] if match[2] is not None else match[3], flags=re.DOTALL)
        end = match.end()
    if text[end:].strip():
        _refuse("it is no list of keywords with values, or a value with blanks has no quotes around it")
    return found


def _decoded(text: str, *, plus: bool = False) -> str:
    try:
        decoded = (unquote_plus if plus else unquote)(text, errors="strict")
    except UnicodeDecodeError:
        _refuse("something in it that begins with % is no UTF-8")
    if "\0" in decoded:
        _refuse("it has a NUL character in it")
    return decoded


def _refuse(why: str) -> NoReturn:
    raise ConfigurationError(f"The database of this URL cannot be used, since {why}: {FORM}.") from None
