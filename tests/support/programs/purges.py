"""Purges what is older than 500 seconds, slowly: ``python -m tests.support.programs.purges URL``."""

from __future__ import annotations

import asyncio
import sys

from dbos_async import DBOSClient
from dbos_async._operations import purge


async def main() -> None:
    purge.MAX_REMOVED = 7  # type: ignore[misc]  # it stands for a purge of more workflows
    async with DBOSClient(sys.argv[1]) as client:
        print("begun", flush=True)
        await client.purge(500, per_second=400)


if __name__ == "__main__":
    asyncio.run(main())
