"""Ten thousand workflows wait in ``recv``, are woken and finish: ``python -m tests.benchmarks.waiters [COUNT]``.

Uses $DBOS_DATABASE_URL, else the embedded Postgres. Prints what they cost and how long it took.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from pathlib import Path
from typing import Any

from dbos_async import DBOS, WorkflowHandle
from dbos_async._executor import launched

AMOUNTS = {"full": 10_000, "quick": 2000, "tiny": 20}


@DBOS.workflow()
async def wait() -> Any:
    return await DBOS.recv(timeout_seconds=None)


def resident_bytes() -> int:
    """The resident memory of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


async def park_and_wake(count: int) -> dict[str, float]:
    """So many come to wait, are each sent a message, and finish."""
    here = launched.executor()
    before = resident_bytes(), threading.active_count(), len(here.database.postgres.backends)
    began = time.perf_counter()
    handles: list[WorkflowHandle[Any]] = []
    while len(handles) < count:
        starts = (DBOS.start_workflow(wait) for _ in range(min(1000, count - len(handles))))
        handles += await asyncio.gather(*starts)
    while sum(1 for run in here.runs.values() if run.tasks_waiting) < count:
        assert time.perf_counter() - began < 60, "they do not all come to wait"
        await asyncio.sleep(0.02)
    waiting = time.perf_counter() - began
    after = resident_bytes(), threading.active_count(), len(here.database.postgres.backends)
    began = time.perf_counter()
    await asyncio.gather(*(DBOS.send(handle.workflow_id, n) for n, handle in enumerate(handles)))
    results = await asyncio.gather(*(handle.get_result() for handle in handles))
    woken = time.perf_counter() - began
    assert results == list(range(count))
    return {
        "waiters": count,
        "started and waiting, s": waiting,
        "KiB each": (after[0] - before[0]) / count / 1024,
        "threads more": after[1] - before[1],
        "connections more": after[2] - before[2],
        "woken and finished, s": woken,
    }


async def study(url: str, amount: str) -> dict[str, float]:
    """For the command of all benchmarks."""
    async with DBOS(url):
        return await park_and_wake(AMOUNTS[amount])


async def main(count: int) -> None:
    async with DBOS():
        for name, figure in (await park_and_wake(count)).items():
            print(f"{name}: {figure:,.2f}")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else AMOUNTS["full"]))
