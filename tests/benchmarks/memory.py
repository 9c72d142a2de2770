"""What one workflow that runs, and one reader of a stream who lags behind, hold in memory; `waiters` tells of those that wait.

A running workflow is inside a step that has not ended. A lagging reader has read one value of a stream of many and then no more,
while as many again are written: what that adds has to be nothing, since what it will read waits in the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from dbos_async import DBOS
from tests.benchmarks.waiters import resident_bytes
from tests.benchmarks.workloads import payload
from tests.support.eventually import eventually

AMOUNTS = {"full": (5000, 200, 5000), "quick": (1000, 50, 2000), "tiny": (10, 2, 20)}
"""Workflows, readers, and values of the stream that they read."""

_inside = 0
_written = 0
_go_on = asyncio.Event()


@DBOS.step()
async def work() -> None:
    global _inside
    _inside += 1
    await _go_on.wait()


@DBOS.workflow()
async def working() -> None:
    await work()


@DBOS.workflow()
async def writing(count: int) -> None:
    global _written
    for _ in range(4):
        await asyncio.gather(*(DBOS.write_stream("values", payload(number, 100)) for number in range(count)))
        _written += count
        await DBOS.recv("more", None)


async def study(url: str, amount: str) -> dict[str, float]:
    """For the command of all benchmarks."""
    workflows, readers, values = AMOUNTS[amount]
    async with DBOS(url, max_running=2 * workflows):
        return {
            **await _running(workflows),  # first, while no memory is free that it could take without growing
            **await _lagging(readers, values),
        }


async def _running(count: int) -> dict[str, float]:
    before = resident_bytes()
    handles = [await DBOS.start_workflow(working) for _ in range(count)]
    await eventually(lambda: _inside == count)
    after = resident_bytes()
    _go_on.set()
    await asyncio.gather(*(handle.get_result() for handle in handles))
    return {"KiB a running workflow": (after - before) / count / 1024}


async def _lagging(readers: int, values: int) -> dict[str, float]:
    writer = await DBOS.start_workflow(writing, values)
    await eventually(lambda: _written == values)
    await _write_more(writer.workflow_id, values)  # Nobody reads, so what writing itself takes is taken already.
    before = resident_bytes()
    reading: list[AsyncGenerator[Any]] = []
    for _ in range(readers):
        reader = DBOS.read_stream(writer.workflow_id, "values")
        await anext(reader)
        reading.append(reader)
    after = resident_bytes()
    await _write_more(writer.workflow_id, values)
    behind = resident_bytes()
    await _write_more(writer.workflow_id, values)
    later = resident_bytes()
    await DBOS.send(writer.workflow_id, 1, "more")
    await writer.get_result()
    for reader in reading:
        count = 1 + len([value async for value in reader])
        assert count == 4 * values, "a reader who lagged gets every value"
    return {
        "KiB a reader who stopped": (after - before) / readers / 1024,
        f"KiB a lagging reader, {values} values behind": (behind - before) / readers / 1024,
        f"KiB more of it, {2 * values} values behind": (later - behind) / readers / 1024,
    }


async def _write_more(workflow_id: str, values: int) -> None:
    after = _written + values
    await DBOS.send(workflow_id, 1, "more")
    await eventually(lambda: _written == after)
