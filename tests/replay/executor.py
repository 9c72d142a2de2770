"""An executor that plays programs until it gets a signal, or kills itself (SIGKILL) at a boundary of a step.

    python -m tests.replay.executor URL LEDGER [before|during|after N] [--eager] [--uvloop]

The ledger gets a line each time the body of a step runs.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import signal
from pathlib import Path

from dbos_async import DBOS
from dbos_async._runs.step import Step
from dbos_async._runs.step_result import StepResult
from tests.replay import ledger
from tests.replay import workflows as _  # noqa: F401 - registers them
from tests.replay.loops import add_loop_arguments, run
from tests.support.boundaries import Proceed, around_boundaries


class Death:
    """Kills this process before, during or after the n-th step that it executes."""

    def __init__(self, mode: str, at: int) -> None:
        self._mode, self._at, self._count = mode, at, 0

    async def around(self, step: Step, proceed: Proceed) -> StepResult:
        """Execute a step, or die."""
        self._count += 1
        mine = self._count == self._at
        if mine and self._mode == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        if mine and self._mode == "during":
            asyncio.get_running_loop().call_later(random.uniform(0, 0.002), os.kill, os.getpid(), signal.SIGKILL)
        result = await proceed()
        if mine and self._mode == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result


async def work(url: str, mode: str, at: int) -> None:
    """Run what comes, until the process is told to end."""
    with around_boundaries(Death(mode, at).around):
        async with DBOS(url, executor_id="replay", drain_seconds=0.2):
            await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("ledger", type=Path)
    parser.add_argument("mode", nargs="?", default="never")
    parser.add_argument("at", nargs="?", type=int, default=0)
    add_loop_arguments(parser)
    given = parser.parse_args()
    logging.getLogger("dbos_async").setLevel(logging.CRITICAL)
    ledger.keep_in(given.ledger)
    run(work(given.url, given.mode, given.at), given)


if __name__ == "__main__":
    main()
