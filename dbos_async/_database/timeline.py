"""Notices that the server is another one than before, and may lack what was committed: a standby for which no commit waited.

What a run remembers may be gone there. So before anything else is executed on such a server, whoever watches gets the first word,
and every other new connection waits for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import asyncpg

SEE: Final = """
    select left(pg_walfile_name(pg_current_wal_lsn()), 8) as timeline,
           current_setting('synchronous_standby_names') <> ''
           and current_setting('synchronous_commit') not in ('off', 'local') as waits_for_standby
"""

OnLoss = Callable[[Any], Awaitable[None]]
"""Does over this connection what must come first."""


class Seen(NamedTuple):
    """What a connection has seen of its server: the timeline, which a promotion changes, and whether commits wait for a standby."""

    timeline: str
    waits_for_standby: bool


class Timeline:
    """The server as this process has seen it last."""

    def __init__(self) -> None:
        self._last: Seen | None = None
        self._on_loss: OnLoss | None = None
        self._lock = asyncio.Lock()

    def watch(self, on_loss: OnLoss) -> None:
        """From now on do this first on a server that may lack commits."""
        self._on_loss = on_loss

    async def look(self, connection: Any) -> None:
        """Look at the server of a connection, which nothing else uses yet. Raises what the connection raises."""
        if self._on_loss is None:
            return
        async with self._lock:
            try:
                row = await asyncpg.Connection.fetchrow(connection, SEE)
            except asyncpg.PostgresConnectionError:
                raise
            except asyncpg.PostgresError:
                return  # this server does not tell: it has no functions of that kind, or the role may not ask
            assert row is not None
            seen = Seen(*row)
            last = self._last
            if last is not None and last.timeline != seen.timeline and not last.waits_for_standby:
                await self._on_loss(connection)
            self._last = seen
