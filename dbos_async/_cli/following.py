"""``dbos-async events`` and ``stream``: what workflows say."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Annotated, Any, Final

import typer

from dbos_async._checks import MAX_INT
from dbos_async._cli.exits import CommandError, ExitCode
from dbos_async._cli.output import console, note, write, write_json, write_json_line
from dbos_async._cli.session import Json, Url, connected, reported, run
from dbos_async._cli.texts import brief_json, json_text, safe, seconds_of
from dbos_async.client import DBOSClient
from dbos_async.errors import StreamTimeoutError
from dbos_async.waits import Rewind

WatchedId = Annotated[str, typer.Argument(metavar="ID", help="The workflow.")]
Timeout = Annotated[str | None, typer.Option("--timeout", help="Give up when nothing came for so long (30s, 5m).")]
LOOK_SECONDS: Final = 0.5

PANEL: Final = "Talk to workflows"


def add_to(app: typer.Typer) -> None:
    """Register ``events`` and ``stream``."""
    app.command("events", rich_help_panel=PANEL)(reported(events))
    app.command("stream", rich_help_panel=PANEL)(reported(stream))


def events(
    workflow_id: WatchedId,
    key: Annotated[str | None, typer.Argument(help="One event (default: all)")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on with each new value, until the workflow ends.")
    ] = False,
    timeout: Timeout = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Print the events of a workflow, or follow them."""

    async def work() -> None:
        seconds = None if timeout is None else seconds_of(timeout, "--timeout")
        async with connected(url) as client:
            await client.retrieve_workflow(workflow_id)
            if watch and key is not None:
                await _watch_one(client, workflow_id, key, seconds, as_json=as_json)
            elif watch:
                await _watch_all(client, workflow_id, as_json=as_json)
            elif key is not None:
                await _print_one(client, workflow_id, key, seconds, as_json=as_json)
            else:
                await _print_all(client, workflow_id, as_json=as_json)

    run(work())


def stream(
    workflow_id: WatchedId,
    key: Annotated[str, typer.Argument(help="The stream.")],
    offset: Annotated[int, typer.Option("--from", min=0, max=MAX_INT, help="Begin at this offset.")] = 0,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Wait for values that are not there yet.")
    ] = True,
    timeout: Timeout = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Print the values of a stream as they are written, one on each line, until it ends."""

    async def work() -> None:
        seconds = (None if timeout is None else seconds_of(timeout, "--timeout")) if follow else 0.0
        async with connected(url) as client:
            entries = client.read_stream_entries(workflow_id, key, offset=offset, timeout_seconds=seconds)
            async with aclosing(entries):
                try:
                    async for entry in entries:
                        if isinstance(entry, Rewind):
                            _print_rewind(entry, as_json=as_json)
                        elif as_json:
                            write_json_line({"offset": entry.offset, "value": entry.value})
                        else:
                            write(_line(entry.value))
                except StreamTimeoutError:
                    if follow:
                        raise

    run(work())


def _print_rewind(entry: Rewind, *, as_json: bool) -> None:
    if as_json:
        write_json_line({"rewind": entry.offset})
    else:
        note(f"⟲ what stood from offset {entry.offset} on is taken back; what stands of it follows")


def _line(value: Any) -> str:
    return safe(value) if isinstance(value, str) else json_text(value)


async def _print_one(client: DBOSClient, workflow_id: str, key: str, seconds: float | None, *, as_json: bool) -> None:
    if key not in await client.get_all_events(workflow_id):
        if seconds is None:
            raise CommandError(
                f"The workflow {workflow_id!r} has no event {key!r}: --timeout waits for it.", ExitCode.NOT_FOUND
            )
        if await client.get_event(workflow_id, key, seconds) is None and key not in await client.get_all_events(
            workflow_id
        ):
            raise CommandError(f"The event {key!r} of the workflow {workflow_id!r} has not come.", ExitCode.NO_ANSWER)
    value = (await client.get_all_events(workflow_id))[key]
    write(safe(value) if isinstance(value, str) and not as_json else json_text(value, indent=2))


async def _print_all(client: DBOSClient, workflow_id: str, *, as_json: bool) -> None:
    found = await client.get_all_events(workflow_id)
    if as_json:
        write_json(found)
        return
    width = console().width
    for key, value in found.items():
        _print_pair(key, value, width)
    if not found:
        note("The workflow has set no events.")


async def _watch_one(client: DBOSClient, workflow_id: str, key: str, seconds: float | None, *, as_json: bool) -> None:
    async with aclosing(client.watch_event(workflow_id, key, timeout_seconds=seconds)) as versions:
        async for one in versions:
            if as_json:
                write_json_line({"key": one.key, "value": one.value, "version": one.version, "set_at": one.set_at})
            else:
                write(f"{one.set_at.astimezone():%H:%M:%S}  {_line(one.value)}")


async def _watch_all(client: DBOSClient, workflow_id: str, *, as_json: bool) -> None:
    seen: dict[str, str] = {}
    width = console().width
    while True:
        handle = await client.retrieve_workflow(workflow_id)
        has_ended = (await handle.get_status()).ended_at is not None
        for key, value in (await client.get_all_events(workflow_id)).items():
            text = json_text(value)
            if seen.get(key) == text:
                continue
            seen[key] = text
            if as_json:
                write_json_line({"key": key, "value": value})
            else:
                _print_pair(key, value, width)
        if has_ended:
            return
        await asyncio.sleep(LOOK_SECONDS)


def _print_pair(key: str, value: Any, width: int) -> None:
    name = safe(key)
    write(f"{name}  {brief_json(value, max(width - len(name) - 2, 20))}")
