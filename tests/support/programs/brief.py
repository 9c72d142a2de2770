"""An executor with a brief lease that holds waiting workflows: ``python -m tests.support.programs.brief URL NAME COUNT``."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from dbos_async import DBOS, SetWorkflowID
from dbos_async._lifecycle import leases


@DBOS.workflow(name="brief")
async def brief() -> Any:
    return await DBOS.recv(timeout_seconds=None)


async def main() -> None:
    leases.LEASE_SECONDS = 2.0
    url, name, count = sys.argv[1:]
    async with DBOS(url, executor_id=name):
        for n in range(int(count)):
            with SetWorkflowID(f"{name}-{n}"):
                await DBOS.start_workflow(brief)
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
