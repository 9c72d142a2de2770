"""One, two and four executor processes on one server: what they do together, and how fast two of them answer each other.

``python -m tests.benchmarks.executors URL AMOUNT`` is one of the processes: it says that it is ready, and then does what it reads.
All of them begin a workload at the same moment; together they did what they did in the time of the slowest.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

from tests.benchmarks.harness import ROOT
from tests.benchmarks.ours import Ours
from tests.benchmarks.workloads import SIZES, percentile

COUNTS = {"full": (1, 2, 4), "quick": (1, 2, 4), "tiny": (1, 2)}
TOGETHER = {"no_op": "no_op", "send_recv": "send_recv", "streams_20": "streams_20"}
"""The workloads that all do at once, and the figure of each that counts."""


class Process:
    """One executor in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def hear(self) -> Any:
        """The next thing it says."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        assert line, "an executor process ended too early"
        return json.loads(line)

    async def do(self, what: str, *arguments: Any) -> Any:
        """Let it do this, and hear what it says then."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([what, *arguments]).encode() + b"\n")
        return await self.hear()

    async def end(self) -> None:
        """Its end of the pipe tells it to stop."""
        assert self._process.stdin is not None
        try:
            async with asyncio.timeout(30):
                self._process.stdin.close()
                await self._process.wait()
        finally:
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()


async def launch(stack: AsyncExitStack, url: str, amount: str) -> Process:
    """Start one, and wait until it can begin."""
    process = Process(
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.benchmarks.executors", url, amount,
            cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
    )  # fmt: skip
    stack.push_async_callback(process.end)
    assert await process.hear() == "ready"
    return process


async def study(url: str, amount: str) -> dict[str, float]:
    """For the command of all benchmarks."""
    found: dict[str, float] = {}
    for count in COUNTS[amount]:
        async with AsyncExitStack() as stack:
            processes = [await launch(stack, url, amount) for _ in range(count)]
            for workload, name in TOGETHER.items():
                answers = await asyncio.gather(*(process.do(workload) for process in processes))
                found[f"{name} by {count}, /s"] = count * min(answer[name] for answer in answers)
            if count == 2:
                one, other, turns = str(uuid4()), str(uuid4()), SIZES[amount][0]["ping_pong"]
                await processes[0].do("_pong", other, one, turns)
                taken = await processes[1].do("_ping", one, other, turns)
                found["ping-pong between two, p50 ms"] = percentile(taken, 0.5) * 1e3
                found["ping-pong between two, p99 ms"] = percentile(taken, 0.99) * 1e3
    return found


async def main(url: str, amount: str) -> None:
    async with Ours(url, 100) as ours:
        print(json.dumps("ready"), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            what, *arguments = json.loads(line)
            if what in TOGETHER:
                answer = await getattr(ours, what)(SIZES[amount][0][what])
            else:
                # Who pings is awaited; who answers goes on meanwhile.
                handle = await ours.start_as(what, *arguments)
                answer = await handle.get_result() if what == "_ping" else None
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
