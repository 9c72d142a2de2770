"""Runs workflows that wait, sleep and step, until it is killed: ``python -m tests.support.programs.hold URL COUNT``."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from dbos_async import DBOS, SetWorkflowID


@DBOS.step(name="count in a program")
async def count(n: int) -> int:
    await asyncio.sleep(0.01)
    return n + 1


@DBOS.workflow(name="held")
async def held(kind: str) -> list[Any]:
    """Waits until a message lets it go on."""
    n = 0
    if kind == "stepping":
        while await DBOS.recv("go", 0) is None:
            n = await count(n)
    elif kind == "sleeping":
        await DBOS.sleep(0.5)
    return [kind, await DBOS.recv("end", None), n >= 0]


async def main() -> None:
    async with DBOS(sys.argv[1], executor_id="holder"):
        for n in range(int(sys.argv[2])):
            for kind in ("waiting", "sleeping", "stepping"):
                with SetWorkflowID(f"{kind}-{n}"):
                    await DBOS.start_workflow(held, kind)
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
