"""A pooler between this machine and the server: whether it keeps sessions, and lets the settings of connections pass."""

from __future__ import annotations

import json
from typing import Final

import asyncpg

from dbos_async._database.connection_kinds import SETTINGS
from dbos_async._database.outages import CONNECT_ERRORS
from dbos_async._database.probe import terminated_after
from dbos_async._database.sql import load
from dbos_async._database.urls import reason_of
from dbos_async._operations.doctor.connecting import SESSION_MODE
from dbos_async._operations.doctor.finding import Finding, listed, ok, problem, warning
from dbos_async._operations.doctor.session import ANSWER_WITHIN_SECONDS, Connection, Session, fetch

with load(__name__) as sql:
    SEE_BACKEND: Final = sql.statement("SEE_BACKEND")
    SEE_OWN_SETTINGS: Final = sql.statement("SEE_OWN_SETTINGS")
    SEE_ROLE: Final = sql.statement("SEE_ROLE")

NEEDED: Final = {
    name: value
    for name, value in SETTINGS.items()
    if not name.startswith("tcp_") and name != "application_name"  # a local socket has no keepalive packets
}
"""The settings of connections that statements rely on."""


async def pooler(session: Session) -> list[Finding]:
    """Two connections at a time show what is in between: a pooler lets both use one process of the server."""
    one, other = await session.connect(), await session.connect()
    first = await _backend(one)
    if not await _keeps_sessions(one, other, first):
        session.keeps_sessions = False
        says = (
            "A pooler in transaction mode is in between: two transactions of one connection ran in different processes of the "
            "server, or two connections shared one. LISTEN and the locks of leases are lost there."
        )
        return [problem(says, SESSION_MODE)]
    if one.get_server_pid() != first:
        says = "A pooler is in between (the server has another process id than the connection was told), and it keeps sessions."
        return [ok(f"{says} Each executor needs ten connections of it.")]
    return [ok("No pooler is in between.")]


async def _backend(connection: Connection) -> int:
    (row,) = await fetch(connection, SEE_BACKEND)
    pid: int = row["pid"]
    return pid


async def _keeps_sessions(one: Connection, other: Connection, first: int) -> bool:
    # While another transaction is open, a pooler in transaction mode gives a connection another process of the server; or that
    # transaction already has the process of the first one.
    with terminated_after(other, 2 * ANSWER_WITHIN_SECONDS):
        async with other.transaction(readonly=True):
            (row,) = await other.fetch(SEE_BACKEND.sql.one_row, 0)
            return row["pid"] != first and await _backend(one) == first


async def session_settings(session: Session) -> list[Finding]:
    """Whether connections begin with the settings that dbos_async gives its own."""
    if not session.keeps_sessions:
        return []  # they would be lost anyway
    role = await session.row(SEE_ROLE)
    try:
        connection = await session.connect(settings=SETTINGS)
        rows = await fetch(connection, SEE_OWN_SETTINGS, json.dumps(list(NEEDED)), limits="")
    except asyncpg.TooManyConnectionsError:
        raise
    except CONNECT_ERRORS as error:
        names = ", ".join(name for name in SETTINGS if name != "application_name")
        return [
            problem(
                f"A connection cannot begin with the settings that dbos_async needs: {reason_of(error)}.",
                f"Connect to Postgres itself, or let PgBouncer pass over them (ignore_startup_parameters = {names}) and set them "
                f"for the role, which should be one of its own: {_statements(role, NEEDED)}",
            )
        ]
    there = {row["name"]: row["value"] for row in rows}
    lost = {name: value for name, value in NEEDED.items() if there.get(name) != value}
    if lost:
        says = f"The settings of a connection do not reach the server: {listed(list(lost), 7)}. Statements may be slow or wait."
        return [warning(says, f"Set them for the role, which should be one of its own: {_statements(role, lost)}")]
    return [ok("Connections begin with the settings that dbos_async gives them.")]


def _statements(role: asyncpg.Record, settings: dict[str, str]) -> str:
    begin = f"alter role {role['role']} in database {role['database']} set"
    return " ".join(f"{begin} {name} = '{value}';" for name, value in settings.items())
