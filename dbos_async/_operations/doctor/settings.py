"""Settings of the server, the database and the role that hurt, and how many connections there are."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

import asyncpg

from dbos_async._database.sql import load
from dbos_async._logs import counted
from dbos_async._operations.doctor.finding import Finding, ok, problem, warning
from dbos_async._operations.doctor.session import Session, fetch

with load(__name__) as sql:
    SEE_SETTINGS: Final = sql.statement("SEE_SETTINGS")
    SEE_STANDBYS: Final = sql.statement("SEE_STANDBYS")
    SEE_CONNECTIONS: Final = sql.statement("SEE_CONNECTIONS")
    SEE_MONITORING: Final = sql.statement("SEE_MONITORING")

PER_EXECUTOR: Final = 10
"""The connections of an executor: 8 for statements, one that listens, one for the lease."""

CORRUPTS: Final = {
    "fsync": "after a crash of the machine the database may be destroyed",
    "full_page_writes": "after a crash of the machine pages of the database may be torn",
}
"""What must be on, and why."""

SHORTEST_MS: Final = {
    "statement_timeout": (10_000, "migrations, deletions and large batches are cut, and tried again"),
    "transaction_timeout": (10_000, "a connection ends with a transaction that takes longer"),
    "idle_in_transaction_session_timeout": (1_000, "a connection ends when a program pauses inside its transaction"),
    "idle_session_timeout": (
        10_000,
        "the connection that listens asks every 5 s, and others idle longer: all are closed",
    ),
    "lock_timeout": (500, "calls in transactions of your own, and migrations, fail at a lock"),
}
"""Time limits that hurt when they are shorter than so many milliseconds, and how."""

UNITS_MS: Final = {"ms": 1, "s": 1000, "min": 60_000}

STANDBY_NAMES: Final = "synchronous_standby_names"


async def settings(session: Session) -> list[Finding]:
    """The settings that a new session of this role would have."""
    names = [*CORRUPTS, *SHORTEST_MS, "synchronous_commit", "track_activities", "default_transaction_isolation"]
    rows = {row["name"]: row for row in await _values(session, names)}
    found = [
        problem(f"{name} is off: {why}.", "alter system set " + f"{name} = on; select pg_reload_conf();")
        for name, why in CORRUPTS.items()
        if name in rows and rows[name]["value"] == "off"
    ]
    if rows["synchronous_commit"]["value"] == "off":
        says = "synchronous_commit is off: a crash of the server loses what was committed in the last second."
        found.append(warning(says, _reset(rows["synchronous_commit"], "on")))
    if rows["track_activities"]["value"] == "off":
        says = (
            "track_activities is off: nobody sees what sessions do, and dead connections are not told from busy ones."
        )
        found.append(warning(says, _reset(rows["track_activities"], "on")))
    isolation = rows["default_transaction_isolation"]["value"]
    if isolation != "read committed":
        says = (
            f"default_transaction_isolation is {isolation}: statements that meet each other are refused, and repeated."
        )
        found.append(warning(says, _reset(rows["default_transaction_isolation"], "read committed")))
    found += _short_limits(rows[name] for name in SHORTEST_MS if name in rows)
    return found or [ok(f"None of {len(names)} settings hurts.")]


async def _values(session: Session, names: list[str]) -> list[asyncpg.Record]:
    # Without limits of its own, since those would hide where a setting comes from.
    return await fetch(await session.open(), SEE_SETTINGS, json.dumps(names), limits="")


def _short_limits(rows: Iterable[asyncpg.Record]) -> list[Finding]:
    found: list[Finding] = []
    for row in rows:
        shortest, why = SHORTEST_MS[row["name"]]
        milliseconds = int(row["value"]) * UNITS_MS[row["unit"] or "ms"]
        if 0 < milliseconds < shortest:
            says = f"{row['name']} is {milliseconds} ms: {why}."
            make = (
                problem
                if milliseconds < 1000 and row["name"] in ("statement_timeout", "transaction_timeout")
                else warning
            )
            found.append(make(says, _reset(row, "0")))
    return found


def _reset(row: asyncpg.Record, value: str) -> str:
    """The statement that ends a setting, where it was set."""
    if row["whose"]:
        return f"{row['whose']} reset {row['name']}; and launch anew."
    if row["source"] == "client":
        return f"{row['name']} comes with the connection: take it out of the URL, or out of PGOPTIONS."
    return f"alter system set {row['name']} = '{value}'; select pg_reload_conf(); and launch anew."


async def standbys(session: Session) -> list[Finding]:
    """Whether every commit waits for a standby that is not there."""
    values = {row["name"]: row["value"] for row in await _values(session, [STANDBY_NAMES, "synchronous_commit"])}
    wanted = values[STANDBY_NAMES]
    if not wanted or values["synchronous_commit"] in ("off", "local"):
        return [ok("No commit waits for a standby.")]
    seen = await session.row(SEE_STANDBYS)
    if seen["synchronous"] or seen["hidden"]:
        return [ok(f"Commits wait for a standby ({STANDBY_NAMES} = {wanted}), and {seen['connected']} are connected.")]
    return [
        problem(
            f"{STANDBY_NAMES} is {wanted}, and no such standby is connected: every commit waits for ever.",
            f"Bring the standby back, or go on without it: alter system set {STANDBY_NAMES} = ''; select pg_reload_conf();",
        )
    ]


async def connections(session: Session) -> list[Finding]:
    """How many connections are left, by the limits of the server, the database and the role."""
    seen = await session.row(SEE_CONNECTIONS)
    most = seen["most"] - seen["reserved"]
    of_server = f"of {most} connections of the server are used (max_connections is {seen['most']}, {seen['reserved']} are reserved)"
    raise_it = f"Raise max_connections (alter system set max_connections = {2 * seen['most']}; and restart the server)"
    limits = [(most - seen["used"], f"{seen['used']} {of_server}", raise_it)]
    for kind in ("database", "role"):
        limit, used, name = seen[f"{kind}_limit"], seen[f"{kind}_used"], seen[kind]
        if limit >= 0:
            says = f"{used} of {limit} connections of the {kind} {name} are used"
            limits.append((limit - used, says, f"Raise its limit (alter {kind} {name} connection limit -1;)"))
    left, says, advice = min(limits, key=lambda each: each[0])
    if left >= PER_EXECUTOR:
        return [
            ok(f"{says}: there is room for {left // PER_EXECUTOR} more executors of {PER_EXECUTOR} connections each.")
        ]
    make = problem if left < 2 else warning
    return [
        make(
            f"{says}: {max(left, 0)} are left, and an executor needs {PER_EXECUTOR}.",
            f"{advice}, or end connections that nobody needs.",
        )
    ]


async def monitoring(session: Session) -> list[Finding]:
    """Whether the role sees what other roles do."""
    seen = await session.row(SEE_MONITORING)
    if not seen["hidden"]:
        return [ok("This role sees every session of the database.")]
    return [
        warning(
            f"Of {counted(seen['hidden'], 'session')} of other roles this role sees no transactions: old ones are not found.",
            f"grant pg_read_all_stats to {seen['role']};",
        )
    ]
