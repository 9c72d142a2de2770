"""What the tests of faults have in common."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import pytest

from dbos_async._database import connecting, connections, listener, polling, probe, sending
from tests.support.databases import new_database
from tests.support.postgres import SMALL, Server, chosen_version, versions


@pytest.fixture(scope="session")
def programs(postgres: None) -> None:
    """Skips a test that starts servers where the programs of Postgres are not installed."""
    if chosen_version() not in versions():
        pytest.skip("needs the programs of this Postgres, for example those of dbos_async[embedded]")


@pytest.fixture(scope="module")
def own_server(programs: None) -> Iterator[Server]:
    """A server that a test may restart and reconfigure."""
    server = Server(*SMALL, tcp=True)
    asyncio.run(server.create())
    yield server
    asyncio.run(server.remove())


@pytest.fixture
async def own_url(own_server: Server) -> AsyncIterator[str]:
    """An empty database of it."""
    async with new_database(own_server.url, f"own_{uuid4().hex[:12]}") as url:
        yield url


LEFT_BY_ASYNCPG = "unexpected connection_lost() call"
"""The error of a future that asyncpg forgets when a connect by TCP is cancelled at the moment in which the socket is open."""


@pytest.fixture
async def quiet() -> AsyncIterator[None]:
    """Fails a test that leaves a task behind, or about which the event loop or the garbage collector complains."""
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    before = asyncio.all_tasks()
    yield
    gc.collect()
    await asyncio.sleep(0)
    left = {task for task in asyncio.all_tasks() - before if not task.get_name().startswith("workflow ")}
    assert not left - {asyncio.current_task()}
    assert [each for each in complaints if LEFT_BY_ASYNCPG not in str(each.get("exception"))] == []


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens the seconds after which a silent connection is probed."""
    monkeypatch.setattr(sending, "AFTER_SECONDS", 0.5)
    monkeypatch.setattr(probe, "EVERY_SECONDS", 0.2)
    monkeypatch.setattr(probe, "ANSWER_WITHIN_SECONDS", 0.5)
    monkeypatch.setattr(listener, "ASK_EVERY_SECONDS", 0.5)
    monkeypatch.setattr(listener, "ANSWER_WITHIN_SECONDS", 0.5)
    monkeypatch.setattr(polling, "ANSWER_WITHIN_SECONDS", 0.5)
    monkeypatch.setattr(connections, "HOST_SECONDS", 0.5)
    monkeypatch.setattr(connecting, "HOST_SECONDS", 0.5)
