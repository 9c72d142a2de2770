"""An executor that holds a workflow, as a role that is denied something: ``python -m tests.support.programs.denied URL``."""

from __future__ import annotations

import asyncio
import sys

from dbos_async import DBOS
from dbos_async._lifecycle import leases


@DBOS.workflow(name="denied, held")
async def held() -> str:
    return str(await DBOS.recv("word", timeout_seconds=None))


async def main() -> None:
    leases.LEASE_SECONDS = 3.0
    async with DBOS(sys.argv[1], migrate=False):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
