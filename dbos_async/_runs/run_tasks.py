"""The tasks of a run, and what they are doing."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from dbos_async._database.wakeups import Subscription
from dbos_async._runs import exits
from dbos_async._runs.end_request import EndRequest
from dbos_async._runs.order import Ticket
from dbos_async._runs.run_task import RunTask
from dbos_async._runs.running_step import UnderWay
from dbos_async._runs.set_start import SetStart

FEW_TASKS: Final = 100

MAX_TURNS_FOR_BEGINS: Final = 50
"""A run whose tasks go on starting others is cancelled after so many turns of the event loop all the same."""


class CurrentStep(UnderWay, Protocol):
    """What a run remembers of a step that is under way."""

    @property
    def ticket(self) -> Ticket | None: ...

    @property
    def handed(self) -> Ticket | None: ...

    @property
    def task(self) -> asyncio.Task[Any]: ...


class OpenReceive(Protocol):
    """A receive whose step somebody else may complete."""

    step: Any

    async def give_way(self) -> None:
        """Return when another task of the run may act."""


class InsideVerb(Protocol):
    """What marks a task that is inside a verb."""

    changes: Subscription | None
    """What it waits for, if it waits."""

    @property
    def task(self) -> asyncio.Task[Any] | None: ...


@dataclass(slots=True, eq=False, kw_only=True)
class RunTasks:
    """The tasks of a run, and what they are doing. A part of `Run`, and a class of its own only to keep both short."""

    main_task: asyncio.Task[Any] | None = None
    inside_verbs: set[InsideVerb] | None = None
    """What marks the tasks that are inside a verb."""
    tasks_waiting: int = 0
    """How many of them wait for something to happen."""
    steps_running: int = 0
    """How many of them execute a step of which only the whole is recorded."""
    cleanups: set[asyncio.Task[None]] | None = None
    """What abandoned verbs have left to do. The next verb of their kind waits for it."""
    tasks_halted: weakref.WeakSet[asyncio.Task[object]] | None = None
    """The tasks that were cancelled because the run is stopped."""
    tasks_started: int = 0
    """How many tasks were started in the body of the workflow."""
    tasks_hash: int | None = None
    """What the hashes of its tasks begin with."""
    tasks_cancelled: list[tuple[int, RunTask, Any]] | None = None
    """The tasks that are cancelled in the next turn of the event loop, with their numbers and messages."""
    turns_waited_for_begins: int = 0
    """For how many turns of the event loop the cancellation of all has waited for tasks that had not begun."""
    task_refs: list[weakref.ref[asyncio.Task[Any]]] | None = None
    """Those of them that are not garbage, and some that are."""
    most_task_refs: int = FEW_TASKS
    """With more of these references, those of tasks that have ended are thrown away."""
    tasks_live: set[asyncio.Task[Any]] | None = None
    """Those of them that have not ended, where the event loop hides what they do."""
    step_bodies: dict[CurrentStep, int] = field(default_factory=dict)
    """The steps whose bodies run, and how often their tasks were cancelled before."""
    results_awaited: set[UnderWay] | None = None
    """The steps that wait for the result of another workflow: nothing is recorded of them before that has come."""
    end_request: EndRequest | None = None
    """The request to end the workflow, with time to clean up."""
    open_receive: OpenReceive | None = None
    """The receive that a sender of another process may complete."""
    last_step: CurrentStep | None = None
    """The last step, as long as one task alone calls verbs."""
    starter_of_sets: SetStart | None = None

    def cancel_tasks(self, reason: str) -> None:
        """Cancel all of them. A task that has not begun begins before, since it may hold coroutines that it alone would await.

        What begins may start further tasks, as groups within groups do.
        """
        tasks = [mark.task for mark in self.inside_verbs or ()]
        tasks += [ref() for ref in self.task_refs or ()]
        tasks.append(self.main_task)
        if self.turns_waited_for_begins >= MAX_TURNS_FOR_BEGINS or all(map(_has_begun, tasks)):
            _cancel_once(tasks, reason)
        else:
            self.turns_waited_for_begins += 1
            asyncio.get_running_loop().call_soon(self.cancel_tasks, reason, context=contextvars.Context())

    def cancel_tasks_inside(self) -> None:
        """Cancel those that are inside a verb."""
        _cancel_once([mark.task for mark in self.inside_verbs or ()], None)

    def wake_waits(self) -> None:
        """Let every wait of the run query the database."""
        for mark in self.inside_verbs or ():
            if mark.changes is not None:
                mark.changes.wake()

    def add_task(self, task: asyncio.Task[Any]) -> None:
        """Remember the task as long as it lives."""
        refs = self.task_refs
        if refs is None:
            refs = self.task_refs = []
        refs.append(weakref.ref(task))
        if len(refs) > self.most_task_refs:
            self.task_refs = [ref for ref in refs if (one := ref()) is not None and not one.done()]
            self.most_task_refs = 2 * len(self.task_refs) + FEW_TASKS

    def exit_of_a_task(self) -> SystemExit | None:
        """The SystemExit with which one of them has ended the event loop."""
        return exits.exit_of([ref() for ref in self.task_refs or ()])

    def add_hidden_task(self, task: asyncio.Task[Any]) -> None:
        """Remember the task until it has ended, since the event loop does not tell what it does."""
        if self.tasks_live is None:
            self.tasks_live = set()
        self.tasks_live.add(task)
        task.add_done_callback(self.tasks_live.discard, context=contextvars.Context())

    def cancel_current_once(self, reason: str) -> None:
        """Cancel the current task, unless this was done before."""
        task = asyncio.current_task()
        if self.tasks_halted is None:
            self.tasks_halted = weakref.WeakSet()
        if task is not None and task not in self.tasks_halted:
            self.tasks_halted.add(task)
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

    def has_cancelled_body(self) -> bool:
        """Whether a task was cancelled in the body of a step and has not come to its end."""
        return any(step.task.cancelling() > before for step, before in self.step_bodies.items())

    @property
    def set_start(self) -> SetStart:
        """What starts the coroutines of sets."""
        if self.starter_of_sets is None:
            self.starter_of_sets = SetStart()
        return self.starter_of_sets


def _cancel_once(tasks: Iterable[asyncio.Task[Any] | None], reason: str | None) -> None:
    for task in {id(task): task for task in tasks if task is not None}.values():
        task.cancel(reason)


def _has_begun(task: asyncio.Task[Any] | None) -> bool:
    coroutine = None if task is None else task.get_coro()
    return not inspect.iscoroutine(coroutine) or inspect.getcoroutinestate(coroutine) != inspect.CORO_CREATED
