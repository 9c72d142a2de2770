"""``dbos-async page``: the page by itself, for people on this machine. It needs the extra ``page``."""

from __future__ import annotations

import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated, Final

import typer

from dbos_async._checks import check_url
from dbos_async._cli.exits import CommandError, ExitCode
from dbos_async._cli.output import write
from dbos_async._cli.session import connected, find_url, reported, run

USUAL_PORT: Final = 8470
PANEL: Final = "Look at the application"


def add_to(app: typer.Typer) -> None:
    """Register ``page``."""
    app.command("page", rich_help_panel=PANEL)(reported(page))


def page(
    database: Annotated[
        str | None,
        typer.Argument(
            metavar="URL", help="The database (default: $DBOS_DATABASE_URL, else the embedded Postgres of this folder)"
        ),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Show everything, and let nobody act.")] = False,
    host: Annotated[str, typer.Option(help="An address of this machine.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help=f"0 takes a free one (default: {USUAL_PORT}, if it is free).")
    ] = None,
    url: Annotated[str | None, typer.Option("--url", metavar="URL", help="The same as the argument.")] = None,
) -> None:
    """Show workflows, messages and streams in a browser on this machine, until Ctrl-C."""
    try:
        from dbos_async._page.guard import is_loopback
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in ("jinja2", "markupsafe", "sse_starlette", "starlette"):
            raise
        raise CommandError("The page needs its extra: pip install 'dbos_async[page]'.") from None
    if not is_loopback(host):
        raise CommandError(
            f"The page has no users of its own, so it is served to this machine only, and {host} is no address of it: "
            "mount it with page(allow=...) in your application, or reach it through an SSH tunnel.",
            ExitCode.USAGE,
        )
    found = database or find_url(url)
    run(_serve(None if found is None else check_url(found), host, port, read_only=read_only))


async def _serve(url: str | None, host: str, port: int | None, *, read_only: bool) -> None:
    import uvicorn

    from dbos_async.page import page

    with _listening(host, port) as place:
        async with connected(url) as client:
            served = page(client=client, read_only=read_only)
            where = f"[{host}]" if ":" in host else host
            write(f"The page is at http://{where}:{place.getsockname()[1]}/ (Ctrl-C ends it).")
            # It speaks to this machine only, and believes no header about another one.
            config = uvicorn.Config(served, log_level="warning", ws="none", lifespan="off", proxy_headers=False)
            with _signals_end_only_the_server():
                await uvicorn.Server(config).serve(sockets=[place])


@contextmanager
def _signals_end_only_the_server() -> Generator[None]:
    """uvicorn ends in good order at a signal, and then raises it once more: here the rest is still to be closed."""
    before = {number: signal.signal(number, _nothing) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _nothing(_number: int, _frame: object) -> None:
    """The server has heard the signal."""


def _listening(host: str, port: int | None) -> socket.socket:
    try:
        return _bound(host, USUAL_PORT if port is None else port)
    except OSError as error:
        if port is None:
            return _bound(host, 0)
        raise CommandError(f"Port {port} of {host} cannot be used: {error.strerror or error}.") from None


def _bound(host: str, port: int) -> socket.socket:
    place = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind((host, port))
        place.listen()  # now, so that a port on which somebody listens is refused now
    except BaseException:
        place.close()
        raise
    return place
