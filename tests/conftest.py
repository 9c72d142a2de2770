"""What all tests share: one real Postgres for the whole run, and a new database for each test.

The server is the one of DBOS_TEST_DATABASE_URL; else a container if a Docker engine answers; else one that is started from
installed programs (tests/support/postgres.py). DBOS_TEST_POSTGRES chooses the version of both. Databases are copied from a
migrated template, whose schema DBOS_TEST_SCHEMA names (tests/support/other_schema.py).
DBOS_TEST_SETTINGS="datestyle = German; timezone = …" is what each then has as a default, for runs of their own.
With DBOS_TEST_POOLER the library reaches databases through PgBouncer (tests/support/pooled.py).
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from dbos_async import DBOS
from dbos_async._database import migrations
from dbos_async._database.access import find_schema
from dbos_async._database.names import Names
from tests.support import listening, pooled
from tests.support.database_marker import SERVER, guarded, mark
from tests.support.databases import execute, new_database, with_database
from tests.support.postgres import QUICK, Server, chosen_version
from tests.support.statements import SETTING

Connect = Callable[[], Awaitable[Any]]


_stop_server: list[Callable[[], object]] = []


def pytest_sessionstart(session: pytest.Session) -> None:
    """Start the server once: in the only process, or in the one that starts the workers."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell lets what it runs in the background ignore Ctrl-C, and programs that are started from here would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each of a thousand programs would compile the library anew
    if SERVER not in os.environ and not session.config.option.collectonly:
        os.environ[SERVER] = _start_server()
        if pooled.is_pooled:
            _stop_server.append(pooled.start_pooler(os.environ[SERVER]).remove)


def pytest_unconfigure() -> None:
    """Stop it where it was started."""
    while _stop_server:
        os.environ.pop(SERVER, None)
        _stop_server.pop()()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test that reaches a server; this comes before ``-m`` selects. Skip what is about listening if nothing listens."""
    mark(items)
    for item in items if listening.is_off() else ():
        for marker in item.iter_markers("listens"):
            item.add_marker(pytest.mark.skip(reason=f"needs a listener: {marker.args[0]}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """A test without the marker ``database`` fails if it reaches a server, also through a fixture."""
    pooled.switch(off=item.get_closest_marker("direct") is not None)
    with guarded(item):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """The same while it runs."""
    with guarded(item):
        yield


def _start_server() -> str:
    url = os.environ.get("DBOS_TEST_DATABASE_URL")
    if url:
        return url
    return _start_container() or _start_own()


def _start_container() -> str | None:
    if "DOCKER_HOST" not in os.environ and not Path("/var/run/docker.sock").exists():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a client that finds no engine leaves its socket open
        try:
            import docker

            docker.from_env(timeout=2).ping()
        except Exception:
            return None
        finally:
            gc.collect()
    from testcontainers.postgres import PostgresContainer

    container = PostgresContainer(f"postgres:{chosen_version()}", driver=None).with_command(
        "-c max_connections=300 -c fsync=off"
    )
    container.start()
    _stop_server.append(container.stop)
    return str(container.get_connection_url())


def _start_own() -> str:
    server = Server(*QUICK)
    asyncio.run(server.create())
    _stop_server.append(lambda: asyncio.run(server.remove()))
    return server.url


@pytest.fixture(scope="session")
def postgres() -> None:
    """Every fixture through which a test reaches a server depends on this one: so the test carries the marker ``database``."""


@pytest.fixture(scope="session")
def server_url(postgres: None) -> str:
    """A database of the server from which others can be made."""
    return os.environ[SERVER]


@pytest.fixture(scope="session")
def template(server_url: str) -> str:
    """The name of a migrated database that is there to be copied; one for each worker."""
    name = f"template_{uuid4().hex[:12]}"

    async def make() -> None:
        await execute(server_url, f"create database {name}")
        connection = await asyncpg.connect(with_database(server_url, name))
        await migrations.migrate(connection, Names(find_schema(None)))
        await connection.close()

    asyncio.run(make())
    return name


@pytest.fixture
async def database_url(server_url: str, template: str) -> AsyncIterator[str]:
    """A new, migrated database of this test's own."""
    name = f"test_{uuid4().hex[:12]}"
    async with new_database(server_url, name, template=template) as url:
        for setting in filter(None, os.environ.get("DBOS_TEST_SETTINGS", "").split(";")):
            await execute(server_url, f'alter database "{name}" set {setting}')
        yield url


@pytest.fixture
async def empty_database_url(server_url: str) -> AsyncIterator[str]:
    """A new database without any table."""
    async with new_database(server_url, f"empty_{uuid4().hex[:12]}") as url:
        yield url


@pytest.fixture
async def connect(database_url: str) -> AsyncIterator[Connect]:
    """Opens raw connections to the test's database."""
    connections: list[Any] = []

    async def connect() -> Any:
        connections.append(await asyncpg.connect(database_url))
        return connections[-1]

    yield connect
    for connection in connections:
        await connection.close()


@pytest.fixture
async def connection(connect: Connect) -> Any:
    """One raw connection to the test's database."""
    return await connect()


@pytest.fixture
async def one(connect: Connect) -> Any:
    """A connection to a database with the rows of tests.support.statements.SETTING."""
    connection = await connect()
    await connection.execute(SETTING)
    return connection


@pytest.fixture
async def two(one: Any, connect: Connect) -> Any:
    """A second one."""
    return await connect()


@pytest.fixture
async def three(one: Any, connect: Connect) -> Any:
    """A third one, which watches the others."""
    return await connect()


@pytest.fixture
async def dbos(database_url: str) -> AsyncIterator[DBOS]:
    """A launched DBOS on the test's database; everything that it opened is gone afterwards."""
    before = asyncio.all_tasks()
    async with DBOS(database_url, executor_id="test") as launched:
        yield launched
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left, f"tasks left behind: {left}"
