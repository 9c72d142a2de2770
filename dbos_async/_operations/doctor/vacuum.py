"""Vacuum, and what holds it back: old transactions, prepared ones, replication slots, locks."""

from __future__ import annotations

from typing import Final

import asyncpg

from dbos_async._database.sql import load
from dbos_async._logs import counted, shown
from dbos_async._operations.doctor.finding import Finding, duration, listed, ok, problem, size, warning
from dbos_async._operations.doctor.session import Session

with load(__name__) as sql:
    SEE_TABLES: Final = sql.statement("SEE_TABLES")
    SEE_AUTOVACUUM: Final = sql.statement("SEE_AUTOVACUUM")
    SEE_AGE: Final = sql.statement("SEE_AGE")
    SEE_HOLDERS: Final = sql.statement("SEE_HOLDERS")
    SEE_SLOTS: Final = sql.statement("SEE_SLOTS")
    SEE_LOCKS: Final = sql.statement("SEE_LOCKS")
    SEE_QUEUE: Final = sql.statement("SEE_QUEUE")

DEAD_ROWS = 50_000
DEAD_SHARE = 0.2
"""A table has too many dead rows when it has more than both: so many, and that share of those that live."""

BLOAT_BYTES = 256 << 20
BLOAT_FACTOR = 4.0
"""A table is bloated when it is larger than both: so many bytes, and so many times what its rows need."""

OLD_TRANSACTION_SECONDS = 300.0
OLD_LOCK_SECONDS = 60.0

AGE_WARNING = 1_000_000_000
AGE_PROBLEM = 1_600_000_000
"""Transactions since the oldest row was frozen. At 2,100 million the server refuses writes."""

QUEUE_WARNING = 0.1
QUEUE_PROBLEM = 0.5


async def autovacuum(session: Session) -> list[Finding]:
    """Whether autovacuum works, for the server and each table."""
    off = [row["name"] for row in await session.fetch(SEE_AUTOVACUUM)]
    found = [
        problem(
            f"{name} is off: dead rows are not removed, and every statement becomes slower and slower.",
            f"alter system set {name} = on; select pg_reload_conf();",
        )
        for name in off
    ]
    tables = [row["name"] for row in await session.fetch(SEE_TABLES) if not row["is_on"]]
    if tables:
        repair = " ".join(f"alter table dbos_async.{name} reset (autovacuum_enabled);" for name in tables)
        found.append(problem(f"Autovacuum is off for {listed(tables, 9)}: their dead rows are not removed.", repair))
    return found or [ok("Autovacuum is on.")]


async def dead_rows(session: Session) -> list[Finding]:
    """Whether vacuum keeps up."""
    tables = await session.fetch(SEE_TABLES)
    found: list[Finding] = []
    for row in tables:
        name, ago = row["name"], row["vacuumed_ago"]
        last = "and was never vacuumed" if ago is None else f"and was vacuumed {duration(ago)} ago"
        if row["dead"] > max(DEAD_ROWS, DEAD_SHARE * row["live"]):
            says = f"The table {name} has {row['dead']:,} dead rows beside {row['live']:,} live ones, {last}."
            found.append(warning(says, f"vacuum (analyze) dbos_async.{name}; and see what holds vacuum back."))
        elif row["needed"] is not None and row["bytes"] > max(BLOAT_BYTES, BLOAT_FACTOR * row["needed"]):
            says = f"The table {name} takes {size(row['bytes'])}, and its rows need about {size(row['needed'])}."
            repair = f"vacuum full dbos_async.{name}; locks it while it runs, pg_repack does not."
            found.append(warning(says, repair))
    dead = sum(row["dead"] for row in tables)
    return found or [ok(f"The tables have {counted(dead, 'dead row')}.")]


async def wraparound(session: Session) -> list[Finding]:
    """How far the server is from refusing writes because old rows are not frozen."""
    seen = await session.row(SEE_AGE)
    age = max(seen["transactions"], seen["row_locks"])
    says = f"The oldest transaction that is not frozen is {age:,} transactions old; at 2,100 million the server refuses writes."
    if age < AGE_WARNING:
        return [ok(says)]
    make = problem if age >= AGE_PROBLEM else warning
    return [make(says, "End what holds vacuum back, then execute 'vacuum freeze' in this database.")]


async def old_transactions(session: Session) -> list[Finding]:
    """Which transactions keep dead rows from being removed."""
    found = [_holder(row) for row in await session.fetch(SEE_HOLDERS, OLD_TRANSACTION_SECONDS)]
    return found or [ok(f"No transaction is older than {duration(OLD_TRANSACTION_SECONDS)}.")]


def _holder(row: asyncpg.Record) -> Finding:
    age = duration(row["seconds"])
    if row["kind"] == "prepared":
        name = shown(row["name"])
        says = f"The prepared transaction '{name}' of {shown(row['role'])} has been open for {age}: vacuum removes nothing newer."
        quoted = name.replace("'", "''")
        return warning(says, f"commit prepared '{quoted}'; or rollback prepared '{quoted}';")
    says = f"{_who(row)} has had a transaction open for {age}: vacuum removes nothing newer."
    return warning(says, f"Let that program end its transactions; now: select pg_terminate_backend({row['name']});")


def _who(row: asyncpg.Record, pid: object = None) -> str:
    application, state = (
        shown(row["application"] or "a program without a name"),
        row["state"] or "in a state that is not shown",
    )
    return f"Session {pid or row['name']} ({application}, role {shown(row['role'] or 'unknown')}, {state})"


async def replication_slots(session: Session) -> list[Finding]:
    """Which replication slots nobody reads."""
    found: list[Finding] = []
    for row in await session.fetch(SEE_SLOTS):
        keeps = (
            f"keeps {size(row['bytes'])} of the server's log" if row["bytes"] is not None else "keeps the server's log"
        )
        rows = ", and dead rows" if row["holds_rows"] else ""
        name = shown(row["name"])
        says = (
            f"Nobody reads the replication slot '{name}' ({row['kind']}), which {keeps}{rows}, until the disk is full."
        )
        found.append(warning(says, f"Bring its reader back, or: select pg_drop_replication_slot('{name}');"))
    return found or [ok("Every replication slot has its reader.")]


async def locks(session: Session) -> list[Finding]:
    """Who holds locks on tables of the schema."""
    found: list[Finding] = []
    for row in await session.fetch(SEE_LOCKS, OLD_LOCK_SECONDS):
        since = f", for {duration(row['seconds'])}" if row["seconds"] is not None else ""
        says = f"{_who(row, row['pid'])} holds a {row['mode']} on the table {row['name']}{since}: calls wait for it."
        advice = f"Wait for it if it is a migration or an index that is made; else: select pg_terminate_backend({row['pid']});"
        found.append(warning(says, advice))
    return found or [ok("Nobody holds up the tables with locks.")]


async def notification_queue(session: Session) -> list[Finding]:
    """How full the queue of notifications is. When it is full, commits that notify are refused."""
    share = (await session.row(SEE_QUEUE))["share"]
    says = f"The notification queue of the server is {share:.0%} full."
    if share < QUEUE_WARNING:
        return [ok(says)]
    make = problem if share >= QUEUE_PROBLEM else warning
    advice = (
        "A session that listens has a transaction open, in any database of the server. Find it (select pid, state, xact_start from "
        "pg_stat_activity order by xact_start) and end it: select pg_terminate_backend(pid);"
    )
    return [make(f"{says[:-1]}: when it is full, nothing that notifies is committed.", advice)]
