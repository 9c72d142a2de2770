"""``dbos-async migrate`` and ``version``."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version as installed_version
from typing import Annotated, Final

import typer

from dbos_async._cli.exits import CommandError, ExitCode
from dbos_async._cli.output import write, write_json
from dbos_async._cli.session import CONNECT_SECONDS, Json, find_url, reported, run
from dbos_async._cli.texts import safe
from dbos_async._database import migrations, sequences
from dbos_async._database.access import Access, find_schema
from dbos_async._database.connection_kinds import OwnConnection
from dbos_async._database.connections import Postgres
from dbos_async._database.names import Names
from dbos_async._database.outages import CONNECT_ERRORS
from dbos_async._database.urls import why_unusable
from dbos_async.errors import DBOSError

UNUSABLE = (*CONNECT_ERRORS, ValueError, OverflowError)
"""What connecting to a URL, or a query over that connection, can raise."""

PANEL: Final = "Develop and deploy"


def add_to(app: typer.Typer) -> None:
    """Register ``migrate`` and ``version``."""
    app.command("migrate", rich_help_panel=PANEL)(reported(migrate))
    app.command("version", rich_help_panel=PANEL)(reported(version))


def migrate(
    database: Annotated[
        str | None, typer.Argument(metavar="URL", help="The database (default: $DBOS_DATABASE_URL)")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; fail if something is missing.")] = False,
    grant: Annotated[
        str | None,
        typer.Option("--grant", metavar="ROLE", help="Give a role all rights that executors and clients need."),
    ] = None,
    sql: Annotated[
        bool,
        typer.Option(
            "--sql", help="Change nothing; print the SQL of it for psql. Without a URL, that for an empty database."
        ),
    ] = False,
    url: Annotated[str | None, typer.Option("--url", metavar="URL", help="The same as the argument.")] = None,
    as_json: Json = False,
) -> None:
    """Bring the schema of a database up to date, and say who may use it."""
    found = database or find_url(url)
    if check and (grant is not None or sql):
        raise CommandError("--check changes and prints nothing: leave out --grant and --sql.", ExitCode.USAGE)
    if sql:
        if as_json:
            raise CommandError("--sql prints SQL: leave out --json.", ExitCode.USAGE)
        typer.echo(run(_script(found, grant)), nl=False)
        return
    if not found:
        raise CommandError("No database: name its URL, or set DBOS_DATABASE_URL.")
    applied = run(migrated(found, check=check, grant_to=grant))
    if as_json:
        write_json({"applied": applied} | ({} if grant is None else {"granted": grant}))
        return
    for name in applied:
        write(f"applied  {name}")
    if not applied:
        write("The schema is up to date.")
    if grant is not None:
        write(f"granted  {safe(grant)}")


def version(as_json: Json = False) -> None:
    """Print the version of dbos_async."""
    found = installed_version("dbos_async")
    if as_json:
        write_json({"version": found})
    else:
        write(found)


async def migrated(url: str, *, check: bool, grant_to: str | None = None) -> list[str]:
    """Migrate a database, or only check it; the names of the migrations that were applied."""
    names = Names(find_schema(None))
    async with _connection(url) as connection:
        if check:
            await migrations.check(connection, names)
            return []
        applied = await migrations.migrate(connection, names, grant_to=grant_to)
        await sequences.repair(connection, names)
        return applied


async def _script(url: str | None, grant_to: str | None) -> str:
    names = Names(find_schema(None))
    if url is None:
        return await migrations.script(None, names, grant_to=grant_to)
    async with _connection(url) as connection:
        return await migrations.script(connection, names, grant_to=grant_to)


@asynccontextmanager
async def _connection(url: str) -> AsyncGenerator[OwnConnection]:
    """A connection to this database. What goes wrong in the block ends the command with a sentence."""
    try:
        connection = await Postgres(
            Access(url, schema=find_schema(None), connect_timeout_seconds=CONNECT_SECONDS)
        ).connect()
        try:
            await connection.set_lock_timeout("0")  # a migration waits for another one
            yield connection
        finally:
            await connection.close()
    except DBOSError as error:
        raise CommandError(str(error)) from None
    except UNUSABLE as error:
        raise CommandError(why_unusable(url, error)) from None
