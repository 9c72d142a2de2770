"""The tasks of a run that are inside a verb."""

from __future__ import annotations

import asyncio

from dbos_async._runs.context import Run
from dbos_async.errors import WorkflowEndedError


class Acting:
    """Marks the current task as inside a verb, and tells a cancellation by the run's end from any other."""

    __slots__ = ("run", "task", "verb")

    def __init__(self, run: Run, verb: str) -> None:
        self.run, self.verb = run, verb
        self.task = asyncio.current_task(run.database.loop)

    def __enter__(self) -> None:
        if self.task is not None:
            if self.run.tasks_inside is None:
                self.run.tasks_inside = set()
            self.run.tasks_inside.add(self.task)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.task is not None and self.run.tasks_inside is not None:
            self.run.tasks_inside.discard(self.task)
        if kind is asyncio.CancelledError and self.run.over and self.run.stopped is None:
            raise WorkflowEndedError(self.run.workflow_id, self.verb) from None
