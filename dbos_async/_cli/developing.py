"""``dbos-async dev``: a database, the page and the program, for as long as one works on it."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import typer

from dbos_async import embedded
from dbos_async._cli.exits import CommandError, ExitCode
from dbos_async._cli.output import note, write, write_json_line
from dbos_async._cli.schema import migrated
from dbos_async._cli.session import Json, Url, find_url, reported, run
from dbos_async._database.urls import shown_url

DRAIN_SECONDS: Final = 15.0
PAGE: Final = "dbos_async.page"
STDERR: Final = 2

PANEL: Final = "Develop and deploy"


def add_to(app: typer.Typer) -> None:
    """Register ``dev``."""
    app.command("dev", rich_help_panel=PANEL)(reported(dev))


def dev(
    program: Annotated[
        str | None,
        typer.Argument(metavar="[PROGRAM]", help="MODULE:app for uvicorn, or a module or file that Python runs."),
    ] = None,
    reload: Annotated[bool, typer.Option("--reload", help="Start the program anew when its files change.")] = False,
    host: Annotated[str, typer.Option("--host", help="Where MODULE:app listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Its port.")] = 8000,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Open the page beside it.")] = True,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Start a Postgres if there is no URL, bring its schema up to date, and run a program on it. Ctrl-C ends all of it."""

    async def work() -> None:
        command = None if program is None else command_of(program, reload=reload, host=host, port=port)
        found, server = find_url(url), None
        if found is None:
            server = await embedded.start()
        try:
            code = await _develop(
                found or (server.url if server else ""),
                command,
                page=page,
                as_json=as_json,
                is_embedded=server is not None,
            )
        finally:
            if server is not None:
                await server.stop()
        if code:
            raise typer.Exit(code)

    run(work())


def command_of(program: str, *, reload: bool, host: str, port: int) -> list[str]:
    """The command that runs a program. What it needs is named if it is not installed."""
    if ":" in program and not Path(program).exists():
        _need("uvicorn", "pip install 'dbos_async[fastapi]'", f"{program} is run by uvicorn")
        command = [sys.executable, "-m", "uvicorn", program, "--host", host, "--port", str(port)]
        return [*command, "--reload"] if reload else command
    command = [sys.executable, program] if Path(program).exists() else [sys.executable, "-m", program]
    if not reload:
        return command
    _need("watchfiles", "pip install watchfiles", "--reload of a program that is no MODULE:app is done by watchfiles")
    return [sys.executable, "-m", "watchfiles", "--filter", "python", shlex.join(command), "."]


def _need(module: str, remedy: str, why: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise CommandError(f"{why}, which is not installed: {remedy}.")


async def _develop(url: str, command: Sequence[str] | None, *, page: bool, as_json: bool, is_embedded: bool) -> int:
    applied = await migrated(url, check=False)
    told = url if is_embedded else shown_url(url)  # the embedded one has no password
    if as_json:
        write_json_line({"url": told, "applied": applied})
    else:
        write(told)
    if applied:
        note(f"The schema has {len(applied)} new migrations, up to {applied[-1]}.")
    if is_embedded:
        note(
            "This URL is for programs that are started from here. In this folder dbos-async finds the database without it."
        )
    async with asyncio.TaskGroup() as group:
        ending = asyncio.Event()
        with suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
        if page:
            _open_page(group, url, ending)
        if command is None:
            note("Ctrl-C ends it.")
            await ending.wait()
            return ExitCode.DONE
        running = group.create_task(_child(command, url, ending))
        code = await running
        ending.set()
        return code


def _open_page(group: asyncio.TaskGroup, url: str, ending: asyncio.Event) -> None:
    try:
        found = importlib.util.find_spec(PAGE) is not None and importlib.import_module(PAGE)
    except ImportError as missing:
        note(f"The page needs {missing.name}: pip install 'dbos_async[page]'.")
        return
    if not found:
        note("There is no page in this installation: pip install 'dbos_async[page]'.")
        return
    group.create_task(_child([sys.executable, "-m", "dbos_async", "page"], url, ending, STDERR))


async def _child(command: Sequence[str], url: str, ending: asyncio.Event, stdout: int | None = None) -> int:
    """Run a program until it ends, or until all of it ends. A program that is left is ended in good order."""
    environment = os.environ | {"DBOS_DATABASE_URL": url}
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=stdout)
    over = asyncio.ensure_future(ending.wait())
    end = asyncio.ensure_future(process.wait())
    try:
        await asyncio.wait([over, end], return_when=asyncio.FIRST_COMPLETED)
    finally:
        over.cancel()
        if process.returncode is None:
            await _end(process)
    code = process.returncode
    return 128 - code if code is not None and code < 0 else code or 0


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            await process.wait()
    except (TimeoutError, asyncio.CancelledError):
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
