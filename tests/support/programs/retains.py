"""Removes what has ended for a second, slowly, until it is killed: ``python -m tests.support.programs.retains URL NAME``."""

from __future__ import annotations

import asyncio
import sys

from dbos_async import DBOS
from dbos_async._lifecycle import retention
from dbos_async._operations import purge


async def main() -> None:
    purge.MAX_REMOVED = 7  # type: ignore[misc]  # it stands for a retention of more workflows
    retention.HOLD_SECONDS = 2.0  # type: ignore[misc]
    async with DBOS(sys.argv[1], executor_id=sys.argv[2], retention=1):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
