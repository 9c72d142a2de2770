"""A workflow that follows messages, an event and two streams, in a program that can be killed at the n-th step boundary.

    python -m tests.support.programs.follows URL [before|during|after N | serve]

Without ``serve`` it prints how everything ended; with it, it starts the workflow, says "ready", and runs until it gets a signal.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from contextlib import nullcontext
from typing import Any

from dbos_async import DBOS, Event, SendMessage, SetWorkflowID, Stream, StreamOf, Topic
from dbos_async._runs.step import Step
from dbos_async._runs.step_result import StepResult
from tests.support.boundaries import Around, Proceed, around_boundaries

OFFER = Topic("offer", int)
PRICE = Event("price", int)
TOKENS = Stream("tokens", int)
COUNT = 5


@DBOS.workflow(name="follows")
async def follows() -> dict[str, Any]:
    """Writes down what it follows as it comes, and returns the same at its end."""
    found: dict[str, list[Any]] = {"messages": [], "versions": [], "parts": []}
    speakers = [await DBOS.start_workflow(speaks, first) for first in (0, 100)]
    async for offer in DBOS.messages(OFFER):
        found["messages"].append(offer.payload)
        await DBOS.write_stream("log", found["messages"][-1])
        if offer.payload == COUNT - 1:
            break
    async for price in DBOS.watch_event(speakers[0].workflow_id, PRICE):
        found["versions"].append([price.version, price.value, price.set_at.isoformat()])
        await DBOS.write_stream("log", found["versions"][-1])
    async for part in DBOS.read_streams(*(StreamOf(each.workflow_id, TOKENS) for each in speakers)):
        which = [each.workflow_id for each in speakers].index(part.workflow_id)
        found["parts"].append([which, part.offset, part.value])
        await DBOS.write_stream("log", found["parts"][-1])
    found["nothing"] = [offer.payload async for offer in DBOS.messages(OFFER, timeout_seconds=0.01)]
    return found


@DBOS.workflow(name="speaks for a follower")
async def speaks(first: int) -> None:
    for n in range(first, first + COUNT):
        await DBOS.set_event(PRICE, n)
        await DBOS.write_stream(TOKENS, n)
        await DBOS.sleep(0.005)


def check(result: dict[str, Any], log: list[Any]) -> None:
    """Everything came once and in order, and the log of all runs together is what the last one says."""
    assert result["messages"] == list(range(COUNT))
    assert result["nothing"] == []
    for which, first in ((0, 0), (1, 100)):
        parts = [[offset, value] for of, offset, value in result["parts"] if of == which]
        assert parts == [[n, first + n] for n in range(COUNT)]
    versions = [version for version, _, _ in result["versions"]]
    values = [value for _, value, _ in result["versions"]]
    assert versions == sorted(set(versions))
    assert values == sorted(set(values))
    assert values[-1] == COUNT - 1
    assert log == [*result["messages"], *result["versions"], *result["parts"]]


async def start() -> Any:
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(follows)
    for n in range(COUNT):
        await DBOS.send_bulk([SendMessage("w", n, OFFER, idempotency_key=str(n))])
    return handle


def dying(mode: str, at: int) -> Around:
    """Kills this process around the given step of the workflow."""
    count = 0

    async def around(step: Step, proceed: Proceed) -> StepResult:
        nonlocal count
        count += step.run.workflow_id == "w"
        mine = count == at and step.run.workflow_id == "w"
        if mine and mode == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        if mine and mode == "during":
            asyncio.get_running_loop().call_later(random.uniform(0, 0.002), os.kill, os.getpid(), signal.SIGKILL)
        result = await proceed()
        if mine and mode == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return around


async def main() -> None:
    async with DBOS(sys.argv[1], executor_id="follows"):
        handle = await start()
        if sys.argv[2:] == ["serve"]:
            print("ready", flush=True)
            await asyncio.Event().wait()
        result = await handle.get_result()
        print(json.dumps([result, [each async for each in DBOS.read_stream("w", "log")]]))


if __name__ == "__main__":
    killed = len(sys.argv) > 3
    with around_boundaries(dying(sys.argv[2], int(sys.argv[3]))) if killed else nullcontext():
        asyncio.run(main())
