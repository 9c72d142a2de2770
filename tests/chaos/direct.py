"""The fault suite's own connection to its server, which goes around every proxy and waits while the server is away."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg

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

RENAMED = asyncpg.UndefinedTableError
"""A table has another name for some seconds."""


class Direct:
    """One connection for the suite itself. It waits for as long as the server is away; a statement may be executed twice."""

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
                except (*AWAY, RENAMED):
                    await asyncio.sleep(0.1)

    async def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.terminate()
            await asyncio.sleep(0)
