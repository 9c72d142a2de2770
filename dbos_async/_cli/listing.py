"""``dbos-async workflows list``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Final

import typer
from rich.console import RenderableType
from rich.live import Live

from dbos_async._checks import MAX_INT
from dbos_async._cli.filters import Filters, find_all, takes_filters
from dbos_async._cli.output import Column, console, note, show, status_text, table, write, write_json, write_json_line
from dbos_async._cli.session import Json, Url, connected, reported, run
from dbos_async._cli.texts import age, duration, safe
from dbos_async._logs import counted
from dbos_async._workflows.status import WorkflowStatus
from dbos_async.client import DBOSClient

Limit = Annotated[int, typer.Option("--limit", "-l", min=1, max=MAX_INT, help="How many at most.")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Show it anew every second, until Ctrl-C.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the ids, one on each line.")]
Payloads = Annotated[bool, typer.Option("--payloads", help="With inputs, outputs and errors (in JSON).")]

COLUMNS: Final = (
    Column("WORKFLOW", folds=True),
    Column("NAME", max_width=32),
    Column("STATUS", max_width=28),
    Column("AGE", justify="right"),
    Column("TOOK", justify="right", from_width=90),
    Column("EXECUTOR", from_width=110, max_width=28),
    Column("VERSION", from_width=130, max_width=20),
)
WATCH_SECONDS: Final = 1.0


def add_to(app: typer.Typer) -> None:
    """Register ``list``."""
    app.command("list")(reported(takes_filters(list_workflows)))


def list_workflows(
    filters: Filters,
    limit: Limit = 100,
    watch: Watch = False,
    quiet: Quiet = False,
    payloads: Payloads = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List workflows, the oldest first."""
    run(_list(filters, limit, url, watch=watch, quiet=quiet, payloads=payloads, as_json=as_json))


async def _list(
    filters: Filters, limit: int, url: str | None, *, watch: bool, quiet: bool, payloads: bool, as_json: bool
) -> None:
    filters.arguments()  # a mistake is named before the database is opened
    async with connected(url) as client:

        async def find() -> list[WorkflowStatus]:
            return [one async for one in find_all(client, filters, limit=limit, payloads=payloads)]

        if watch and as_json:
            await _follow(find)
        elif watch:
            await shown_again(lambda: _table_of(find))
        elif as_json:
            write_json([_fields(one, payloads=payloads) for one in await find()])
        else:
            found = await find()
            if quiet:
                for one in found:
                    write(safe(one.workflow_id))
                return
            if found:
                show(rows_of(found, console().width))
            await _note(client, filters, len(found), limit)


async def _note(client: DBOSClient, filters: Filters, count: int, limit: int) -> None:
    if filters.unclaimable:
        await _note_owned(client)
    if count == 0:
        note("No workflow fits." if not filters.is_empty else "There are no workflows.")
    elif count == limit:
        note(f"The first {count} are shown: --limit {10 * limit} shows more, --newest the newest first.")


async def _note_owned(client: DBOSClient) -> None:
    """An executor that has gone still owns its workflows, until a live one frees them: they are not unclaimable."""
    gone = [one for one in await client.list_executors() if not one.is_live and one.workflows]
    if gone:
        left, owners = sum(one.workflows for one in gone), ", ".join(one.executor_id for one in gone[:3])
        them = "it" if left == 1 else "them"
        note(
            f"Not in this list: {counted(left, 'workflow')} of executors that have gone ({safe(owners)}"
            f"{', …' if len(gone) > 3 else ''}). A live executor frees {them} first."
        )


async def _table_of(find: Callable[[], Awaitable[list[WorkflowStatus]]]) -> RenderableType:
    return rows_of(await find(), console().width)


async def _follow(find: Callable[[], Awaitable[list[WorkflowStatus]]]) -> None:
    """One line for each workflow that is new or has changed."""
    seen: dict[str, WorkflowStatus] = {}
    while True:
        for one in await find():
            plain = one.model_copy(update={"cursor": None})
            if seen.get(one.workflow_id) != plain:
                seen[one.workflow_id] = plain
                write_json_line(_fields(one, payloads=False))
        await asyncio.sleep(WATCH_SECONDS)


async def shown_again(make: Callable[[], Awaitable[RenderableType]]) -> None:
    """Show something again and again: in its place on a terminal, and elsewhere whenever it has changed."""
    out = console()
    if not sys.stdout.isatty():
        last = None
        while True:
            with out.capture() as captured:
                out.print(await make())
            if (text := captured.get()) != last:
                last = text
                write("\n".join(line.rstrip() for line in text.split("\n")))
            await asyncio.sleep(WATCH_SECONDS)
    with Live(console=out, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            live.update(await make(), refresh=True)
            await asyncio.sleep(WATCH_SECONDS)


def rows_of(found: Sequence[WorkflowStatus], width: int) -> RenderableType:
    """The table of workflows."""
    now = datetime.now(UTC)
    rows = [
        (
            one.workflow_id,
            one.name,
            status_text(one.status, unclaimable=one.unclaimable),
            age(one.created_at, now),
            "" if one.ended_at is None else duration((one.ended_at - one.created_at).total_seconds()),
            (one.executor_id or "").rpartition(":")[0] or one.executor_id or "",
            one.application_version or "",
        )
        for one in found
    ]
    return table(COLUMNS, rows, width)


def _fields(one: WorkflowStatus, *, payloads: bool) -> dict[str, object]:
    left_out = {"cursor"} if payloads else {"cursor", "input", "output", "error"}
    return one.model_dump(exclude=left_out)
