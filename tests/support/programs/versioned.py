"""One executor of a version, in a rolling deploy. It runs until it gets a signal.

    python -m tests.support.programs.versioned URL NAME VERSION

The code of the versions 1 and 2 differs, so that neither can replay what the other has begun.
"""

from __future__ import annotations

import asyncio
import logging
import sys

from dbos_async import DBOS

TICKS = 8


def workflow_of(version: str) -> None:
    """Register the workflow ``versioned`` as the code of this version has it."""

    @DBOS.step()
    async def tick(n: int) -> str:
        await asyncio.sleep(0.1)
        return version

    @DBOS.step(name=f"prepare of {version}")
    async def prepare() -> str:
        return version

    @DBOS.workflow(name="versioned")
    async def versioned() -> list[str]:
        ran = [await prepare()]
        for n in range(TICKS):
            ran.append(await tick(n))
            await DBOS.set_event("ticks", n)
        return ran


async def main(url: str, name: str, version: str) -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    workflow_of(version)
    async with DBOS(url, executor_id=name, application_version=version, max_running=10):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
