"""Crashes in this process: a run loses its workflow at a boundary of a step, as if its executor had died, and is claimed anew."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from random import Random

from dbos_async._runs.step import Step
from dbos_async._runs.step_result import StepResult
from tests.replay import deploys
from tests.replay.maker import Program, walk
from tests.support.boundaries import Proceed

Crash = tuple[str, int]
"""``before``, ``during`` or ``after``, and the number of the boundary in the run."""

MODES = ("before", "during", "after")


def plan(program: Program, most: int) -> list[Crash]:
    """Where the runs of a program crash, one after the other; at most so often."""
    chance = Random(f"{program['kind']}/{program['seed']} crashes")
    acts = sum(("branches" not in node) + 2 * len(node.get("waits", ())) for node in walk(program["body"]))
    return [(chance.choice(MODES), chance.randint(1, acts + acts // 3)) for _ in range(chance.randint(0, most))]


@dataclass
class Crashes:
    """The crashes that are planned; ``take_away`` takes a workflow away from its run and lets it be claimed.

    ``ask_to_end`` cancels a workflow, with time to clean up.
    """

    take_away: Callable[[str], Awaitable[object]]
    ask_to_end: Callable[[str], Coroutine[object, object, object]]
    planned: dict[str, list[Crash]] = field(default_factory=dict)
    asked_at: dict[str, int] = field(default_factory=dict)
    """Before which boundary a workflow is asked to end, over all of its runs."""
    happened: Counter[str] = field(default_factory=Counter)
    _passed: Counter[tuple[str, int]] = field(default_factory=Counter)
    _crashed: dict[str, int] = field(default_factory=dict)
    _tasks: set[asyncio.Task[object]] = field(default_factory=set)

    async def around(self, step: Step, proceed: Proceed) -> StepResult:
        """Execute a step, and crash its run there if that is planned."""
        run = step.run
        if run.workflow_id in self.asked_at:
            self.asked_at[run.workflow_id] -= 1
            if not self.asked_at[run.workflow_id]:
                self._aside(self.ask_to_end(run.workflow_id))
        left = self.planned.get(run.workflow_id)
        if not left or run.attempt <= self._crashed.get(run.workflow_id, 0):
            return await proceed()
        self._passed[run.workflow_id, run.attempt] += 1
        mode, at = left[0]
        if self._passed[run.workflow_id, run.attempt] != at:
            return await proceed()
        left.pop(0)
        self._crashed[run.workflow_id] = run.attempt
        self.happened[run.workflow_id] += 1
        deploys.deployed[run.workflow_id] = self.happened[run.workflow_id]
        if mode == "before":
            await self._stop(step)
        elif mode == "during":
            self._crash(run.workflow_id, random.uniform(0, 0.002))
        result = await proceed()
        if mode == "after":
            await self._stop(step)
        return result

    async def _stop(self, step: Step) -> None:
        """Let no task of the run begin anything more, as if its process had died at this moment."""
        step.run.stop("it crashes here")
        await self._crash(step.run.workflow_id, 0)

    def _crash(self, workflow_id: str, seconds: float) -> asyncio.Future[object]:
        async def later() -> object:
            await asyncio.sleep(seconds)
            return await self.take_away(workflow_id)

        return self._aside(later())

    def _aside(self, work: Coroutine[object, object, object]) -> asyncio.Future[object]:
        # Nothing of the run may be in it: it is not the run that does this.
        task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return asyncio.shield(task)

    async def over(self) -> None:
        """Wait for what is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)
