"""An executor behind a pooler that runs the workflow ``w`` until it is killed: ``URL EXECUTOR_ID``."""

from __future__ import annotations

import asyncio
import sys

from dbos_async import DBOS, SetWorkflowID
from tests.support.load import receive_and_record


async def main(url: str, executor_id: str) -> None:
    """Run it, and say so."""
    async with DBOS(url, listen=False, executor_id=executor_id):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(receive_and_record)
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
