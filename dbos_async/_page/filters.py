"""The filters of the list of workflows, as they stand in the URL."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from dbos_async._checks import MAX_WAIT_SECONDS, excerpt, seconds_in
from dbos_async._workflows.status import STATUSES
from dbos_async.errors import InvalidArgumentError

FIELDS: Final = ("name", "prefix", "since", "until", "version", "parent", "patch", "without_patch")


@dataclass(frozen=True)
class Filters:
    """What the list shows. An empty text fits all."""

    status: list[str] = field(default_factory=list)
    name: str = ""
    prefix: str = ""
    since: str = ""
    until: str = ""
    version: str = ""
    parent: str = ""
    patch: str = ""
    without_patch: str = ""
    unclaimable: bool = False
    oldest: bool = False

    @staticmethod
    def of(query: Any) -> Filters:
        """The filters of a query or form that has ``getlist`` and ``get``."""
        kept = {name: query.get(name) or "" for name in FIELDS}
        texts = {name: text if name == "prefix" else text.strip() for name, text in kept.items()}
        return Filters(
            status=[one for one in query.getlist("status") if one],
            name=texts["name"],
            prefix=texts["prefix"],
            since=texts["since"],
            until=texts["until"],
            version=texts["version"],
            parent=texts["parent"],
            patch=texts["patch"],
            without_patch=texts["without_patch"],
            unclaimable=bool(query.get("unclaimable")),
            oldest=bool(query.get("oldest")),
        )

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """What of them stands in the URL."""
        pairs = [("status", one) for one in self.status]
        pairs += [(name, getattr(self, name)) for name in FIELDS if getattr(self, name)]
        return pairs + [(name, "1") for name in ("unclaimable", "oldest") if getattr(self, name)]

    def arguments(self, statuses: tuple[str, ...] | None = None) -> dict[str, Any] | None:
        """The arguments of `list_workflows`, of ``statuses`` only; ``None`` when nothing can fit."""
        wanted = [one for one in self.status or STATUSES if statuses is None or one in statuses]
        if not wanted and not set(self.status) - set(STATUSES):
            return None
        return {
            "status": None if statuses is None and not self.status else wanted or self.status,
            "name": self.name or None,
            "id_prefix": self.prefix or None,
            "since": moment(self.since, "since"),
            "until": moment(self.until, "until"),
            "application_version": self.version or None,
            "parent_id": self.parent or None,
            "patch": self.patch or None,
            "without_patch": self.without_patch or None,
            "unclaimable": True if self.unclaimable else None,
        }


def moment(text: str, what: str) -> datetime | None:
    """A time: how long ago (90s, 15m, 1h, 7d, 2w), or a date or time of ISO 8601, in UTC if it names no zone."""
    if not text:
        return None
    if (seconds := seconds_in(text)) is not None:
        return datetime.now(UTC) - timedelta(seconds=min(seconds, MAX_WAIT_SECONDS))
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgumentError(
            f"{what} must be how long ago (90s, 15m, 1h, 7d, 2w) or a time (2026-11-26 or 2026-11-26T12:00) and is {excerpt(text)}."
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
