"""What the files of ``schema/`` make: the tables, indexes, sequences and functions that should be there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol

_MADE: Final = re.compile(
    r"^create (?:or replace )?(?P<kind>table|sequence|function|(?:unique )?index) (?:dbos_async\.)?(?P<name>\w+)(?P<rest>[^;]*);",
    re.MULTILINE,
)
_DROPPED: Final = re.compile(r"^drop (table|sequence|function|index) (?:if exists )?dbos_async\.(\w+)", re.MULTILINE)
_KEY_OF_TABLE: Final = re.compile(r"^\s*primary key \(([^)]*)\)", re.MULTILINE)
_KEY_OF_COLUMN: Final = re.compile(r"^\s*(\w+) .*\bprimary key\b", re.MULTILINE)
_COMMENT: Final = re.compile(r"^\s*--.*\n", re.MULTILINE)


class HasSql(Protocol):
    """A migration."""

    @property
    def sql(self) -> str:
        """What it executes."""
        ...


class Expected(NamedTuple):
    """One object of the schema. ``repair`` is the statement that makes it again; empty for what only a migration makes."""

    kind: str
    name: str
    repair: str


def expected(migrations: Iterable[HasSql]) -> list[Expected]:
    """Return what these migrations make, in their order."""
    found: dict[tuple[str, str], Expected] = {}
    for migration in migrations:
        text = _COMMENT.sub("", migration.sql)
        for made in _MADE.finditer(text):
            kind, name, rest = made["kind"].split()[-1], made["name"], made["rest"]
            repair = ""
            if kind == "index":
                repair = f"create {made['kind']} concurrently {name}{' '.join(rest.split()).join((' ', ''))};"
            found[kind, name] = Expected(kind, name, repair)
            key = _KEY_OF_TABLE.search(rest) or _KEY_OF_COLUMN.search(rest)
            if kind == "table" and key:
                repair = f"alter table dbos_async.{name} add primary key ({key[1]});"
                found["index", f"{name}_pkey"] = Expected("index", f"{name}_pkey", repair)
        for kind, name in _DROPPED.findall(text):
            found.pop((kind, name), None)
    return list(found.values())
