"""A pooler between this machine and the server: whether it keeps sessions, and lets the settings of connections pass."""

from __future__ import annotations

import json
from typing import Final

import asyncpg

from dbos_async._database.connection_kinds import SETTINGS
from dbos_async._database.outages import CONNECT_ERRORS
from dbos_async._database.pooling import REFUSED_SETTING, backend_of, keeps_sessions
from dbos_async._database.probe import terminated_after
from dbos_async._database.sql import load
from dbos_async._operations.doctor.finding import Finding, ok, warning
from dbos_async._operations.doctor.session import ANSWER_WITHIN_SECONDS, Session, fetch

with load(__name__) as sql:
    SEE_OWN_SETTINGS: Final = sql.statement("SEE_OWN_SETTINGS")

WITHOUT_SESSIONS: Final = (
    "Give DBOS and DBOSClient another URL as listen_url=, which leads to Postgres itself or through a pooler in session mode, or "
    "pass listen=False. In PgBouncer pool_mode = session is for this database, at Supabase port 5432 in the place of 6543, at Neon "
    "the host without '-pooler'."
)

NEEDED: Final = {
    name: value
    for name, value in SETTINGS.items()
    if not name.startswith("tcp_") and name != "application_name"  # a local socket has no keepalive packets
}
"""The settings of connections that statements rely on."""


async def pooler(session: Session) -> list[Finding]:
    """Two connections at a time show what is in between: a pooler lets both use one process of the server."""
    one, other = await session.connect(), await session.connect()
    with terminated_after(other, ANSWER_WITHIN_SECONDS), terminated_after(one, ANSWER_WITHIN_SECONDS):
        first = await backend_of(one)
        session.keeps_sessions = one.get_server_pid() == first or await keeps_sessions(one, other)
    if not session.keeps_sessions:
        says = (
            "A pooler in transaction mode is in between: transactions of one connection run in different processes of the "
            "server, which others use, too. LISTEN and the locks of leases are lost there."
        )
        return [warning(says, WITHOUT_SESSIONS)]
    if one.get_server_pid() != first:
        says = "A pooler is in between (the server has another process id than the connection was told), and it keeps sessions."
        return [ok(f"{says} Each executor needs ten connections of it.")]
    return [ok("No pooler is in between.")]


async def session_settings(session: Session) -> list[Finding]:
    """Whether connections begin with the settings that dbos_async gives its own."""
    if not session.keeps_sessions:
        return [ok("Behind this pooler dbos_async sends its settings with each statement.")]
    try:
        connection = await session.connect(settings=SETTINGS)
        rows = await fetch(connection, SEE_OWN_SETTINGS, json.dumps(list(NEEDED)), limits="")
    except asyncpg.TooManyConnectionsError:
        raise
    except CONNECT_ERRORS as error:
        if REFUSED_SETTING not in str(error):
            raise
        rows = []
    there = {row["name"]: row["value"] for row in rows}
    if any(there.get(name) != value for name, value in NEEDED.items()):
        return [
            ok("The pooler does not pass on the settings that connections begin with: dbos_async sets them afterwards.")
        ]
    return [ok("Connections begin with the settings that dbos_async gives them.")]
