"""What the tables say of the application: executors, workflows and messages that need a person, sequences."""

from __future__ import annotations

from typing import Final

import asyncpg

from dbos_async._database.sql import load
from dbos_async._logs import counted, shown
from dbos_async._operations.doctor.finding import Finding, duration, listed, ok, problem, warning
from dbos_async._operations.doctor.session import Session
from dbos_async._operations.doctor.settings import PER_EXECUTOR, SEE_CONNECTIONS

with load(__name__) as sql:
    SEE_EXECUTORS: Final = sql.statement("SEE_EXECUTORS")
    SEE_UNCLAIMABLE: Final = sql.statement("SEE_UNCLAIMABLE")
    SEE_PARKED: Final = sql.statement("SEE_PARKED")
    SEE_REJECTED: Final = sql.statement("SEE_REJECTED")
    SEE_OVERDUE: Final = sql.statement("SEE_OVERDUE")
    SEE_SEQUENCES: Final = sql.statement("SEE_SEQUENCES")

MOST: Final = 10_000
"""How many rows are counted of each kind."""

LATE_SECONDS: Final = 60.0
PAGES: Final = 200
"""How many pages of a table are read at its beginning and at its end, to compare it with its sequence."""


async def executors(session: Session) -> list[Finding]:
    """Which executors live, which have left workflows behind, and which share an id."""
    rows = await session.fetch(SEE_EXECUTORS, MOST)
    live = [row for row in rows if row["has_lease"] or row["has_connection"]]
    found = [_left(row, bool(live)) for row in rows if row not in live and row["workflows"]]
    for row in live:
        if not row["has_lease"] and row["overdue"] is not None:
            says = f"The lease of executor {_name(row)} ran out {duration(row['overdue'])} ago, and its connection is open."
            found.append(
                warning(
                    says, "Its row is not renewed: look into its log, and at rights and locks on dbos_async.executors."
                )
            )
    ids = [row["executor_id"] for row in live]
    for executor_id in dict.fromkeys(each for each in ids if ids.count(each) > 1):
        says = f"{ids.count(executor_id)} live executors have the executor_id '{shown(executor_id)}'."
        advice = "Give each process an executor_id of its own, or none; two under one id take each other for restarted."
        found.append(warning(says, advice))
    seen = await session.row(SEE_CONNECTIONS)
    there_are, needed = seen["most"] - seen["reserved"], len(live) * PER_EXECUTOR
    if needed > there_are:
        says = f"{len(live)} live executors may open {needed} connections, and the server has {there_are}."
        advice = f"Raise max_connections (alter system set max_connections = {needed + 20}; and restart the server), or run fewer."
        found.append(warning(says, advice))
    if found:
        return found
    names = listed([_name(row) for row in live])
    return [
        ok(
            f"{_are(len(live), 'executor')} live: {names}."
            if live
            else "No executor is live, and none has left anything."
        )
    ]


def _name(row: asyncpg.Record) -> str:
    return f"'{shown(row['executor_id'] or row['id'].rpartition(':')[0] or row['id'])}'"


def _left(row: asyncpg.Record, has_live: bool) -> Finding:
    ago = f", whose lease ran out {duration(row['overdue'])} ago," if row["overdue"] is not None else ""
    says = f"Executor {_name(row)}{ago} is gone and has left {_many(row['workflows'], 'workflow')}."
    if has_live:
        return warning(
            says, "A live executor takes them over within 30 s; if this stays, look into the logs of the live ones."
        )
    return problem(says, "No executor is live: launch one, which takes them over.")


def _many(count: int, noun: str) -> str:
    return f"{MOST:,} {noun}s or more" if count >= MOST else counted(count, noun)


def _are(count: int, noun: str) -> str:
    return f"{_many(count, noun)} {'is' if count == 1 else 'are'}"


async def unclaimable(session: Session) -> list[Finding]:
    """Which workflows no live executor can run."""
    rows = await session.fetch(SEE_UNCLAIMABLE, MOST)
    if not rows:
        return [ok("Every workflow that waits for an executor has a live one that can run it.")]
    names = [
        f"{row['count']} of '{shown(row['name'])}'"
        + (f" (version {shown(row['application_version'])})" if row["application_version"] else "")
        for row in rows
    ]
    return [
        warning(
            f"No live executor can run {_many(sum(row['count'] for row in rows), 'workflow')}: {listed(names)}.",
            "Launch an executor that knows the name and has the version, or move them: resume_workflow(id, application_version=…). "
            f"'dbos-async workflows list --unclaimable{session.names.options}' lists them.",
        )
    ]


PARKED: Final = {
    "REPLAY_MISMATCH": "their code asks for other steps than those recorded. Repair the code",
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "the process died under them again and again. Find what ends it (memory, sys.exit)",
}


async def parked(session: Session) -> list[Finding]:
    """Which workflows are parked."""
    found: list[Finding] = []
    for row in await session.fetch(SEE_PARKED, MOST):
        why, _, repair = PARKED[row["status"]].partition(". ")
        says = f"{_are(row['count'], 'workflow')} parked ({row['status']}), such as '{shown(row['example'])}': {why}."
        command = f"dbos-async workflows resume --status {row['status']}{session.names.options}"
        found.append(warning(says, f"{repair}, then: {command}"))
    return found or [ok("No workflow is parked.")]


async def rejected(session: Session) -> list[Finding]:
    """Which messages their receivers could not read."""
    row = await session.row(SEE_REJECTED, MOST)
    if not row["count"]:
        return [ok("No message was rejected.")]
    option = session.names.options
    topic = f"about '{shown(row['topic'])}'" if row["topic"] else "without a topic"
    return [
        warning(
            f"{_are(row['count'], 'message')} rejected, the last one {topic} to '{shown(row['destination_id'])}': its receiver "
            "could not read it as its type.",
            f"Repair the type, see them ('dbos-async messages list --status rejected{option}'), "
            f"then: dbos-async messages redeliver MESSAGE{option}",
        )
    ]


async def overdue(session: Session) -> list[Finding]:
    """Whether executors do what is due."""
    rows = [row for row in await session.fetch(SEE_OVERDUE, LATE_SECONDS, MOST) if row["count"]]
    return [
        problem(
            f"{_are(row['count'], row['what'])} overdue for up to {duration(row['seconds'])}: no executor has seen to that.",
            "Launch an executor; if one is live, look into its log for a service that fails, and at locks on the tables.",
        )
        for row in rows
    ] or [ok("Nothing is overdue.")]


async def sequences(session: Session) -> list[Finding]:
    """Whether the sequences are ahead of their tables, which they are not after some restores and fail-overs."""
    rows = await session.fetch(SEE_SEQUENCES, PAGES)
    return [
        problem(
            f"The sequence {row['name']} is at {row['at']}, and its table at {row['found']}: the new would come before the old.",
            f"Stop the executors, then: {row['repair']}",
        )
        for row in rows
        if row["found"] is not None and row["found"] > row["at"]
    ] or [ok("The sequences are ahead of their tables.")]
