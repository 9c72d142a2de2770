"""One executor that runs what a client has started, until it gets a signal.

    python -m tests.support.programs.backlog URL NAME MAX_RUNNING

Each workflow returns the name of its executor, and how many others were running there.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from dbos_async import DBOS

_running: set[str] = set()


@DBOS.step(name="work of the backlog")
async def work() -> int:
    most = len(_running)
    await asyncio.sleep(0.002)
    return most


@DBOS.workflow(name="short")
async def short() -> list[Any]:
    me = str(DBOS.workflow_id)
    _running.add(me)
    try:
        return [sys.argv[2], await work()]
    finally:
        _running.discard(me)


async def main() -> None:
    async with DBOS(sys.argv[1], executor_id=sys.argv[2], max_running=int(sys.argv[3])):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
