"""``dbos-async migrate`` and ``version``."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import Annotated, Final

import typer

from dbos_async._cli.exits import CommandError
from dbos_async._cli.output import write, write_json
from dbos_async._cli.session import CONNECT_SECONDS, Json, find_url, reported, run
from dbos_async._database import migrations, sequences
from dbos_async._database.access import Access
from dbos_async._database.connections import Postgres
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
    url: Annotated[str | None, typer.Option("--url", metavar="URL", help="The same as the argument.")] = None,
    as_json: Json = False,
) -> None:
    """Bring the schema of a database up to date."""

    async def work() -> None:
        found = database or find_url(url)
        if not found:
            raise CommandError("No database: name its URL, or set DBOS_DATABASE_URL.")
        applied = await migrated(found, check=check)
        if as_json:
            write_json({"applied": applied})
        else:
            for name in applied:
                write(f"applied  {name}")
            if not applied:
                write("The schema is up to date.")

    run(work())


def version(as_json: Json = False) -> None:
    """Print the version of dbos_async."""
    found = installed_version("dbos_async")
    if as_json:
        write_json({"version": found})
    else:
        write(found)


async def migrated(url: str, *, check: bool) -> list[str]:
    """Migrate a database, or only check it; the names of the migrations that were applied."""
    try:
        connection = await Postgres(Access(url, connect_timeout_seconds=CONNECT_SECONDS)).connect()
        try:
            await connection.execute("set lock_timeout = 0")  # a migration waits for another one
            if check:
                await migrations.check(connection)
                return []
            applied = await migrations.migrate(connection)
            await sequences.repair(connection)
            return applied
        finally:
            await connection.close()
    except DBOSError as error:
        raise CommandError(str(error)) from None
    except UNUSABLE as error:
        raise CommandError(why_unusable(url, error)) from None
