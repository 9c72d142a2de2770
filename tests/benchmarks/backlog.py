"""A hundred thousand workflows wait for an executor: ``python -m tests.benchmarks.backlog [COUNT [MAX_RUNNING]]``.

A client starts them, then two executor processes work them off. Uses $DBOS_DATABASE_URL, else a Postgres of its own.
Prints how long it took, how the work was shared, and how much memory the executors needed.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

import asyncpg

from dbos_async import DBOSClient, embedded
from tests.support.processes import Program, running
from tests.support.programs.backlog import short

ENDED = "select count(*) from dbos_async.workflows where name = 'short' and status = 'SUCCESS'"

SHARES = """
    select output->>0 as executor, count(*) as count, max((output->>1)::int) as most
    from dbos_async.workflows where name = 'short' group by 1 order by 1
"""


async def start(url: str, count: int) -> None:
    """Start so many workflows from a client, a thousand at a time."""
    async with DBOSClient(url, migrate=True) as client:
        for first in range(0, count, 1000):
            await asyncio.gather(*(client.start_workflow(short) for _ in range(first, min(first + 1000, count))))


def peak_bytes(program: Program) -> int:
    """The most resident memory that a process has had."""
    lines = Path(f"/proc/{program.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


async def work_off(url: str, count: int, max_running: int) -> None:
    """Start the workflows, let two executors run them, and say how that went."""
    began = time.perf_counter()
    await start(url, count)
    print(f"{count} workflows started in {time.perf_counter() - began:.1f} s")
    async with running("backlog", url, "a", max_running) as a, running("backlog", url, "b", max_running) as b:
        connection = await asyncpg.connect(url)
        began = time.perf_counter()
        await asyncio.gather(a.says("ready"), b.says("ready"))
        idle = peak_bytes(a), peak_bytes(b)
        while await connection.fetchval(ENDED) < count:
            assert a.process.returncode is b.process.returncode is None, a.errors + b.errors
            await asyncio.sleep(0.5)
        print(f"all ended {time.perf_counter() - began:.1f} s after the executors were launched")
        for program, before, row in zip((a, b), idle, await connection.fetch(SHARES), strict=True):
            print(
                f"executor {row['executor']} ran {row['count']}, at most {row['most']} at a time, "
                f"peak memory {peak_bytes(program) >> 20} MiB ({before >> 20} MiB at launch)"
            )
        await connection.close()
        await asyncio.gather(a.end(), b.end())


async def main(count: int, max_running: int) -> None:
    url = os.environ.get("DBOS_DATABASE_URL")
    if url:
        return await work_off(url, count, max_running)
    with tempfile.TemporaryDirectory(prefix="dbos-backlog-") as folder:
        server = await embedded.start(Path(folder))
        try:
            await work_off(server.url, count, max_running)
        finally:
            await server.stop()


if __name__ == "__main__":
    asyncio.run(main(*map(int, [*sys.argv[1:], *("100000", "1000")[len(sys.argv) - 1 :]])))
