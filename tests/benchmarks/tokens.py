"""One step writes tokens, and a reader in another process takes them: by one stream writer, and by one ``write_stream`` a token.

Of each: tokens a second, how old a token is when the reader has it (from before its ``write``), and the log written for a token.
The writer is measured at full speed and at 20,000 tokens a second; the reader's pace is that of the slower side.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg

from dbos_async import DBOS, DBOSClient
from tests.benchmarks.harness import ROOT, end

TOKENS = {"full": 10_000, "quick": 2_000}
MAX_SECONDS = 0.02
RATE = 20_000
WRITTEN = "select (pg_current_wal_insert_lsn() - '0/0')::bigint"


@DBOS.step(name="tokens: by a writer")
async def by_writer(count: int, rate: int) -> None:
    async with DBOS.stream_writer("tokens", max_seconds=MAX_SECONDS) as out:
        async for _ in paced(count, rate):
            await out.write(time.time())


@DBOS.step(name="tokens: one by one")
async def one_by_one(count: int, rate: int) -> None:
    async for _ in paced(count, rate):
        await DBOS.write_stream("tokens", time.time())


WAYS = {"by a writer": by_writer, "one by one": one_by_one}


@DBOS.workflow(name="tokens")
async def write(way: str, count: int, rate: int) -> None:
    await DBOS.recv("go", timeout_seconds=None)
    await WAYS[way](count, rate)


async def paced(count: int, rate: int) -> AsyncIterator[int]:
    """So many turns; with a rate that many a second, a few at a time, as a model's client hands them over."""
    began = time.perf_counter()
    for n in range(count):
        if rate and n % 20 == 0:
            await asyncio.sleep(max(0.0, began + n / rate - time.perf_counter()))
        yield n


async def read(url: str, workflow_id: str) -> None:
    """The reader's process: prints when it had the first and the last token, and the ages of all."""
    ages: list[float] = []
    async with DBOSClient(url) as client:
        reader = client.read_stream(workflow_id, "tokens")
        print("ready", flush=True)
        async with contextlib.aclosing(reader):
            ages.extend([time.time() - at async for at in reader])
    ages.sort()
    shares = {name: 1000 * ages[int(len(ages) * share)] for name, share in (("p50", 0.5), ("p99", 0.99))}
    print(json.dumps({"count": len(ages), "at": time.time(), **shares}))


async def measure(url: str, connection: Any, way: str, count: int, rate: int) -> dict[str, float]:
    """The figures of one way and pace."""
    handle = await DBOS.start_workflow(write, way, count, rate)
    reader = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.benchmarks.tokens", url, handle.workflow_id,
        cwd=ROOT, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        assert reader.stdout is not None
        await reader.stdout.readline()
        before, began = await connection.fetchval(WRITTEN), time.time()
        await DBOS.send(handle.workflow_id, None, "go")
        await handle.get_result()
        written = await connection.fetchval(WRITTEN) - before
        found = json.loads(await reader.stdout.readline())
    finally:
        await end(reader)
    assert found["count"] == count, "a token was lost, or came twice"
    pace = "full speed" if not rate else f"{rate:,} a second"
    name = f"{way}, {pace}"
    figures = {f"{name}: p50, ms": found["p50"], f"{name}: p99, ms": found["p99"]}
    if not rate:
        figures[f"{name}: tokens a second"] = count / (found["at"] - began)
        figures[f"{name}: bytes of the log a token"] = written / count
    return figures


async def study(url: str, amount: str) -> dict[str, float]:
    """For the command of all benchmarks."""
    count = TOKENS[amount] if amount in TOKENS else TOKENS["quick"] // 10
    connection = await asyncpg.connect(url)
    found: dict[str, float] = {}
    try:
        async with DBOS(url):
            await measure(url, connection, "by a writer", count // 10, 0)  # what is prepared only once
            await measure(url, connection, "one by one", count // 10, 0)
            for way, rate in (("by a writer", 0), ("one by one", 0), ("by a writer", RATE)):
                found |= await measure(url, connection, way, count, rate)
    finally:
        await connection.close()
    return found


if __name__ == "__main__":
    asyncio.run(read(*sys.argv[1:]))
