"""One command: the database that it opens, and how it ends."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, ParamSpec, TypeVar

import asyncpg
import typer

from dbos_async import embedded
from dbos_async._cli.exits import CommandError, ExitCode, code_of
from dbos_async._cli.output import note
from dbos_async._database.access import SCHEMA_VARIABLE, Access, check_schema
from dbos_async._database.connections import Postgres
from dbos_async._database.database import Database
from dbos_async._database.urls import url_of_environment, why_unusable
from dbos_async._logs import shown
from dbos_async.client import DBOSClient
from dbos_async.errors import ConfigurationError, DBOSError, NoDatabaseError

P = ParamSpec("P")
R = TypeVar("R")

CONNECT_SECONDS: Final = 10.0

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The database (default: $DBOS_DATABASE_URL, else the embedded Postgres of this folder)",
    ),
]
SCHEMA: Final = Annotated[
    str | None,
    typer.Option(
        "--schema", metavar="NAME", help="The schema of the application (default: $DBOS_SCHEMA, else dbos_async)"
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON: one document, or one line for each item when following.")
]


def run(work: Coroutine[Any, Any, R]) -> R:
    """Run what a command does in an event loop."""
    return asyncio.run(work)


@contextmanager
def reporting() -> Generator[None]:
    """Every error in the block becomes one sentence on standard error, and an exit code.

    Standard input is read and the user is asked outside of the event loop, since Ctrl-C cannot end a thread that reads.
    """
    try:
        yield
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        _end(error)


def _end(error: Exception) -> NoReturn:
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        (error,) = error.exceptions
    if isinstance(error, BrokenPipeError):
        _silence_stdout()
        raise typer.Exit(ExitCode.DONE)
    if isinstance(error, CommandError):
        fail(error.sentence, error.code)
    if isinstance(error, DBOSError):
        fail(str(error), code_of(error))
    if isinstance(error, OSError):
        fail(f"{type(error).__name__}: {error}.")
    if os.environ.get("DBOS_ASYNC_TRACEBACK"):
        raise error
    fail(f"dbos-async has failed with {type(error).__name__}: {error} (DBOS_ASYNC_TRACEBACK=1 shows where).")


def reported(command: Callable[P, None]) -> Callable[..., None]:
    """A command that ends as `reporting` says. One that takes the URL of a database takes ``--schema``, too."""

    @functools.wraps(command)
    def with_reports(*args: P.args, **kwargs: P.kwargs) -> None:
        schema: Any = kwargs.pop("schema", None)
        with reporting(), _in_schema(schema):
            command(*args, **kwargs)

    signature = inspect.signature(command, eval_str=True)
    parameters = dict(signature.parameters)
    if "url" in parameters:
        option = inspect.Parameter("schema", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=SCHEMA)
        parameters["schema"] = option
    with_reports.__dict__["__signature__"] = signature.replace(parameters=[*parameters.values()])
    with_reports.__annotations__ = {name: one.annotation for name, one in parameters.items()}
    return with_reports


@contextmanager
def _in_schema(schema: str | None) -> Generator[None]:
    """Everything in the block, and the programs that it starts, work in this schema unless they are told another one."""
    before = os.environ.get(SCHEMA_VARIABLE)
    if schema is not None:
        os.environ[SCHEMA_VARIABLE] = check_schema(schema, "--schema")
    try:
        yield
    finally:
        if schema is not None:
            os.environ.pop(SCHEMA_VARIABLE)
            if before is not None:
                os.environ[SCHEMA_VARIABLE] = before


def fail(sentence: str, code: ExitCode = ExitCode.ERROR) -> NoReturn:
    """End the command with one sentence on standard error."""
    with suppress(BrokenPipeError):
        note(shown(sentence), "red")
    raise typer.Exit(code)


def find_url(url: str | None) -> str | None:
    """The URL that the user has given, or ``$DBOS_DATABASE_URL``."""
    return url or url_of_environment()


@asynccontextmanager
async def database_url(url: str | None) -> AsyncGenerator[str]:
    """The URL that the user has given, ``$DBOS_DATABASE_URL``, or that of the embedded Postgres of this folder."""
    found, server = find_url(url), None
    if found is None:
        if not _has_embedded():
            raise CommandError(
                "No database: pass --url, set DBOS_DATABASE_URL, or run this where a program has used the embedded Postgres."
            )
        try:
            server = await embedded.start()
        except NoDatabaseError as error:
            raise ConfigurationError(str(error)) from None
        found = server.url
    try:
        yield found
    finally:
        if server is not None:
            await server.stop()


@asynccontextmanager
async def connected(url: str | None) -> AsyncGenerator[DBOSClient]:
    """A client of that database. What no waiting can help ends the command at once: no server, or no right."""
    async with database_url(url) as found:
        can_listen = await _find_server(found)
        async with DBOSClient(found, listen=can_listen, connect_timeout_seconds=CONNECT_SECONDS) as client:
            database_of(client).batches.limits.end_if_forbidden = True
            yield client


async def _find_server(url: str) -> bool:
    """Raise if nothing is at this address; else return whether one can listen there: not through a pooler in transaction mode.

    A server that is slow, or just starts, is waited for elsewhere.
    """
    try:
        connection = await Postgres(Access(url, connect_timeout_seconds=CONNECT_SECONDS)).connect()
    except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return True
    except OSError as error:
        raise ConfigurationError(why_unusable(url, error)) from None
    await connection.close()
    return connection.has_session


def database_of(client: DBOSClient) -> Database:
    """The database of a client."""
    return client._database  # pyright: ignore[reportPrivateUsage]  # of this library, too


def _has_embedded() -> bool:
    return any(Path(embedded.FOLDER).glob("postgres-*"))


def _silence_stdout() -> None:
    # Python flushes standard output once more when it ends, and would complain.
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
