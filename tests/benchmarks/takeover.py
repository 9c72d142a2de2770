"""How long until nobody is lost: one of two executor processes is killed, and the other one takes over its workflows.

    python -m tests.benchmarks.takeover [KILLS] [COUNT]

Each process has COUNT workflows that wait, sleep and step, in thirds. Uses $DBOS_DATABASE_URL, else a Postgres of its own.
All times are the database's: from right before the kill to the claim of the last workflow.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import sys
import tempfile
from pathlib import Path

import asyncpg

from dbos_async import DBOSClient, embedded
from tests.support.eventually import eventually
from tests.support.processes import running
from tests.support.programs.executor import ids, let_end

OWNERS = """
    select count(*) filter (where starts_with(owner, $2 || ':')) from dbos_async.workflows where id = any($1)
"""

AT_WORK = """
    select count(distinct workflow_id) from dbos_async.steps where workflow_id = any($1)
"""

ENDED_WELL = """
    -- Every step of a workflow that stepped is recorded once: it counted from 1 to what the workflow returned.
    select bool_and(w.status = 'SUCCESS' and w.attempt % 1000000 = $2 and (
        w.output->>0 <> 'stepping' or (
            select count(*) = count(distinct s.output::text) and count(*) = coalesce(max(s.output::text::int), 0)
                   and count(*) = (w.output->>1)::int
            from dbos_async.steps as s where s.workflow_id = w.id and s.verb = 'step')))
    from dbos_async.workflows as w where w.id = any($1)
"""


async def take_over(url: str, count: int, turn: int = 0) -> float:
    """Seconds from the kill to the last claim, after which everything has ended correctly."""
    names = f"victim{turn}", f"survivor{turn}"
    async with (
        running("executor", url, names[0], count) as victim,
        running("executor", url, names[1], count) as survivor,
        DBOSClient(url, migrate=True) as client,
    ):
        await asyncio.gather(victim.says("ready"), survivor.says("ready"))
        theirs, others = (ids(name, count) for name in names)
        connection = await asyncpg.connect(url)
        try:
            await eventually(lambda: _is(connection, len(theirs), AT_WORK, theirs), "all are at work")
            assert await _is(connection, len(theirs), OWNERS, theirs, names[0])
            killed_at = await connection.fetchval("select clock_timestamp()")
            victim.process.kill()
            await eventually(lambda: _is(connection, len(theirs), OWNERS, theirs, names[1]), "all are taken over")
            last = await connection.fetchval(
                "select max(claimed_at) from dbos_async.workflows where id = any($1)", theirs
            )
            results = await let_end(client, theirs + others)
            kinds = [workflow_id.split()[1] for workflow_id in theirs + others]
            assert [(kind, end) for kind, _, end in results] == [(kind, "the end") for kind in kinds]
            assert await connection.fetchval(ENDED_WELL, theirs, 2), "taken over once, and every step recorded once"
            assert await connection.fetchval(ENDED_WELL, others, 1), "the survivor's own were never touched"
        finally:
            await connection.close()
        assert await survivor.end(signal.SIGTERM) == 128 + signal.SIGTERM
    return float((last - killed_at).total_seconds())


async def _is(connection: asyncpg.Connection[asyncpg.Record], count: int, query: str, *arguments: object) -> bool:
    return bool(await connection.fetchval(query, *arguments) == count)


async def main(kills: int, count: int) -> None:
    with tempfile.TemporaryDirectory(prefix="dbos-takeover-") as folder:
        url = os.environ.get("DBOS_DATABASE_URL")
        server = None if url else await embedded.start(Path(folder))
        try:
            times = [await take_over(url or (server.url if server else ""), count, turn) for turn in range(kills)]
        finally:
            if server is not None:
                await server.stop()
    print(f"{kills} kills, two executors with {count} workflows each: " + " ".join(f"{time:.2f}" for time in times))
    print(f"all taken over after {statistics.median(times):.2f} s in the median, {max(times):.2f} s at worst")


if __name__ == "__main__":
    asyncio.run(main(*map(int, [*sys.argv[1:], *("5", "200")[len(sys.argv) - 1 :]])))
