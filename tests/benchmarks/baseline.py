"""The baseline: what raw asyncpg does on the same server with the payloads alone, in a table without an index but its key.

In the table of results its lone send is one insert per commit on one connection, and its sends are inserts of 500 rows a commit
by ``unnest``, on two connections: nothing that stores each payload in a commit of Postgres is much faster than these.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar, Self

import asyncpg

from tests.benchmarks.workloads import TASKS, WARM_UPS, Results, check, one_after_the_other, payload, percentile, timed

CREATE = "create table baseline (n integer primary key, payload json not null)"
EMPTY = "truncate baseline"
INSERT = "insert into baseline (n, payload) values ($1, to_json($2::text))"
INSERT_MANY = (
    "insert into baseline (n, payload) select n, to_json(p) from unnest($1::integer[], $2::text[]) as c (n, p)"
)
READ = "select payload #>> '{}' from baseline"
ROWS = 500
CONNECTIONS = 2


class Baseline:
    """Raw asyncpg."""

    is_slow: ClassVar[bool] = False

    def __init__(self, url: str, size: int) -> None:
        self.size = size
        self._url = url
        self._connections: list[asyncpg.Connection[asyncpg.Record]] = []

    async def __aenter__(self) -> Self:
        for _ in range(CONNECTIONS):
            self._connections.append(await asyncpg.connect(self._url))
        await self._connections[0].execute(CREATE)
        return self

    async def __aexit__(self, *error: object) -> None:
        for connection in self._connections:
            await connection.close()

    async def warm_up(self) -> None:
        """So that the statements are planned; no part of any measure."""
        await self.lone_send(WARM_UPS)

    async def lone_send(self, count: int) -> Results:
        one = self._connections[0]
        taken = await one_after_the_other(lambda n: one.execute(INSERT, n, payload(n, self.size)), count)
        await self._check(count)
        return {"lone_send p50": percentile(taken, 0.5) * 1e3}

    async def sends_queued(self, each: int) -> Results:
        """So many batches of 500 rows that one figure takes long enough to be one."""
        batches = max(2, TASKS * each * 5 // ROWS)

        async def insert(first: int) -> None:
            for batch in range(first, batches, CONNECTIONS):
                numbers = list(range(batch * ROWS, (batch + 1) * ROWS))
                rows = [payload(number, self.size) for number in numbers]
                await self._connections[first].execute(INSERT_MANY, numbers, rows)

        taken = await timed(asyncio.gather(*(insert(first) for first in range(CONNECTIONS))))
        await self._check(batches * ROWS)
        return {"sends_queued": batches * ROWS / taken}

    async def _check(self, count: int) -> None:
        check([row[0] for row in await self._connections[0].fetch(READ)], count, self.size)
        await self._connections[0].execute(EMPTY)
