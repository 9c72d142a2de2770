"""An executor of agents that last: each receives numbered messages, and continues as new after so many.

    python -m tests.support.programs.agent URL [before|after N]

With a number it kills itself (SIGKILL) before or after its N-th boundary: each step is one, and so is each end of a generation.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

from dbos_async import DBOS, Topic
from dbos_async._executor.continuing import NextGeneration
from tests.support.boundaries import Proceed, around_boundaries

INBOX = Topic("agent inbox", int)


@DBOS.step(name="agent, think")
async def think(number: int) -> int:
    return number


@DBOS.workflow(name="agent")
async def agent(expected: int, per_generation: int, last: int) -> str:
    """Receive the messages from ``expected`` to ``last``, which must come in this order, each once."""
    for _ in range(per_generation):
        number = await DBOS.recv(INBOX, None)
        if number != expected:
            return f"{number} came and not {expected}"
        if await think(expected) == last:
            return f"all {last} came"
        expected += 1
    await DBOS.set_event("done", expected - 1)
    await DBOS.write_stream("log", expected - 1)
    await DBOS.continue_as_new(expected, per_generation, last)


class Killer:
    """Ends this process at one boundary."""

    def __init__(self, mode: str, at: int) -> None:
        self._mode, self._at, self._count = mode, at, 0

    def reached(self) -> bool:
        """A boundary begins. Whether it is the one; before it the process may end here."""
        self._count += 1
        is_here = self._count == self._at
        if is_here and self._mode == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        return is_here

    async def around(self, _: Any, proceed: Proceed) -> Any:
        """One step."""
        is_here = self.reached()
        result = await proceed()
        if is_here:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    def watch_ends(self) -> None:
        """Let the ends of generations be boundaries, too."""
        store, on_result = NextGeneration.store, NextGeneration.on_result
        ends: set[int] = set()

        def stores(end: NextGeneration) -> None:
            if self.reached():
                ends.add(id(end))
            store(end)

        def committed(end: NextGeneration, call: Any, result: Any) -> None:
            if id(end) in ends:
                os.kill(os.getpid(), signal.SIGKILL)
            on_result(end, call, result)

        # A crash must come at exactly this place.
        for name, function in ("store", stores), ("on_result", committed):
            setattr(NextGeneration, name, function)


async def main(url: str) -> None:
    async with DBOS(url):
        print("ready", flush=True)
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    if len(sys.argv) > 2:
        killer = Killer(sys.argv[2], int(sys.argv[3]))
        killer.watch_ends()
        with around_boundaries(killer.around):
            asyncio.run(main(sys.argv[1]))
    else:
        asyncio.run(main(sys.argv[1]))
