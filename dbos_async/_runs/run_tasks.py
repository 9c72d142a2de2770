"""The tasks of a run, and what they are doing."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any, Protocol

from dbos_async._runs.order import Ticket
from dbos_async._runs.set_start import SetStart


class CurrentStep(Protocol):
    """What a run remembers of the step that its only task has begun last."""

    verb: str
    number: int
    ticket: Ticket | None
    handed: Ticket | None


class RunTasks:
    """The tasks of a run, and what they are doing."""

    __slots__ = (
        "_halted",
        "bodies",
        "cleanups",
        "inside_verbs",
        "live",
        "main",
        "set_start",
        "started",
        "step",
        "steps_running",
        "waiting",
    )

    def __init__(self) -> None:
        self.main: asyncio.Task[Any] | None = None
        self.inside_verbs: set[asyncio.Task[object]] | None = None
        self.waiting = 0
        """How many of them wait for something to happen."""
        self.steps_running = 0
        """How many of them execute a step of which only the whole is recorded."""
        self.started = 0
        """How many tasks were started in the body of the workflow."""
        self.live: set[asyncio.Task[Any]] | None = None
        """Those of them that have not ended, where the event loop hides what they do."""
        self.set_start: SetStart | None = None
        self.bodies: dict[asyncio.Task[object], int] | None = None
        """The tasks that are in the body of a step, and how often each was cancelled before."""
        self.step: CurrentStep | None = None
        """The last step, as long as one task alone calls verbs."""
        self.cleanups: set[asyncio.Task[None]] | None = None
        """What abandoned verbs have left to do. The next verb of their kind waits for it."""
        self._halted: weakref.WeakSet[asyncio.Task[object]] | None = None

    def cancel(self, reason: str) -> None:
        """Cancel the main task and those that are inside a verb."""
        for task in self.inside_verbs or ():
            task.cancel(reason)
        if self.main is not None:
            self.main.cancel(reason)

    def cancel_current_once(self, reason: str) -> None:
        """Cancel the current task, unless this was done before."""
        task = asyncio.current_task()
        if self._halted is None:
            self._halted = weakref.WeakSet()
        if task is not None and task not in self._halted:
            self._halted.add(task)
            task.cancel(reason)

    def add_cleanup(self, task: asyncio.Task[None]) -> None:
        """Remember the task until it has ended."""
        if self.cleanups is None:
            self.cleanups = set()
        self.cleanups.add(task)
        task.add_done_callback(self.cleanups.discard)

    async def cleanups_done(self) -> None:
        """Return when no clean-up is under way any more."""
        while self.cleanups:
            await asyncio.wait(set(self.cleanups))

    def begin_body(self) -> asyncio.Task[object]:
        """The current task begins the body of a step."""
        task = asyncio.current_task()
        assert task is not None
        if self.bodies is None:
            self.bodies = {}
        self.bodies[task] = task.cancelling()
        return task

    def end_body(self, task: asyncio.Task[object]) -> bool:
        """That body has ended. True if it was cancelled meanwhile."""
        assert self.bodies is not None
        return task.cancelling() > self.bodies.pop(task)

    def has_cancelled_body(self) -> bool:
        """Whether a task was cancelled in the body of a step and has not come to its end."""
        return self.bodies is not None and any(task.cancelling() > before for task, before in self.bodies.items())
