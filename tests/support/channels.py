"""What is announced between processes, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from dbos_async._database import migrations
from dbos_async._database.names import Names


class Announcements:
    """What is announced on some channels from now on, until the connection is closed."""

    def __init__(self, connection: Any, channel: str) -> None:
        self._connection, self._channel = connection, channel
        self.payloads: list[tuple[str, str]] = []
        """The ends of the names of the channels, and what was said there."""

    async def end(self) -> list[tuple[str, str]]:
        """All that was announced by transactions that are over by now; it is forgotten then."""
        # The server sends what it has for this connection before it answers.
        await self._connection.fetchval("select 1")
        await asyncio.sleep(0)
        found, self.payloads = self.payloads, []
        return found

    async def of(self, key: bytes) -> set[str]:
        """The channels on which this key was announced; all else is forgotten."""
        return {suffix for suffix, payload in await self.end() if key.hex() in payload}

    def _heard(self, _connection: Any, _pid: int, channel: str, payload: str) -> None:
        self.payloads.append((channel.removeprefix(self._channel), payload))

    async def listen(self, suffixes: Iterable[str]) -> None:
        for suffix in suffixes:
            await self._connection.add_listener(self._channel + suffix, self._heard)


async def announcements(connection: Any, *executors: str) -> Announcements:
    """What is announced on the channels of all, of values and of these executors."""
    found = Announcements(connection, await migrations.channel(connection, Names()))
    await found.listen(["", "_x", *(f"_{group:x}" for group in range(16)), *(f"_to_{one[-12:]}" for one in executors)])
    return found
