"""``dbos-async page``: the page by itself, for people on this machine. It needs the extra ``page``."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import Annotated, NoReturn

import typer

from dbos_async._checks import check_url
from dbos_async.client import DBOSClient
from dbos_async.errors import DBOSError

DEFAULT_PORT = 8470


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(name="page")(page)


def page(
    url: Annotated[str | None, typer.Argument(help="The database [default: $DBOS_DATABASE_URL]")] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Show everything, and let nobody act.")] = False,
    host: Annotated[str, typer.Option(help="An address of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = DEFAULT_PORT,
) -> None:
    """Show workflows, messages and streams in a browser on this machine, until Ctrl-C."""
    url = url or os.environ.get("DBOS_DATABASE_URL")
    if not url:
        _fail("No database: name its URL, or set DBOS_DATABASE_URL.")
    try:
        from dbos_async._page.guard import is_loopback
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in ("jinja2", "markupsafe", "sse_starlette", "starlette"):
            raise
        _fail("The page needs its extra: pip install 'dbos_async[page]'.")
    if not is_loopback(host):
        _fail(
            f"The page has no users of its own, so it is served to this machine only, and {host} is no address of it: "
            "mount it with page(allow=...) in your application, or reach it through an SSH tunnel."
        )
    try:
        with suppress(KeyboardInterrupt):
            asyncio.run(_serve(check_url(url), host, port, read_only=read_only))
    except DBOSError as error:
        _fail(str(error))


async def _serve(url: str, host: str, port: int, *, read_only: bool) -> None:
    import uvicorn

    from dbos_async.page import page

    try:
        place = _listening(host, port)
    except OSError as error:
        _fail(f"Port {port} of {host} cannot be used: {error.strerror or error}.")
    with place:
        async with DBOSClient(url, connect_timeout_seconds=10) as client:
            served = page(client=client, read_only=read_only)
            where = f"[{host}]" if ":" in host else host
            typer.echo(f"The page is at http://{where}:{place.getsockname()[1]}/ (Ctrl-C ends it).")
            # It speaks to this machine only, and believes no header about another one.
            config = uvicorn.Config(served, log_level="warning", ws="none", lifespan="off", proxy_headers=False)
            with suppress(asyncio.CancelledError):
                await uvicorn.Server(config).serve(sockets=[place])
                await asyncio.sleep(
                    0
                )  # After Ctrl-C uvicorn raises the signal again, which cancels this task at its next await.


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    place = socket.socket(family)
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        place.bind((host, port))
    except BaseException:
        place.close()
        raise
    return place


def _fail(sentence: str) -> NoReturn:
    typer.secho(sentence, fg="red", err=True)
    raise typer.Exit(1)
