"""Which run am I in? A context variable answers, in every task and thread that a run starts.

Steps are numbered by path. Each task of a run numbers its own steps; a task started inside the run gets a branch
at its first step, named after the step that its parent had reached when it was started. So numbers do not depend
on which task finishes first, and ``gather`` and task groups replay exactly.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol

from dbos_async.errors import ReplayMismatchError, WorkflowEndedError, WrongPlaceError

if TYPE_CHECKING:
    from dbos_async._database.database import Database
    from dbos_async._messaging.recv import Receive
    from dbos_async._runs.history import History

log = logging.getLogger("dbos_async")

SHUTTING_DOWN = "this executor shuts down"


class Outcome(NamedTuple):
    """How a workflow ended, as it is stored."""

    status: str
    output: str | None
    error: str | None


class RunHost(Protocol):
    """What a run asks of the executor that it belongs to."""

    def check_ownership_soon(self, run: Run) -> None:
        """Soon stop the run if its workflow is not its own any more."""

    async def stop_if_not_owner(self, run: Run) -> None:
        """Stop the run if its workflow is not its own any more, and say why."""

    async def park(self, run: Run, mismatch: ReplayMismatchError) -> None:
        """Let the workflow wait until somebody has repaired it; for a replay that does not match."""

    def leave(self, run: Run) -> None:
        """Forget the run, which is over."""


@dataclass(slots=True, eq=False)
class Run:
    """One attempt of one executor to bring one workflow to its end."""

    database: Database
    workflow_id: str
    attempt: int
    key: bytes
    """Changes when the workflow ends."""
    host: RunHost
    partition: int = field(default_factory=itertools.cycle(range(60)).__next__)
    """What keeps its calls in order: the runs of a process take the lanes in turn."""
    history: History | None = None
    task: asyncio.Task[Any] | None = None
    stopped: str | None = None
    """Why this run must not go on: it was taken over, cancelled, parked or given back."""
    told: bool = False
    """Set when somebody has said that the workflow has ended."""
    over: bool = False
    """Set when the function has returned or raised."""
    tasks_inside: set[asyncio.Task[object]] | None = None
    """The tasks that are inside a verb."""
    slots: Slots | None = None
    waiting: int = 0
    """How many of them wait for something to happen."""
    steps_running: int = 0
    """How many of them perform a step of which only the whole is recorded."""
    draining: bool = False
    """Set when the executor shuts down and this run begins no further step."""
    write_seq: int = 0
    abandoned: set[Receive] | None = None
    """Receives whose caller left while their call may have been on its way."""
    returning: set[asyncio.Future[Any]] | None = None
    """Calls under way that put back what those had taken."""
    written: dict[str, int] | None = None
    """How far it has written its streams: their ends are not looked for before that."""
    known_empty: set[bytes] | None = None
    """Queues that were empty when their last message was handed over."""
    timer: asyncio.TimerHandle | None = None
    """Goes off at the deadline of the workflow."""
    halted: weakref.WeakSet[asyncio.Task[object]] | None = None
    """The tasks that were cancelled on their way into a verb."""
    ending: asyncio.Future[Any] | None = None
    """The call that stores its outcome, as soon as that is made."""
    outcome: Outcome | None = None
    """How the workflow ended, once that is committed."""
    is_ended: bool = False
    """Set when there is an outcome, or there will be none of this run."""
    listeners: list[asyncio.Future[None]] | None = None
    """Who waits for the outcome in this process."""

    def stop(self, reason: str) -> None:
        """Let nothing more happen in the name of this run, and cancel it."""
        if self.stopped is None:
            self.stopped = reason
        self.end(None)
        for task in self.tasks_inside or ():
            task.cancel(reason)
        if self.task is not None:
            self.task.cancel(reason)

    def end(self, outcome: Outcome | None) -> None:
        """Tell who waits in this process how the workflow ended; ``None`` when this run will not bring that about."""
        if self.outcome is None:
            self.outcome = outcome
        self.is_ended = True
        for listener in self.listeners or ():
            if not listener.done():
                listener.set_result(None)

    def listen(self) -> asyncio.Future[None]:
        """Wait for the end, unless there is one; whatever comes of that, `listen_no_more`."""
        listener: asyncio.Future[None] = self.database.loop.create_future()
        if self.is_ended:
            listener.set_result(None)
        if self.listeners is None:
            self.listeners = []
        self.listeners.append(listener)
        return listener

    def listen_no_more(self, listener: asyncio.Future[None]) -> None:
        if self.listeners is not None:
            self.listeners.remove(listener)

    def changed(self) -> None:
        """Somebody says that the workflow has ended: see whether it is still ours."""
        self.told = True
        self.host.check_ownership_soon(self)

    async def stop_as_lost(self) -> NoReturn:
        """Stop the run from inside one of its tasks, to which the database has said that the workflow is not its own any more."""
        if self.stopped is None:
            await self.host.stop_if_not_owner(self)
        await self.halt("another run has taken it over, or it has ended")

    async def halt(self, reason: str) -> NoReturn:
        """Stop the run from inside one of its tasks. Code that swallows the cancellation gets no further than the next verb."""
        if self.stopped is None:
            log.warning("A run of workflow %r stops: %s.", self.workflow_id, reason)
            self.stop(reason)
        task = asyncio.current_task()
        if self.halted is None:
            self.halted = weakref.WeakSet()
        if task is not None and task not in self.halted:
            self.halted.add(task)
            task.cancel(reason)
        await asyncio.get_running_loop().create_future()
        raise AssertionError("A halted task was resumed.")

    def drain(self) -> None:
        """Let the steps that are being performed finish, and begin none after them."""
        self.draining = True
        self.stop_if_drained()

    def stop_if_drained(self) -> None:
        """Stop a draining run once none of its steps is under way. One that is just ending may do so."""
        if self.draining and not self.steps_running and not self.over:
            self.stop(SHUTTING_DOWN)

    def mark_drained(self, key: bytes) -> None:
        """Remember that a queue is empty, until a message is announced or this run is over."""
        self.database.wakeups.mark_drained(key)
        self.known_empty = self.known_empty or set()
        self.known_empty.add(key)

    def wrote(self, key: str, offset: int) -> None:
        """Remember that a stream goes at least that far."""
        self.written = self.written or {}
        self.written[key] = max(offset, self.written.get(key, -1))

    def next_write_seq(self) -> int:
        """The place of something that this run says now among all that it says."""
        self.write_seq += 1
        return self.write_seq

    def begin_waiting(self) -> None:
        """One more task of this run only waits."""
        self.waiting += 1
        if self.waiting == 1 and self.slots is not None:
            self.slots.waiting += 1
            self.slots.on_slot_freed()

    def end_waiting(self) -> None:
        """A task of this run goes on."""
        self.waiting -= 1
        if self.waiting == 0 and self.slots is not None:
            self.slots.waiting -= 1


@dataclass(slots=True, eq=False)
class Slots:
    """How many runs of one executor only wait, and whom to tell when there is room for another."""

    on_slot_freed: Callable[[], None]
    waiting: int = 0


@dataclass(slots=True, eq=False)
class Branch:
    """One task of a run, and the name under which its steps are numbered: empty for the main task."""

    name: str
    task: weakref.ref[asyncio.Task[object]] | None
    """``None`` for the main task."""
    started_at: dict[int, int] | None = None
    """How many tasks took a branch of their own after each of this branch's steps."""

    def path(self, number: int) -> str:
        return f"{self.name}.{number}" if self.name else str(number)


