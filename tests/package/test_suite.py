"""The test suite itself: markers, promise numbers, and what its files may be."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import asyncpg
import pytest

from tests.support.database_marker import without_database
from tests.support.postgres import SMALL, Server

ROOT = Path(__file__).parent.parent.parent
TESTS = ROOT / "tests"
FILES = sorted(TESTS.rglob("*.py"))


def test_what_uses_no_server_has_no_marker(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("database") is None


@pytest.mark.usefixtures("database_url")
def test_what_uses_a_server_has_the_marker(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("database") is not None


async def test_without_the_marker_nothing_reaches_the_server(server_url: str) -> None:
    with without_database() as tried:
        with pytest.raises(PermissionError, match="marker database"):
            await asyncpg.connect(server_url)
        assert len(tried) == 1
        # Nor does a program that the test starts learn of the server.
        code = "import os; print([name for name in os.environ if name.startswith('DBOS_TEST_') and 'POSTGRES' not in name])"
        program = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
        assert (await program.communicate())[0].decode().strip() == "[]"
    await (await asyncpg.connect(server_url)).close()


async def test_without_the_marker_no_server_is_started() -> None:
    with without_database() as tried:
        server = Server(*SMALL)
        with pytest.raises(PermissionError, match="marker database"):
            await server.start()
        await server.remove()
        assert len(tried) == 1
