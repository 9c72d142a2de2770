"""What a role must be allowed to do with the schema: checked at a launch, and granted by ``dbos-async migrate --grant``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple

import asyncpg

from dbos_async._database.denied import (
    DISPENSABLE,
    NEEDED,
    VIEWS,
    dispensable,
    names_of,
)
from dbos_async._database.expected import Expected
from dbos_async._database.names import Names, quoted
from dbos_async._database.sql import load
from dbos_async.errors import ConfigurationError

with load(__name__) as sql:
    LACKING: Final = sql.statement("LACKING", parallelism=1)
    FIND_ROLE: Final = sql.statement("FIND_ROLE", parallelism=1)

MAX_NAME_BYTES: Final = 63
"""Postgres cuts longer names, and would grant to another role."""


class Rights(NamedTuple):
    """Rights on the tables and on the sequences of the schema."""

    tables: tuple[str, ...]
    sequences: tuple[str, ...] = ()


READS: Final = Rights(("select",))
"""What a client needs to be opened. Calls that need more are refused one by one."""

WRITES: Final = Rights(("select", "insert", "update", "delete"), ("usage",))
"""What an executor needs, and a client that starts workflows and sends messages."""

GRANTED: Final = WRITES._replace(sequences=("usage", "update"))
"""What is granted: besides, a launch sets sequences forward that a move of the database has left behind."""


def needed(objects: Iterable[Expected], rights: Rights) -> list[tuple[str, str, tuple[str, ...]]]:
    """The kinds and names of the objects of the schema, each with the rights on it. The schema itself comes first."""
    each = {"table": rights.tables, "sequence": rights.sequences, "function": ("execute",)}
    found = [(one.kind, one.name, each[one.kind]) for one in objects if each.get(one.kind)]
    return [("schema", "", ("usage",)), ("table", "migrations", ("select",)), *found]


def columns(objects: Iterable[Expected], rights: Rights, role: str | None = None) -> tuple[str | None, str]:
    """The columns of LACKING."""
    described = [*needed(objects, rights)]
    if role is None:
        described += [
            ("view" if one in VIEWS else "server", one, _RIGHT[one in VIEWS]) for one in (*DISPENSABLE, *NEEDED)
        ]
    return role, json.dumps([{"kind": kind, "name": name, "rights": words} for kind, name, words in described])


_RIGHT: Final = ("execute",), ("select",)


async def check_rights(
    connection: asyncpg.Connection[asyncpg.Record],
    names: Names,
    objects: Iterable[Expected],
    rights: Rights,
    *,
    role: str | None = None,
) -> None:
    """Raise `ConfigurationError`, which names each right, if a role lacks some.

    Without a role it is that of the connection. What that is denied of the server, and can do without, the names note.
    """
    rows = await connection.fetch(names(LACKING.sql.one_row), 0, *columns(objects, rights, role))
    lacking = [row for row in rows if row["kind"] in _KINDS]
    of_server = [row for row in rows if row["kind"] not in _KINDS]
    denied = dispensable((row["name"] for row in of_server), has_session=getattr(connection, "has_session", True))
    _check_server(row for row in of_server if names_of([row["name"]]).isdisjoint(denied))
    if lacking:
        asked = lacking[0]["role"]
        raise ConfigurationError(
            f"The role {asked} lacks rights on the schema {names.schema} ({_said(lacking)}): run "
            f"'dbos-async migrate <url>{names.options} --grant {asked}' as the role that owns the schema."
        )
    if role is None:
        names.denied = denied


def _check_server(lacking: Iterable[Any]) -> None:
    rows = list(lacking)
    if rows:
        what = ", ".join(f"{row['missing']} on {row['target']}" for row in rows)
        raise ConfigurationError(
            f"The role {rows[0]['role']} lacks rights that every role has by default ({what}): let an administrator of the "
            f"server execute: {' '.join(row['repair'] for row in rows)}"
        )


_KINDS: Final = {"schema": 0, "table": 1, "sequence": 2, "function": 3}


def _said(lacking: Iterable[Any]) -> str:
    """Which rights are lacking: "usage; select, insert on the tables events, messages"."""
    parts = []
    rows = sorted(lacking, key=lambda row: (_KINDS[row["kind"]], row["missing"], row["name"]))
    for (kind, missing), group in groupby(rows, key=lambda row: (row["kind"], row["missing"])):
        found = [row["name"] for row in group]
        where = f" on the {kind}{'s' if found[1:] else ''} {', '.join(found)}"
        parts.append(missing if kind == "schema" else f"{missing}{where}")
    return "; ".join(parts)


def grants(objects: Iterable[Expected], names: Names, role: str) -> str:
    """The statements that give a role what an executor needs, and may need. They may be executed any number of times."""
    by_kind: dict[tuple[str, str], list[str]] = {}
    for kind, name, words in needed(objects, GRANTED):
        what = names.quoted_schema if kind == "schema" else f"{names.quoted_schema}.{name}"
        by_kind.setdefault((kind, ", ".join(words)), []).append(what)
    return "".join(
        f"grant {words} on {kind} {', '.join(found)} to {quoted(role)};\n" for (kind, words), found in by_kind.items()
    )


def check_role(role: str) -> str:
    """Return the name of a role, which may be any that Postgres can store."""
    if not role or "\0" in role or len(role.encode()) > MAX_NAME_BYTES:
        raise ConfigurationError(f"A role has a name of 1 to {MAX_NAME_BYTES} bytes, without a zero byte.")
    return role


async def grant(
    connection: asyncpg.Connection[asyncpg.Record], names: Names, objects: Sequence[Expected], role: str
) -> None:
    """Give a role all that an executor and a client need. Raises `ConfigurationError` if that is impossible."""
    if not await connection.fetch(FIND_ROLE.sql.one_row, 0, check_role(role)):
        raise ConfigurationError(
            f"There is no role {role!r} in this server: create it (create role {quoted(role)} login;), or look at its spelling."
        )
    try:
        await connection.execute(grants(objects, names, role))
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigurationError(
            f"The rights were not granted ({error.args[0]}): run this as the role that owns the schema {names.schema}."
        ) from None
    # A role that may not grant gets no error but a warning if it has some right itself.
    await check_rights(connection, names, objects, WRITES, role=role)
