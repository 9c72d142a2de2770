"""What a transactional step costs: ``python -m tests.benchmarks.transactions [ROUNDS]``.

Steps of a workflow against the same three statements in a plain transaction on a connection from a pool of asyncpg, in one
process and in turns. Uses $DBOS_DATABASE_URL, else a Postgres of its own, which waits for the disk at each commit as
it does by default. Prints the median of each in ms and their ratio, of all rounds and of each.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import asyncpg

from dbos_async import DBOS, embedded

ACTS = 200
IN_A_ROW = 10

TABLES = """
    create table if not exists bench_stock (item text primary key, pieces int not null);
    create table if not exists bench_orders (id bigint generated always as identity primary key, item text not null);
    insert into bench_stock select 'item ' || n, 1000000 from generate_series(1, 100) as n on conflict do nothing;
"""


async def body(connection: Any, turn: int) -> int:
    """Three statements: look, change, insert."""
    item = f"item {turn % 100 + 1}"
    pieces: int = await connection.fetchval("select pieces from bench_stock where item = $1", item)
    await connection.execute("update bench_stock set pieces = $2 where item = $1", item, pieces - 1)
    await connection.execute("insert into bench_orders (item) values ($1)", item)
    return pieces


@DBOS.transaction(name="benchmark: buys")
async def buys(connection: asyncpg.Connection[Any], turn: int) -> int:
    return await body(connection, turn)


TOOK: dict[str, list[float]] = {"step": [], "plain": []}
POOLS: list[Any] = []


async def buys_plainly(turn: int) -> int:
    async with POOLS[0].acquire() as connection, connection.transaction():
        return await body(connection, turn)


@DBOS.workflow(name="benchmark: buys")
async def buys_many() -> None:
    """Some of both in turns, so that what else the machine does is the same for both."""
    for begin in range(0, ACTS, IN_A_ROW):
        for kind, buy in (("step", buys), ("plain", buys_plainly)):
            for turn in range(begin, begin + IN_A_ROW):
                began = time.perf_counter()
                await buy(turn)
                TOOK[kind].append(1000 * (time.perf_counter() - began))


async def compare(url: str, rounds: int) -> None:
    async with DBOS(url), asyncpg.create_pool(url, min_size=0, max_size=10) as pool:
        POOLS.append(pool)
        await pool.execute(TABLES)
        found: dict[str, list[float]] = {name: [] for name in TOOK}
        ratios: list[float] = []
        for turn in range(rounds + 1):
            for took in TOOK.values():
                took.clear()
            await buys_many()
            if turn:  # the first one opens connections and prepares statements
                ratios.append(statistics.median(TOOK["step"]) / statistics.median(TOOK["plain"]))
                for name, took in TOOK.items():
                    found[name] += took
        step, alone = (statistics.median(found[name]) for name in TOOK)
        print(f"p50: step {step:.3f} ms, plain transaction {alone:.3f} ms, ratio {step / alone:.3f}")
        print(f"ratio of the rounds: {' '.join(f'{ratio:.2f}' for ratio in ratios)}")


async def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    url = os.environ.get("DBOS_DATABASE_URL")
    if url:
        return await compare(url, rounds)
    with tempfile.TemporaryDirectory() as folder:
        server = await embedded.start(Path(folder))
        try:
            await compare(server.url, rounds)
        finally:
            await server.stop()


if __name__ == "__main__":
    asyncio.run(main())
