"""``dbos-async purge``."""

from __future__ import annotations

import sys
from typing import Annotated, Final

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dbos_async._checks import MAX_INT
from dbos_async._cli.choosing import Yes
from dbos_async._cli.exits import CommandError, ExitCode
from dbos_async._cli.output import console, note, write, write_json
from dbos_async._cli.session import Json, Url, connected, database_of, reported, run
from dbos_async._cli.texts import safe, seconds_of
from dbos_async._logs import counted
from dbos_async._operations.purge import PER_SECOND, Old, PurgeResult, Walk
from dbos_async._workflows.delete import ENDED
from dbos_async.client import DBOSClient

COLUMNS: Final = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


def add_to(app: typer.Typer) -> None:
    """Register ``purge``."""
    app.command("purge", rich_help_panel="Develop and deploy")(reported(purge))


def purge(
    older_than: Annotated[
        str, typer.Option("--older-than", help="Those that ended longer ago than this (90s, 15m, 1h, 30d, 4w).")
    ],
    status: Annotated[
        list[str] | None,
        typer.Option("--status", help="Only those that ended so: SUCCESS, ERROR, CANCELLED. Repeatable."),
    ] = None,
    name: Annotated[list[str] | None, typer.Option("--name", help="Only those of this name. Repeatable.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, max=MAX_INT, help="Remove so many at most.")] = None,
    per_second: Annotated[
        int, typer.Option("--per-second", min=1, max=MAX_INT, help="Remove so many a second at most.")
    ] = PER_SECOND,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many it would be.")] = False,
    yes: Yes = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Remove workflows that ended long ago, with their steps, messages, events and streams. Nothing brings them back."""

    old = Old.of(seconds_of(older_than, "--older-than"), [one.upper() for one in status or ENDED], name)

    async def count() -> int:
        async with connected(url) as client:
            return (await Walk(database_of(client), old, limit=limit).count()).count

    async def remove(expected: int | None) -> None:
        async with connected(url) as client:
            _report(await _remove(client, old, limit, per_second, expected), as_json=as_json)

    expected = None if yes and not dry_run else run(count())
    if dry_run:
        _say_what_would_be(expected or 0, as_json=as_json)
    elif expected == 0:
        _report(PurgeResult(), as_json=as_json)
    else:
        if expected is not None:
            _ask(expected, older_than)  # outside of the event loop, which Ctrl-C would wait for
        run(remove(expected))


async def _remove(client: DBOSClient, old: Old, limit: int | None, per_second: int, count: int | None) -> PurgeResult:
    """Remove them, and show how far that is."""
    err = console(stderr=True)
    with Progress(*COLUMNS, console=err, transient=True, disable=not err.is_terminal) as progress:
        bar = progress.add_task("removed", total=count)

        async def tell() -> bool:
            progress.update(bar, completed=walk.result.count)
            return True

        walk = Walk(database_of(client), old, per_second=per_second, limit=limit, may_go_on=tell)
        try:
            return await walk.remove()
        except BaseException:
            # What is at the server may be committed after that.
            note(f"Removed at least {counted(walk.result.count, 'workflow')} until then.")
            raise


def _say_what_would_be(count: int, *, as_json: bool) -> None:
    if as_json:
        write_json({"dry_run": True, "count": count})
    else:
        write(f"It would remove {counted(count, 'workflow')}. Nothing was changed.")


def _report(result: PurgeResult, *, as_json: bool) -> None:
    if as_json:
        write_json(result)
        return
    write(f"removed {counted(result.count, 'workflow')}")
    if result.left:
        note(f"Left {counted(result.left, 'workflow')} for now: {safe(result.reason or '')}.", "yellow")


def _ask(count: int, age: str) -> None:
    what = f"remove {counted(count, 'workflow')} that ended more than {age.strip()} ago"
    if not sys.stdin.isatty():
        raise CommandError(
            f"It would {what}: without a terminal, say --yes (or look first, with --dry-run).", ExitCode.USAGE
        )
    if not typer.confirm(f"{what[0].upper()}{what[1:]}?", err=True):
        raise CommandError("Nothing was changed.")
