"""``dbos-async purge``: remove workflows that ended long ago."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Final

import typer
from rich.progress import Progress

from dbos_async._cli.exits import CommandError, ExitCode
from dbos_async._cli.output import console, note, write, write_json
from dbos_async._cli.session import Json, Url, connected, reported, run
from dbos_async._cli.texts import safe, seconds_of
from dbos_async._logs import counted
from dbos_async._operations.purge import PER_SECOND, PurgeResult
from dbos_async._workflows.delete import ENDED
from dbos_async.client import DBOSClient

PANEL: Final = "Develop and deploy"
SLICE: Final = 2000
"""So many are removed before the progress is told."""


def add_to(app: typer.Typer) -> None:
    """Register ``purge``."""
    app.command("purge", rich_help_panel=PANEL)(reported(purge))


def purge(
    older_than: Annotated[str, typer.Option("--older-than", help="Those that ended longer ago than this (30d, 12h).")],
    status: Annotated[
        list[str] | None, typer.Option("--status", "-s", help=f"{', '.join(ENDED)} (default: all).")
    ] = None,
    name: Annotated[list[str] | None, typer.Option("--name", "-n", help="The registered name.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-l", min=1, help="How many at most.")] = None,
    per_second: Annotated[int, typer.Option("--per-second", min=1, help="How many in a second at most.")] = PER_SECOND,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count them.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Remove workflows that have ended, with their steps, messages, events and streams. Nothing brings them back."""
    wanted: dict[str, Any] = {
        "older_than": seconds_of(older_than, "--older-than"),
        "status": [one.upper() for one in status] if status else ENDED,
        "name": name or None,
        "per_second": per_second,
    }
    if not dry_run and not yes:
        if not sys.stdin.isatty():
            raise CommandError("Without a terminal, say --yes (or look first, with --dry-run).", ExitCode.USAGE)
        found = run(_purge(url, wanted, limit, dry_run=True))
        if not typer.confirm(f"Remove {counted(found.count, 'workflow')}?", err=True):
            raise CommandError("Nothing was changed.")
    result = run(_purge(url, wanted, limit, dry_run=dry_run))
    if as_json:
        write_json({"dry_run": dry_run, **result.model_dump()})
        return
    write(f"{'would remove' if dry_run else 'removed'} {counted(result.count, 'workflow')}")
    if result.left:
        note(f"{counted(result.left, 'workflow')} left: {safe(result.reason or '')}")


async def _purge(url: str | None, wanted: dict[str, Any], limit: int | None, *, dry_run: bool) -> PurgeResult:
    async with connected(url) as client:
        if dry_run:
            return await client.purge(**wanted, limit=limit, dry_run=True)
        return await _in_slices(client, wanted, limit)


async def _in_slices(client: DBOSClient, wanted: dict[str, Any], limit: int | None) -> PurgeResult:
    err, removed = console(stderr=True), 0
    with Progress(console=err, transient=True, disable=not err.is_terminal) as progress:
        total = (await client.purge(**wanted, limit=limit, dry_run=True)).count if err.is_terminal else None
        task = progress.add_task("purge", total=total)
        while True:
            size = SLICE if limit is None else min(SLICE, limit - removed)
            result = await client.purge(**wanted, limit=size)
            removed += result.count
            progress.update(task, completed=removed)
            if result.count < size or removed == limit:
                return result.model_copy(update={"count": removed})
