"""PgBouncer in front of a server, in the mode that a test asks for; Debian has it as the package pgbouncer.

The variable ``DBOS_TEST_PGBOUNCER`` names another program than that of the PATH, for example a newer one.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.postgres import free_port

PROGRAM = os.environ.get("DBOS_TEST_PGBOUNCER") or shutil.which(
    "pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin"
)

needs_pgbouncer = pytest.mark.skipif(PROGRAM is None, reason="needs PgBouncer: apt-get install pgbouncer")

START_SECONDS = 10.0


class PgBouncer:
    """One PgBouncer, for every database of a server. It may be stopped and started again, on the same port."""

    def __init__(self, url: str, **settings: str) -> None:
        parts = urlsplit(url)
        (host,) = parse_qs(parts.query).get("host", [parts.hostname or "127.0.0.1"])
        self._user = parts.username or "postgres"
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="dbos-pgbouncer-"))
        self._lines = {
            "listen_addr": "127.0.0.1", "listen_port": str(self.port), "unix_socket_dir": "", "auth_type": "any",
            "logfile": str(self.folder / "log"), "max_client_conn": "2000", **settings,
        }  # fmt: skip
        password = f" password={parts.password}" if parts.password else ""
        self._server = f"* = host={host} port={parts.port or 5432} user={self._user}{password}"
        self._account: str | None = None
        if os.geteuid() == 0:  # it refuses to run as root
            # The socket of a server of the tests is in a folder that only its account may enter.
            self._account = Path(host).owner() if host.startswith("/") else "nobody"
        self._program: subprocess.Popen[bytes] | None = None
        self._write_settings()

    @property
    def _file(self) -> Path:
        return self.folder / "settings.ini"

    def url_of(self, url: str) -> str:
        """The URL that leads to the database of another URL through it."""
        return f"postgresql://{self._user}@127.0.0.1:{self.port}{urlsplit(url).path}"

    @property
    def version(self) -> tuple[int, ...]:
        """The release of the program. Since 1.24 it keeps prepared statements if no setting says otherwise."""
        assert PROGRAM is not None
        said = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
        return tuple(int(number) for number in re.findall(r"\d+", said.splitlines()[0])[:2])

    def start(self) -> None:
        """Start it, and wait until it listens."""
        assert PROGRAM is not None
        self._program = subprocess.Popen(
            [PROGRAM, "-q", str(self._file)], user=self._account, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        give_up_at = time.monotonic() + START_SECONDS
        while not (self.folder / "log").exists() or " process up" not in (self.folder / "log").read_text():
            assert time.monotonic() < give_up_at, "PgBouncer does not start"
            assert self._program.poll() is None, "PgBouncer refuses to start"
            time.sleep(0.01)

    def stop(self) -> None:
        """End it at once, and every connection through it."""
        if self._program is not None:
            self.signal(signal.SIGCONT)
            self._program.kill()
            self._program.wait()
            self._program = None
            (self.folder / "log").unlink()

    def signal(self, number: int) -> None:
        """Send it a signal: SIGUSR1 is PAUSE, SIGUSR2 RESUME, SIGHUP RELOAD; SIGSTOP freezes it."""
        assert self._program is not None
        self._program.send_signal(number)

    def reload(self, **settings: str) -> None:
        """Change its settings while it runs."""
        self._lines |= settings
        self._write_settings()
        self.signal(signal.SIGHUP)

    def remove(self) -> None:
        """Stop it, and delete its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write_settings(self) -> None:
        lines = "".join(f"{name} = {value}\n" for name, value in self._lines.items())
        self._file.write_text(f"[databases]\n{self._server}\n[pgbouncer]\n{lines}")
        if self._account is not None:
            for path in (self.folder, self._file):
                shutil.chown(path, self._account)


@asynccontextmanager
async def running(url: str, **settings: str) -> AsyncIterator[PgBouncer]:
    """A PgBouncer with these settings, in transaction mode unless they say otherwise."""
    bouncer = PgBouncer(url, **{"pool_mode": "transaction", **settings})
    try:
        await asyncio.to_thread(bouncer.start)
        yield bouncer
    finally:
        await asyncio.to_thread(bouncer.remove)


@asynccontextmanager
async def pgbouncer(url: str, **settings: str) -> AsyncIterator[str]:
    """The URL of the same database through a PgBouncer with these settings."""
    async with running(url, **settings) as bouncer:
        yield bouncer.url_of(url)