@dataclass(slots=True, eq=False)
class WorkflowContext:
    """How far the task that carries this context, or the one that started it, had come. Never changed."""

    run: Run
    branch: Branch
    number: int


@dataclass(slots=True, eq=False)
class StepContext:
    """The inside of a step: what happens here is part of the step and has no number of its own."""

    run: Run
    path: str
    over: bool = False


current: ContextVar[WorkflowContext | StepContext | None] = ContextVar("dbos_async_current", default=None)


def calling_context(database: Database) -> WorkflowContext | StepContext | None:
    """The run or step that calls a verb of this database, ``None`` outside workflows."""
    here = current.get()
    return here if here is not None and here.run.database is database else None


def begin(run: Run) -> None:
    """Make the current task the main task of a run."""
    task = asyncio.current_task(run.database.loop)
    assert task is not None
    run.task = task
    current.set(WorkflowContext(run, Branch("", None), 0))


def next_number(context: WorkflowContext, verb: str) -> tuple[Branch, int]:
    """The number of the next step of the current task."""
    if context.run.over:
        raise WorkflowEndedError(context.run.workflow_id, verb)
    task = asyncio.current_task(context.run.database.loop)
    assert task is not None
    branch, number = context.branch, context.number
    if (context.run.task if branch.task is None else branch.task()) is not task:
        if branch.started_at is None:
            branch.started_at = {}
        rank = branch.started_at.get(number, 0) + 1
        branch.started_at[number] = rank
        branch, number = Branch(f"{branch.path(number)}.{rank}", weakref.ref(task)), 0
    number += 1
    current.set(WorkflowContext(context.run, branch, number))
    return branch, number


def in_workflow(here: WorkflowContext | StepContext | None, verb: str) -> WorkflowContext:
    """The position of a verb that works in workflows only."""
    if isinstance(here, WorkflowContext):
        return here
    where = "inside a step" if here is not None else "outside of workflows"
    raise WrongPlaceError(
        f"{verb} works in workflows only and was called {where}: call it from the body of a workflow."
    )


def in_workflow_or_step(here: WorkflowContext | StepContext | None, verb: str) -> WorkflowContext | StepContext:
    """The position of a verb that works in workflows and their steps."""
    if here is None:
        raise WrongPlaceError(
            f"{verb} works in workflows and steps and was called outside of them: call it from the body of a workflow or step."
        )
    return here


def check_live(body: StepContext, verb: str) -> None:
    """A step that is over, or whose run is, may not act any more."""
    if body.over or body.run.over:
        raise WorkflowEndedError(body.run.workflow_id, verb)


class ContextProperty:
    """A value of the run that reads it, through the class or an instance: ``DBOS.workflow_id``."""

    def __init__(self, find: Callable[[WorkflowContext | StepContext], str | None], doc: str) -> None:
        self._find = find
        self.__doc__ = doc

    def __get__(self, instance: object, owner: type) -> str | None:
        here = current.get()
        return None if here is None else self._find(here)
