"""``dbos-async``: the command line, for one-off tasks such as migrations. It needs the extra ``cli``."""

from __future__ import annotations

import asyncio
import os
from importlib.metadata import version as installed_version
from typing import Annotated, NoReturn

import asyncpg
import typer

from dbos_async._checks import check_url
from dbos_async._cli import page
from dbos_async._database import migrations
from dbos_async._database.outages import CONNECT_ERRORS
from dbos_async._database.urls import why_unusable, without_libpq_parameters
from dbos_async.errors import DBOSError

app: typer.Typer = typer.Typer(
    help="dbos_async: durable workflows on Postgres.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # A traceback with local variables would show the URL.
)

UNUSABLE = (*CONNECT_ERRORS, ValueError, OverflowError)
"""What connecting to a URL, or a query over that connection, can raise."""


@app.command()
def migrate(
    url: Annotated[str | None, typer.Argument(help="The database [default: $DBOS_DATABASE_URL]")] = None,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; fail if something is missing.")] = False,
) -> None:
    """Bring the schema of a database up to date."""
    url = url or os.environ.get("DBOS_DATABASE_URL")
    if not url:
        _fail("No database: name its URL, or set DBOS_DATABASE_URL.")
    try:
        applied = asyncio.run(_migrate(check_url(url), check))
    except DBOSError as error:
        _fail(str(error))
    except UNUSABLE as error:
        _fail(why_unusable(url, error))
    for name in applied:
        typer.echo(f"{typer.style('applied', fg='green')}  {name}")
    if not applied:
        typer.echo("The schema is up to date.")


@app.command()
def version() -> None:
    """Print the version of dbos_async."""
    typer.echo(installed_version("dbos_async"))


page.add_to(app)


def _fail(sentence: str) -> NoReturn:
    typer.secho(sentence, fg="red", err=True)
    raise typer.Exit(1)


async def _migrate(url: str, check: bool) -> list[str]:
    connection = await asyncpg.connect(without_libpq_parameters(url), timeout=10)
    try:
        if check:
            await migrations.check(connection)
            return []
        return await migrations.migrate(connection)
    finally:
        await connection.close()
