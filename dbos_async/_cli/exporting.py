"""``dbos-async workflows export``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from dbos_async._cli.exits import CommandError
from dbos_async._cli.output import console, note
from dbos_async._cli.session import Url, connected, database_of, reported, run
from dbos_async._cli.texts import json_text, printable_json, safe
from dbos_async._logs import counted
from dbos_async._operations.export import export_workflow
from dbos_async.client import DBOSClient

LISTS: Final = {
    "step": "steps", "message": "messages", "delayed_message": "delayed_messages", "event": "events",
    "stream_entry": "stream_entries",
}  # fmt: skip
"""The lists of the document, in their order, by the kinds of their rows."""


def add_to(app: typer.Typer) -> None:
    """Register ``export``."""
    app.command("export")(reported(export))


def export(
    workflow_id: Annotated[str, typer.Argument(metavar="ID", help="The workflow.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write it to this file (default: standard output)")
    ] = None,
    url: Url = None,
) -> None:
    """Write everything that is stored of a workflow as one JSON document: steps, messages, events, streams."""

    async def work() -> None:
        async with connected(url) as client:
            if output is None:
                console()
                await _write(client, workflow_id, _to_stdout, console(stderr=True))
                sys.stdout.flush()
            else:
                await _to_file(client, workflow_id, output)

    run(work())


async def _to_file(client: DBOSClient, workflow_id: str, output: Path) -> None:
    """The file appears when it is complete."""
    part = output.with_name(f"{output.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            count = await _write(client, workflow_id, file.write, console(stderr=True))
        part.replace(output)
    except OSError as error:
        raise CommandError(f"{safe(str(output))} cannot be written: {safe(str(error))}.") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    note(f"{counted(count, 'row')} of {safe(workflow_id)} are in {safe(str(output))}.")


def _to_stdout(text: str) -> int:
    return sys.stdout.write(text)


async def _write(client: DBOSClient, workflow_id: str, write: Callable[[str], int], err: Console) -> int:
    """Write the document row by row; how many rows it has."""
    count, kinds, current, is_first = 0, list(LISTS), "", True
    with err.status(f"export {safe(workflow_id)[:100]}") if err.is_terminal else contextlib.nullcontext():
        async with aclosing(export_workflow(database_of(client), workflow_id)) as rows:
            async for kind, row in rows:
                count += 1
                if kind == "workflow":
                    head = {"dbos_async": installed_version("dbos_async"), "exported_at": datetime.now(UTC)}
                    write(json_text(head).removesuffix("}") + f',\n"workflow": {printable_json(row)}')
                    continue
                while kind != current:
                    write(("\n]" if current else "") + f',\n"{LISTS[kinds[0]]}": [')
                    current, is_first = kinds.pop(0), True
                write(("\n" if is_first else ",\n") + printable_json(row))
                is_first = False
    for kind in kinds:
        write(("\n]" if current else "") + f',\n"{LISTS[kind]}": [')
        current = kind
    write("\n]\n}\n")
    return count
