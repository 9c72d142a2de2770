"""The schema: its migrations, its parts, and the rights of the role on them."""

from __future__ import annotations

from importlib.metadata import version
from typing import Final

from dbos_async._database import migrations
from dbos_async._database.denied import DISPENSABLE
from dbos_async._database.expected import Expected, expected
from dbos_async._database.rights import LACKING, WRITES, columns
from dbos_async._database.sql import load
from dbos_async._logs import shown
from dbos_async._operations.doctor.finding import Finding, listed, ok, problem, quoted, warning
from dbos_async._operations.doctor.session import Session

with load(__name__) as sql:
    SEE_SCHEMA: Final = sql.statement("SEE_SCHEMA")
    SEE_MIGRATIONS: Final = sql.statement("SEE_MIGRATIONS")
    SEE_OBJECTS: Final = sql.statement("SEE_OBJECTS")
    SEE_ADDITIONS: Final = sql.statement("SEE_ADDITIONS")
    SEE_ROW_SECURITY: Final = sql.statement("SEE_ROW_SECURITY")


async def schema(session: Session) -> list[Finding]:
    """Whether the migrations that this release needs are applied, and none that it cannot work with."""
    seen = await session.row(SEE_SCHEMA)
    session.has_schema = seen["has_schema"] and seen["may_read"] is not None
    if not session.has_schema:
        says = f"The database {seen['database']} has no schema {session.names.schema}."
        command = f"dbos-async migrate{session.names.options}"
        advice = f"Launch DBOS, which makes it, or execute '{command}'."
        if not seen["may_create"]:
            advice = (
                f"Execute '{command}' as a role that may create in this database, or let this one: "
                f"grant create on database {seen['database']} to {seen['role']};"
            )
        return [problem(says, advice)]
    if not seen["may_use"] or not seen["may_read"]:
        return [problem("This role may not read which migrations are applied.", "See what is said of the rights.")]
    applied = {row["number"]: row for row in await session.fetch(SEE_MIGRATIONS)}
    known = migrations.load()
    missing = [each.name for each in known if each.number not in applied]
    newer = [row for number, row in applied.items() if number not in {each.number for each in known}]
    required = [row for row in newer if row["requires_library"] and migrations.is_newer(row["requires_library"])]
    if required:
        row = required[-1]
        says = (
            f"The schema is ahead of this release of dbos_async ({version('dbos_async')}): {row['name']} requires "
            f"{row['requires_library']}."
        )
        return [problem(says, f"Upgrade it here: pip install 'dbos_async>={row['requires_library']}'.")]
    if missing:
        command = f"dbos-async migrate{session.names.options}"
        advice = f"Launch DBOS, which brings it up to date, or execute '{command}'."
        if not seen["is_owner"]:
            advice = f"Execute '{command}' as {seen['owner']}, who owns the schema; this role does not."
        return [problem(f"The schema is behind this release: {listed(missing)} is missing.", advice)]
    session.schema_fits = True
    if newer:
        says = f"The schema is ahead of this release, which works with it: it does not know {listed([r['name'] for r in newer])}."
        return [warning(says, "That is as it should be during a deploy; else upgrade dbos_async here.")]
    return [ok(f"The schema is up to date: {known[-1].name}.")]


async def rights(session: Session) -> list[Finding]:
    """Whether the role may do what an executor does."""
    seen = await session.row(SEE_SCHEMA)
    lacking = await session.fetch(LACKING, *columns(expected(migrations.load()), WRITES))
    if not lacking:
        return [ok(f"The role {seen['role']} has the rights that an executor needs.")]
    found = [
        warning(
            f"The role {seen['role']} lacks {row['missing']} on {row['target']}: an executor works without it, and may see later "
            "that another one is gone.",
            f"As an administrator of the server: {row['repair']}",
        )
        for row in lacking
        if row["name"] in DISPENSABLE
    ]
    lacking = [row for row in lacking if row["name"] not in DISPENSABLE]
    for kind in dict.fromkeys(row["kind"] for row in lacking):
        rows = [row for row in lacking if row["kind"] == kind]
        names = ", ".join(f"{row['missing']} on {row['target']}" for row in rows)
        found.append(problem(f"The role {seen['role']} lacks {names}.", " ".join(row["repair"] for row in rows)))
    if any(row["kind"] == "schema" or "select" in row["missing"] for row in lacking):
        session.schema_fits = False
        says = "What the application has in its tables was not looked at, since this role may not read them all."
        found.append(warning(says, "Grant the rights, or examine it as the role of the executors."))
    return found


async def objects(session: Session) -> list[Finding]:
    """Whether the tables, indexes, sequences and functions of the schema are there, and sound."""
    there = {(row["kind"], row["name"]): row["is_sound"] for row in await session.fetch(SEE_OBJECTS)}
    needed = expected(migrations.load())
    missing = [each for each in needed if (each.kind, each.name) not in there]
    found = [_missing(each) for each in missing]
    for (kind, name), is_sound in sorted(there.items()):
        if is_sound:
            continue
        if kind == "index":
            says = f"The index {name} is invalid: nothing is found by it, and every write pays for it."
            found.append(problem(says, f"reindex index concurrently dbos_async.{name};"))
        else:
            says = f"The {kind} {name} is unlogged: a crash of the server empties it."
            found.append(problem(says, f"alter {kind} dbos_async.{name} set logged;"))
    return found or [ok(f"All {len(needed)} tables, indexes, sequences and functions of the schema are there.")]


def _missing(each: Expected) -> Finding:
    if each.kind == "index":
        return problem(
            f"The index {each.name} is missing: statements that need it read whole tables, or fail.", each.repair
        )
    advice = "Restore the schema from a backup, or find out who has removed or renamed it: no migration makes it again."
    return problem(f"The {each.kind} {each.name} is missing.", advice)


async def additions(session: Session) -> list[Finding]:
    """What others have added to the tables of the schema."""
    found: list[Finding] = []
    for row in await session.fetch(SEE_ADDITIONS):
        name, place, target = shown(row["name"]), shown(row["place"]), row["target"]
        if row["kind"] == "trigger":
            says = f"The trigger '{name}' on the table {target} runs in every write: an error in it holds up workflows."
            found.append(warning(says, f"If nobody needs it: drop trigger {quoted(name)} on {place};"))
        else:
            says = (
                f"The foreign key '{name}' of {place} points to the table {target}, whose rows then cannot be deleted."
            )
            found.append(warning(says, f"Keep the id without it: alter table {place} drop constraint {quoted(name)};"))
    return found or [ok("Nobody has added triggers or foreign keys to the tables.")]


async def row_security(session: Session) -> list[Finding]:
    """Whether policies hide rows from the role."""
    names = [row["name"] for row in await session.fetch(SEE_ROW_SECURITY)]
    if names:
        repair = " ".join(f"alter table dbos_async.{name} disable row level security;" for name in names)
        return [problem(f"Row level security hides rows from this role: {listed(names, 9)}.", repair)]
    return [ok("No row level security stands in the way.")]
