"""Calls that are cancelled at random moments, and what must be left of them: nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from dbos_async import DBOS
from dbos_async._database.database import Database
from tests.support import pooled
from tests.support.eventually import eventually

Way = Callable[[Awaitable[Any], float], Awaitable[Any]]


async def by_timeout(call: Awaitable[Any], seconds: float) -> Any:
    async with asyncio.timeout(seconds):
        return await call


async def by_wait_for(call: Awaitable[Any], seconds: float) -> Any:
    return await asyncio.wait_for(call, seconds)


async def by_cancel(call: Awaitable[Any], seconds: float) -> Any:
    task = asyncio.ensure_future(call)
    asyncio.get_running_loop().call_later(seconds, task.cancel)
    return await task


WAYS: dict[str, Way] = {"timeout": by_timeout, "wait_for": by_wait_for, "cancel": by_cancel}


def moments(seed: int) -> Callable[[], float]:
    """Times to cancel at: most of them while the call is on its way, some before and some long after."""
    chance = random.Random(seed)
    return lambda: chance.choice((0.0, 0.0005, 0.001, 0.002, 0.004, 0.02)) * chance.random()


class Watch:
    """What there was before, and that there is not more afterwards."""

    def __init__(self, connection: Any, *databases: Database) -> None:
        self._connection = connection
        self._databases = databases
        self._watchers = [len(database.wakeups) for database in databases]
        self._tasks = asyncio.all_tasks()

    async def nothing_is_left(self) -> None:
        await eventually(self._is_as_before, "no watcher, no task, no connection more")
        # Every connection can be used, too: nobody went away with one.
        async with asyncio.timeout(10):
            await asyncio.gather(*(DBOS.get_all_events(f"{n}") for n in range(1000)))

    async def _is_as_before(self) -> bool:
        known = [len(database.postgres.backends) for database in self._databases]
        assert max(known) <= 8, "those for statements"
        backends = await self._connection.fetchval(
            "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'dbos_async'"
        )
        # One more connection of each database listens, and one keeps the lease. Those of a pooler are not ours.
        watchers = [len(database.wakeups) for database in self._databases]
        has_connections = pooled.is_pooled or backends == sum(known) + len(known) + 1
        return watchers == self._watchers and asyncio.all_tasks() <= self._tasks and has_connections
