"""A workflow whose step is tried several times. The program kills itself (SIGKILL) at one place, or prints the result.

    python -m tests.support.programs.retried URL FILE [PLACE]

FILE gets a line each time an attempt begins: its number. `PLACES` has the places.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import anyio

from dbos_async import DBOS, RetryAfter, SetWorkflowID
from dbos_async._executor import launched
from dbos_async._runs.step import Step
from dbos_async._workflows import retries
from tests.support.eventually import eventually

PLACES = (
    "waits for its turn", "attempt 1", "predicate 1", "pause 1", "attempt 2", "pause 2", "attempt 3",
    "before the record", "after the record",
)  # fmt: skip

calls: list[int] = []
pauses: list[float] = []
place = ""
file = Path()


def die_at(here: str) -> None:
    if here == place:
        os.kill(os.getpid(), signal.SIGKILL)


def is_worth_it(error: Exception) -> bool:
    die_at(f"predicate {len(calls)}")
    return isinstance(error, OSError)


@DBOS.step(name="retried effort", retries_allowed=True, retry_on=is_worth_it, interval_seconds=0.01, max_concurrent=1)
async def effort() -> list[Any]:
    if DBOS.workflow_id is None:
        await asyncio.sleep(3600)  # holds the only turn
    calls.append(len(calls) + 1)
    with file.open("a") as lines:
        lines.write(f"{DBOS.attempt}\n")
    die_at(f"attempt {calls[-1]}")
    if calls[-1] == 1:
        raise ConnectionError("no")
    if calls[-1] == 2:
        raise RetryAfter(0.02)
    return [calls[-1], DBOS.attempt]


@DBOS.workflow(name="makes an effort")
async def workflow() -> list[Any]:
    before = await DBOS.run_step("before", lambda: "before")
    made = await effort()
    await DBOS.set_event("made", made)
    return [before, *made]


def die_in_pauses_and_at_records() -> None:
    perform: Any = Step.perform

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        die_at(f"pause {len(pauses)}")
        await anyio.sleep(seconds)

    async def record(step: Step, *args: Any, **kwargs: Any) -> Any:
        if step.key != "retried effort":
            return await perform(step, *args, **kwargs)
        die_at("before the record")
        result = await perform(step, *args, **kwargs)
        die_at("after the record")
        return result

    retries.sleep = pause  # type: ignore[attr-defined, assignment]  # a crash must come at exactly this place
    Step.perform = record  # type: ignore[method-assign, assignment]  # as above


async def main(url: str) -> None:
    die_in_pauses_and_at_records()
    async with DBOS(url, executor_id="retried"):
        holder = asyncio.create_task(effort()) if place == "waits for its turn" else None
        await asyncio.sleep(0)
        with SetWorkflowID("w"):
            handle = await DBOS.start_workflow(workflow)
        if holder is not None:
            await eventually(
                lambda: any(step.tries and step.tries.waits for step in launched.executor().runs["w"].step_bodies)
            )
            die_at(place)
        print(await handle.get_result())


if __name__ == "__main__":
    file, place = Path(sys.argv[2]), " ".join(sys.argv[3:])
    asyncio.run(main(sys.argv[1]))
