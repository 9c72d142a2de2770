"""The steps under way in this executor: its own process knows them, and other processes read them in its row.

The row is written only when a step has run for some seconds, or is tried again, and at most every two seconds: a step that takes
no longer costs nothing. Nothing depends on what is written there.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from dbos_async._database.sql import load
from dbos_async._executor.executor import Executor
from dbos_async._runs.run import Run
from dbos_async._runs.running_step import UnderWay, fields_of
from dbos_async._serialization.values import encode_value

LOOK_EVERY_SECONDS: Final = 2.0
TELL_AFTER_SECONDS: Final = 3.0
MAX_TOLD: Final = 1000
"""How many steps an executor tells of at most: those of its oldest runs."""
FEW: Final = 250
"""For each so many steps that it tells of, the pause between two looks is two seconds longer."""

with load(__name__) as sql:
    TELL_STEPS: Final = sql.statement("TELL_STEPS", parallelism=1)


def steps_under_way(run: Run) -> list[UnderWay]:
    """The steps of a run that run, or wait for a result."""
    steps = [*run.step_bodies, *(run.results_awaited or ())]
    return [step for step in steps if step.verb != "list_workflow_steps"]


class RunningSteps:
    """Tells other processes which steps run long in this executor."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._told: list[Any] = []

    async def keep_telling(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_SECONDS * (1 + len(self._told) // FEW))
            await self._look()

    async def _look(self) -> None:
        found = self._find()
        seen = [(run, step.branch, step.number, step.tries) for run, step in found]
        if seen == self._told:
            return
        steps: dict[str, list[Any]] = {}
        for run, step in found:
            steps.setdefault(run.workflow_id, []).append(fields_of(step, run.count))
        row = self._executor.id, encode_value(steps)
        await self._executor.database.call(TELL_STEPS, [row], partition="", retry_forever=True)
        self._told = seen

    def _find(self) -> list[tuple[Run, UnderWay]]:
        began_before = time.monotonic() - TELL_AFTER_SECONDS
        found: list[tuple[Run, UnderWay]] = []
        for run in self._executor.runs.values():
            if run.step_bodies or run.results_awaited:
                steps = steps_under_way(run)
                found += [(run, step) for step in steps if step.began < began_before or step.tries is not None]
                if len(found) >= MAX_TOLD:
                    break
        return found[:MAX_TOLD]
