"""How a process reaches its database: the URLs, and the options of `DBOS` and `DBOSClient` that concern connections."""

from __future__ import annotations

import enum
import os
import re
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Final

from dbos_async._checks import check_callable, check_duration, check_flag, check_int, check_url, excerpt
from dbos_async._database.passwords import Password as Password  # noqa: PLC0414  # a part of this module
from dbos_async._database.passwords import PasswordSource
from dbos_async.errors import InvalidArgumentError

DEFAULT_SCHEMA: Final = "dbos_async"
SCHEMA_VARIABLE: Final = "DBOS_SCHEMA"
MAX_SCHEMA_LENGTH: Final = 40
"""The names of channels have the schema's in them, and more."""


class TakesStandby(enum.Enum):
    """Whether a server that takes no writes will do."""

    NEVER = enum.auto()
    IF_NAMED = enum.auto()
    """If the URL asks for one (``target_session_attrs``), or names no other host."""
    ALWAYS = enum.auto()


@dataclass(frozen=True)
class Access:
    """What connections are made from; checked."""

    url: str = field(repr=False)
    _: KW_ONLY
    listen_url: str | None = field(default=None, repr=False)
    """The URL of the connections that listen and hold locks; ``None``: that of all others."""
    read_url: str | None = field(default=None, repr=False)
    """The URL of a standby for reads that may be a little old; ``None``: all reads are those of the primary."""
    listen: bool = True
    """Whether notifications are heard. Without that, changes are asked for, and no session of the server is relied on."""
    schema: str = DEFAULT_SCHEMA
    password: Password | None = None
    max_connections: int = 8
    connect_timeout_seconds: float = 30.0
    takes_standby: TakesStandby = TakesStandby.NEVER
    """Whether a server that takes no writes will do."""
    read_only: bool = False
    """Whether connections for statements only read, all in one snapshot."""

    def in_this_loop(self) -> Access:
        """The same, with a password that other threads ask for in this event loop, to which the program's function belongs."""
        return self if self.password is None else replace(self, password=PasswordSource.of(self.password))

    def __post_init__(self) -> None:
        checked = {
            "url": check_url(self.url),
            "listen_url": None if self.listen_url is None else check_url(self.listen_url),
            "read_url": None if self.read_url is None else check_url(self.read_url),
            "listen": check_flag(self.listen, "listen"),
            "schema": check_schema(self.schema),
            "max_connections": check_int(self.max_connections, 1, "max_connections"),
            "connect_timeout_seconds": check_duration(self.connect_timeout_seconds, "connect_timeout_seconds"),
        }
        if self.password is not None:
            check_callable(self.password, "password")
        if self.listen_url is not None and not self.listen:
            raise InvalidArgumentError("listen_url is where to listen, and listen=False says not to: pass one of them.")
        for name, value in checked.items():
            object.__setattr__(self, name, value)  # the way of a frozen dataclass


def find_schema(schema: str | None) -> str:
    """The schema of an application: this one, or that of ``$DBOS_SCHEMA``, else ``dbos_async``."""
    if schema is not None:
        return check_schema(schema)
    return check_schema(os.environ.get(SCHEMA_VARIABLE) or DEFAULT_SCHEMA, f"${SCHEMA_VARIABLE}")


def check_schema(schema: object, what: str = "schema") -> str:
    """Return the name of a schema: lower-case letters, digits and _, at most 40, so that nobody needs quotes to name it in SQL."""
    if not isinstance(schema, str) or not re.fullmatch(rf"[a-z_][a-z0-9_]{{0,{MAX_SCHEMA_LENGTH - 1}}}", schema):
        raise InvalidArgumentError(
            f"{what} must be a name of lower-case letters, digits and _, at most {MAX_SCHEMA_LENGTH} of them and no digit first, "
            f"and is {excerpt(schema)}."
        )
    if schema.startswith("pg_") or schema == "information_schema":
        raise InvalidArgumentError(f"{what} must not be a schema of Postgres itself, and is {excerpt(schema)}.")
    return str.__str__(schema)
