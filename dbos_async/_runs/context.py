"""The run that the current task or thread belongs to, in a context variable that every task and thread of a run inherits.

Steps are numbered by path. Each task of a run numbers its own steps. A task that was started inside the run gets a branch at
its first step, named after the step that its parent had reached when it started the task. So numbers do not depend on which
task finishes first, and ``gather`` and task groups replay exactly (decision 10).
"""

from __future__ import annotations

import asyncio
import contextvars
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from dbos_async._database.database import Database
from dbos_async._runs.run import Run
from dbos_async.errors import WorkflowEndedError, WrongPlaceError

T = TypeVar("T")


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
    """How far the task of this context, or the task that started it, has come. Immutable."""

    run: Run
    branch: Branch
    number: int


class StepWriter(Protocol):
    """A writer that belongs to one attempt of a step."""

    is_over: bool
    count: int
    """How many values it was given, without those that were dropped."""
    rewinds: bool
    """Whether its first values will take back what earlier attempts have written."""

    async def flush(self) -> None: ...

    async def finish(self) -> None: ...

    def abandon(self) -> None: ...


@dataclass(slots=True, eq=False)
class StepContext:
    """The inside of a step. A verb that is called here is part of the step and has no number of its own."""

    run: Run
    path: str
    attempt: int = 1
    """Which attempt of the step this is."""
    over: bool = False
    tasks: weakref.WeakSet[asyncio.Task[object]] | None = None
    """The tasks that were started inside."""
    writers: dict[str, StepWriter] | None = None
    """The stream writers of this attempt, by their streams."""

    async def finish_writers(self) -> None:
        """Return when all is committed that was written."""
        for writer in [*(self.writers or {}).values()]:
            await writer.finish()

    def abandon_writers(self) -> None:
        """Let no writer begin to store more."""
        for writer in (self.writers or {}).values():
            if not writer.is_over:
                writer.abandon()

    def add_task(self, task: asyncio.Task[object]) -> None:
        """Remember the task as long as it lives."""
        if self.tasks is None:
            self.tasks = weakref.WeakSet()
        self.tasks.add(task)


Context = WorkflowContext | StepContext

current: ContextVar[Context | None] = ContextVar("dbos_async_current", default=None)


def calling_context(database: Database) -> Context | None:
    """The run or step that calls a verb of this database, ``None`` outside workflows."""
    context = current.get()
    return context if context is not None and context.run.database is database else None


def of_workflow(context: Context | None) -> str:
    """What a log line says of the workflow that code belongs to: nothing outside of workflows."""
    return "" if context is None else f" of workflow {context.run.workflow_id!r}"


def run_of_body(context: contextvars.Context | None) -> Run | None:
    """The run whose body has this context, or the current one; ``None`` inside a step and outside of workflows."""
    here = current.get() if context is None else context.get(current)
    return here.run if type(here) is WorkflowContext else None


def begin(run: Run) -> None:
    """Make the current task the main task of a run."""
    task = asyncio.current_task(run.database.loop)
    assert task is not None
    run.main_task = task
    current.set(WorkflowContext(run, Branch("", None), 0))


def next_number(context: WorkflowContext, verb: str) -> tuple[asyncio.Task[object], Branch, int]:
    """The current task, its branch, and the number of its next step."""
    if context.run.over:
        if context.run.stopped is not None:
            raise asyncio.CancelledError(context.run.stopped)
        raise WorkflowEndedError(context.run.workflow_id, verb)
    task = asyncio.current_task(context.run.database.loop)
    assert task is not None
    branch, number = context.branch, context.number
    if (context.run.main_task if branch.task is None else branch.task()) is not task:
        if branch.started_at is None:
            branch.started_at = {}
        rank = branch.started_at.get(number, 0) + 1
        branch.started_at[number] = rank
        branch, number = Branch(f"{branch.path(number)}.{rank}", weakref.ref(task)), 0
        if context.run.order is None or not context.run.order.is_concurrent:
            context.run.begin_concurrency()
    number += 1
    current.set(WorkflowContext(context.run, branch, number))
    return task, branch, number


def in_workflow(context: Context | None, verb: str) -> WorkflowContext:
    """The context of a verb that works in workflows only."""
    if isinstance(context, WorkflowContext):
        return context
    where = "inside a step" if context is not None else "outside of workflows"
    raise WrongPlaceError(
        f"{verb} works in workflows only and was called {where}: call it from the body of a workflow."
    )


def in_workflow_or_step(context: Context | None, verb: str) -> Context:
    """The context of a verb that works in workflows and their steps."""
    if context is None:
        raise WrongPlaceError(
            f"{verb} works in workflows and steps and was called outside of them: call it from the body of a workflow or step."
        )
    return context


def check_live(context: StepContext, verb: str) -> None:
    """Raise if the step is over, or its run: nothing more may happen in its name."""
    if context.over or context.run.over:
        raise WorkflowEndedError(context.run.workflow_id, verb)


class ContextProperty(Generic[T]):
    """A value of the context that reads it, through the class or an instance: ``DBOS.workflow_id``."""

    def __init__(self, find: Callable[[Context], T | None], doc: str) -> None:
        self._find = find
        self.__doc__ = doc

    def __get__(self, instance: object, owner: type) -> T | None:
        context = current.get()
        return None if context is None else self._find(context)


class IsReplaying:
    """Whether the body of the calling workflow goes its way through recorded steps: a run before has been here.

    It is false outside of workflows and in steps, and from the first step on that is not recorded. Code that only tells of what
    happens may ask, for example to log or to count once. What a workflow *does* must not depend on it.
    """

    def __get__(self, instance: object, owner: type) -> bool:
        context = current.get()
        return isinstance(context, WorkflowContext) and context.run.is_replaying
