"""The test ground: one real Postgres for the whole run, and a fresh database of its own for every test.

The server comes from DBOS_TEST_DATABASE_URL, else from testcontainers if a Docker engine answers, else from the embedded
wheel (DBOS_TEST_POSTGRES=16 takes its older one). Databases are copied from a migrated template.
"""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from dbos_async import DBOS, embedded
from dbos_async._database import migrations
from tests.support.servers import memory
from tests.support.statements import SETTING

Connect = Callable[[], Awaitable[Any]]

SERVER = "DBOS_TEST_SERVER_OF_THIS_RUN"
SETTINGS = (
    "max_connections = 300",
    "max_wal_size = '256MB'",
    "fsync = off",
    "full_page_writes = off",
    "autovacuum_naptime = '1h'",
)

_stop_server: list[Callable[[], object]] = []


def pytest_sessionstart(session: pytest.Session) -> None:
    """Start the server once: in the only process, or in the one that starts the workers."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell lets what it runs in the background ignore Ctrl-C, and programs that are started from here would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if SERVER not in os.environ and not session.config.option.collectonly:
        os.environ[SERVER] = _start_server()


def pytest_unconfigure() -> None:
    """Stop it where it was started."""
    while _stop_server:
        os.environ.pop(SERVER, None)
        _stop_server.pop()()


def _start_server() -> str:
    url = os.environ.get("DBOS_TEST_DATABASE_URL")
    if url:
        return url
    return _start_container() or _start_embedded()


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

    container = PostgresContainer("postgres:18", driver=None).with_command("-c max_connections=300 -c fsync=off")
    container.start()
    _stop_server.append(container.stop)
    return str(container.get_connection_url())


def _start_embedded() -> str:
    folder = Path(tempfile.mkdtemp(prefix="dbos-tests-", dir=memory()))
    version = int(os.environ.get("DBOS_TEST_POSTGRES", "18"))
    server = embedded.join(folder, version)
    asyncio.run(_configure(server.url))
    server.leave()
    # The settings take effect when it starts anew. A test that loses its server to a power cut can be run again.
    server = embedded.join(folder, version)
    _stop_server.append(lambda: shutil.rmtree(folder))
    _stop_server.append(server.leave)
    return server.url


async def _configure(url: str) -> None:
    connection = await asyncpg.connect(url)
    for setting in SETTINGS:
        await connection.execute(f"alter system set {setting}")
    await connection.close()


def with_database(url: str, name: str) -> str:
    """The same server, another database."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc, f"/{name}", parts.query, ""))


@pytest.fixture(scope="session")
def server_url() -> str:
    """A database of the server from which others can be made."""
    return os.environ[SERVER]


@pytest.fixture(scope="session")
def template(server_url: str) -> str:
    """The name of a migrated database that is there to be copied; one for each worker."""
    name = f"template_{uuid4().hex[:12]}"

    async def make() -> None:
        await _on_server(server_url, f"create database {name}")
        connection = await asyncpg.connect(with_database(server_url, name))
        await migrations.migrate(connection)
        await connection.close()

    asyncio.run(make())
    return name


async def _on_server(url: str, command: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(command)
    finally:
        await connection.close()


@pytest.fixture
async def database_url(server_url: str, template: str) -> AsyncIterator[str]:
    """A fresh, migrated database of this test's own."""
    name = f"test_{uuid4().hex[:12]}"
    await _on_server(server_url, f"create database {name} template {template}")
    yield with_database(server_url, name)
    await _on_server(server_url, f"drop database {name} with (force)")


@pytest.fixture
async def empty_database_url(server_url: str) -> AsyncIterator[str]:
    """A fresh database in which nothing is."""
    name = f"empty_{uuid4().hex[:12]}"
    await _on_server(server_url, f"create database {name}")
    yield with_database(server_url, name)
    await _on_server(server_url, f"drop database {name} with (force)")


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
    """A connection, after the scene of tests.support.statements is set."""
    connection = await connect()
    await connection.execute(SETTING)
    return connection


@pytest.fixture
async def two(one: Any, connect: Connect) -> Any:
    """A second one."""
    return await connect()


@pytest.fixture
async def three(one: Any, connect: Connect) -> Any:
    """One that looks at what the others do."""
    return await connect()


@pytest.fixture
async def dbos(database_url: str) -> AsyncIterator[DBOS]:
    """A launched DBOS on the test's database; everything that it opened is gone afterwards."""
    before = asyncio.all_tasks()
    async with DBOS(database_url, executor_id="test") as launched:
        yield launched
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left, f"tasks left behind: {left}"
