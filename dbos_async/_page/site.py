"""Where a page has its data from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from dbos_async._database.database import Database
from dbos_async._executor import launched
from dbos_async._messaging.verbs import MessagingVerbs
from dbos_async._operations.verbs import OperatingVerbs
from dbos_async._workflows.verbs import WorkflowVerbs
from dbos_async.client import DBOSClient


class Launched(MessagingVerbs, WorkflowVerbs, OperatingVerbs):
    """The public verbs of the `DBOS` that is launched at that moment."""

    @property
    def _database(self) -> Database:
        return launched.database()


Source: TypeAlias = Launched | DBOSClient


def database_of(source: Source) -> Database:
    """The database of a source."""
    return source._database  # pyright: ignore[reportPrivateUsage]  # of this library, too


@dataclass(frozen=True)
class Site:
    """One page: what it reads by, and whether people may act on it. ``client`` is ``None`` for the launched DBOS."""

    source: Source
    client: DBOSClient | None
    read_only: bool
