"""The settings of one launch of DBOS: their names, types, defaults and limits stand here and nowhere else."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from datetime import timedelta
from typing import Any, Final, TypedDict, TypeVar

from dbos_async._checks import check_age, check_duration, check_flag, check_int, check_optional_key, check_url
from dbos_async._database.access import Access, Password, find_schema

ACCESS_OPTIONS: Final = "listen_url", "listen", "schema", "password", "max_connections", "connect_timeout_seconds"

F = TypeVar("F", bound=Callable[..., Any])


class Options(TypedDict, total=False):
    """What `DBOS` takes besides its URL; `Settings` has the defaults."""

    listen_url: str | None
    listen: bool
    schema: str | None
    password: Password | None
    max_connections: int
    executor_id: str | None
    application_version: str | None
    max_running: int
    max_transactions: int
    max_payload_bytes: int
    migrate: bool
    connect_timeout_seconds: float
    drain_seconds: float
    max_blocked_seconds: float
    retention: timedelta | float | None
    telemetry: bool | None


@dataclass(frozen=True)
class Settings:
    """The URL and the `Options` of one launch, checked."""

    url: str | None = field(default=None, repr=False)
    _: KW_ONLY
    listen_url: str | None = field(default=None, repr=False)
    listen: bool = True
    schema: str | None = None
    password: Password | None = None
    max_connections: int = 8
    executor_id: str | None = None
    application_version: str | None = None
    max_running: int = 1000
    max_transactions: int = 10
    max_payload_bytes: int = 8 * 2**20
    migrate: bool = True
    connect_timeout_seconds: float = 30.0
    drain_seconds: float = 10.0
    max_blocked_seconds: float = 300.0
    retention: timedelta | float | None = None
    telemetry: bool | None = None

    @property
    def retention_seconds(self) -> float | None:
        """The retention in seconds."""
        return None if self.retention is None else check_age(self.retention, "retention", least=1)

    def access(self, url: str) -> Access:
        """How to reach the database of this URL."""
        options: dict[str, Any] = {name: getattr(self, name) for name in ACCESS_OPTIONS}
        options["schema"] = find_schema(self.schema)
        return Access(url, **options)

    def __post_init__(self) -> None:
        access = self.access(self.url or "postgresql:")  # checks its options
        checked = {
            **{name: getattr(access, name) for name in ACCESS_OPTIONS},
            "schema": None if self.schema is None else access.schema,
            "url": None if self.url is None else check_url(self.url),
            "executor_id": check_optional_key(self.executor_id, "executor_id"),
            "application_version": check_optional_key(self.application_version, "application_version"),
            "max_running": check_int(self.max_running, 1, "max_running"),
            "max_transactions": check_int(self.max_transactions, 1, "max_transactions"),
            "max_payload_bytes": check_int(self.max_payload_bytes, 1, "max_payload_bytes"),
            "migrate": check_flag(self.migrate, "migrate"),
            "drain_seconds": check_duration(self.drain_seconds, "drain_seconds"),
            "max_blocked_seconds": check_duration(self.max_blocked_seconds, "max_blocked_seconds", least=1),
            "retention": self.retention_seconds,
            "telemetry": None if self.telemetry is None else check_flag(self.telemetry, "telemetry"),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)  # the way of a frozen dataclass


Settings.__init__.__qualname__ = "DBOS"  # what Python names when an option is misspelt


def takes_options(function: F) -> F:
    """Decorates a function of ``**options: Unpack[Options]``: ``help()`` then shows each option with its default."""
    signature = inspect.signature(function)
    own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    options = [each for each in inspect.signature(Settings).parameters.values() if each.kind is each.KEYWORD_ONLY]
    function.__dict__["__signature__"] = signature.replace(parameters=[*own, *options])
    return function
