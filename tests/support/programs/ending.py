"""A program that ends while its workflows stand at every kind of await.

    python -m tests.support.programs.ending URL HOW [DRAIN_SECONDS]

URL may be empty: then it uses the embedded Postgres of its working directory. HOW is what happens once all are at work:
``leave`` ``error`` ``exit`` ``cancel`` ``timeout``, or ``signal`` (it waits for one) and ``own handler`` (it has its own).
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from typing import Any

from dbos_async import DBOS, SetWorkflowID

PLACES = (
    "waiting",
    "sleeping",
    "stepping",
    "at a long step",
    "at a def step",
    "gather",
    "task group",
    "read_stream",
    "get_event",
    "child",
)
"""One workflow stands at each. The last one has a child that stands, too."""


@DBOS.step()
async def short_step(n: int) -> int:
    await asyncio.sleep(0.01)
    return n + 1


@DBOS.step()
async def long_step() -> None:
    await asyncio.Event().wait()


@DBOS.step(name="def_step that ends")
def def_step() -> None:
    time.sleep(0.5)


@DBOS.workflow(name="stands")
async def stands(place: str) -> Any:
    me, n = str(DBOS.workflow_id), await short_step(0)
    match place:
        case "waiting":
            await DBOS.recv("never", None)
        case "sleeping":
            await DBOS.sleep(3600)
        case "stepping":
            while True:
                n = await short_step(n)
        case "at a long step":
            await long_step()
        case "at a def step":
            while True:
                await def_step()
        case "gather":
            await asyncio.gather(DBOS.recv("never", None), DBOS.sleep(3600), long_step(), def_step())
        case "task group":
            async with asyncio.TaskGroup() as group:
                group.create_task(DBOS.recv("never", None))
                group.create_task(long_step())
        case "read_stream":
            async for _ in DBOS.read_stream(me, "nothing"):
                pass
        case "get_event":
            await DBOS.get_event(me, "nothing", None)
        case "child":
            with SetWorkflowID("the child"):
                child = await DBOS.start_workflow(stands, "waiting")
            await child.get_result()


async def at_work(place: str) -> None:
    """Wait until the workflow has come to its place."""
    while len(await DBOS.list_workflow_steps(place)) < (2 if place in ("child", "stepping") else 1):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def main(url: str, how: str, drain_seconds: float) -> None:
    signalled = asyncio.Event()
    if how == "own handler":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, signalled.set)
    async with asyncio.timeout(None) as limit, DBOS(url or None, drain_seconds=drain_seconds):
        for place in PLACES:
            with SetWorkflowID(place):
                await DBOS.start_workflow(stands, place)
        await asyncio.gather(*map(at_work, PLACES))
        print("ready", flush=True)
        match how:
            case "error":
                raise ValueError("on purpose")
            case "exit":
                sys.exit(3)
            case "cancel":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await signalled.wait()
            case "timeout":
                limit.reschedule(asyncio.get_running_loop().time() + 0.05)
                await signalled.wait()
            case "signal" | "own handler":
                await signalled.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else 0.3))
