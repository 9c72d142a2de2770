"""A program that streams a model's answer and kills itself (SIGKILL) at the n-th statement, or prints how everything ended.

    python -m tests.support.programs.writes URL ON_RETRY [before|during|after N]

Each attempt of the step says other values: ``["a", attempt, n]``.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from typing import Any
from uuid import uuid4

import asyncpg

from dbos_async import DBOS, SetWorkflowID
from dbos_async._database.calls import Call
from dbos_async._database.flights import Flight
from dbos_async._database.sending import Sending

COUNT = 12
STATEMENTS = {"APPEND", "REWIND", "WRITTEN", "WRITE", "RECORD"}


@DBOS.step()
async def model(mode: Any) -> list[Any]:
    attempt = uuid4().hex[:6]
    async with DBOS.stream_writer("s", on_retry=mode, max_values=2, max_seconds=0) as out:
        for n in range(len(out.written) if mode == "continue" else 0, COUNT):
            await out.write(["a", attempt, n])
            if n % 3 == 2:
                await out.flush()
    return [attempt, COUNT]


@DBOS.workflow()
async def answers(mode: str) -> list[Any]:
    async def words() -> None:
        async with DBOS.stream_writer("s", max_seconds=0, max_values=3) as out:
            for n in range(COUNT):
                await out.write(["v", "", n])

    async with asyncio.TaskGroup() as group:
        step = group.create_task(model(mode))
        group.create_task(words())
        for n in range(3):
            await DBOS.write_stream("s", ["w", "", n])
    return step.result()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash(mode: str, at: int) -> None:
    """Kill this process around the given statement."""
    fetch, count = Sending.execute, 0

    async def fetch_or_die(
        self: Sending, flight: Flight, calls: list[Call], *, is_patient: bool = True
    ) -> list[asyncpg.Record]:
        nonlocal count
        count += flight.statement.name in STATEMENTS
        mine = flight.statement.name in STATEMENTS and count == at
        if mine and mode == "before":
            die()
        if mine and mode == "during":
            asyncio.get_running_loop().call_later(random.uniform(0, 0.002), die)
        found = await fetch(self, flight, calls, is_patient=is_patient)
        if mine and mode == "after":
            die()
        return found

    Sending.execute = fetch_or_die  # type: ignore[method-assign]  # it must come at exactly this place


async def main(url: str, mode: str) -> None:
    async with DBOS(url, executor_id="writes"):
        with SetWorkflowID("w"):
            handle = await DBOS.start_workflow(answers, mode)
        result = await handle.get_result()
        print(json.dumps({"result": result, "late": [value async for value in DBOS.read_stream("w", "s")]}))


if __name__ == "__main__":
    if len(sys.argv) > 3:
        crash(sys.argv[3], int(sys.argv[4]))
    asyncio.run(main(sys.argv[1], sys.argv[2]))
