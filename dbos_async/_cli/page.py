"""``dbos-async page``: the page by itself, for people on this machine. It needs the extra ``page``."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from dbos_async._checks import check_url
from dbos_async.client import DBOSClient
from dbos_async.errors import DBOSError

if TYPE_CHECKING:
    from starlette.applications import Starlette

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
        import uvicorn

        from dbos_async._page.guard import is_loopback
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in (
            "uvicorn",
            "starlette",
            "jinja2",
            "markupsafe",
            "sse_starlette",
        ):
            raise
        _fail("The page needs its extra: pip install 'dbos_async[page]'.")
    if not is_loopback(host):
        _fail(
            f"The page has no users of its own, so it is served to this machine only, and {host} is no address of it: "
            "mount it with page(allow=...) in your application, or reach it through an SSH tunnel."
        )
    try:
        served = standalone(check_url(url), read_only=read_only)
        with _listening(host, port) as place:
            where = f"[{host}]" if ":" in host else host
            typer.echo(f"The page is at http://{where}:{place.getsockname()[1]}/ (Ctrl-C ends it).")
            uvicorn.Server(uvicorn.Config(served, log_level="warning", ws="none", lifespan="on")).run(sockets=[place])
    except DBOSError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"Port {port} of {host} cannot be used: {error.strerror or error}.")


def standalone(url: str, *, read_only: bool) -> Starlette:
    """The page as an application of its own, which opens and closes its client."""
    from dbos_async._page.routes import application
    from dbos_async._page.site import Site

    client = DBOSClient(url, connect_timeout_seconds=10)

    @asynccontextmanager
    async def opened(_app: Any) -> AsyncGenerator[None, None]:
        async with client:
            yield

    return application(Site(client, client, read_only), None, opened)


def _listening(host: str, port: int) -> Any:
    import socket

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
