"""What the tasks of a run are about: inside a verb, and waiting there or not."""

from __future__ import annotations

import asyncio
from typing import Self

from dbos_async._context import Run
from dbos_async.errors import WorkflowEndedError


class Acting:
    """Marks the current task as inside a verb, and tells a cancellation by the run's end from any other."""

    __slots__ = ("run", "task", "verb")

    def __init__(self, run: Run, verb: str) -> None:
        self.run, self.verb = run, verb
        self.task = asyncio.current_task()

    def __enter__(self) -> None:
        if self.task is not None:
            self.run.acting.add(self.task)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.task is not None:
            self.run.acting.discard(self.task)
        if kind is asyncio.CancelledError and self.run.over and self.run.stopped is None:
            raise WorkflowEndedError(self.run.workflow_id, self.verb) from None


class Waiting:
    """Counts a run as waiting from its first fruitless look on, so that it does not take a running one's place."""

    __slots__ = ("begun", "run")

    def __init__(self, run: Run) -> None:
        self.run = run
        self.begun = False

    def begin(self) -> None:
        if not self.begun:
            self.begun = True
            self.run.begin_waiting()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.begun:
            self.run.end_waiting()
