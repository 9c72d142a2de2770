"""The tasks of runs are numbered, so that sets of them, and cancellations of several, have the same order in a replay.

``asyncio.wait`` returns sets of tasks. By default their order is that of addresses, which no replay can repeat. A task factory
makes the tasks of runs with a hash that counts them; all other tasks are as before.

A task group of anyio cancels its tasks in the order of the addresses of their scopes. So the tasks of a run that are cancelled at
the same time, while they wait, are cancelled in the order of their numbers, in the next turn of the event loop and before any of
them goes on. What they wait for may come in between; then they are cancelled like any task that has not gone on yet.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Final, Protocol

from dbos_async._runs.gate import Uncancelled
from dbos_async._runs.quiet import waiter_of
from dbos_async._runs.set_start import SetStart, is_from_set

RUN_SHIFT: Final = 40
"""The bits for the number of a task. The bits above tell runs apart. A set looks at them after many collisions only, so the order
of a small set is the same in a fork, too."""

RUN_BYTES: Final = 2


async def _generate() -> AsyncGenerator[None, None]:
    yield


_AsyncGeneratorClose: Final = type(_generate().aclose())
"""What asyncio makes a task of when an async generator was not closed and is garbage: at any moment, in the context of any code."""

DEPTH: Final = 4
"""So many frames above `is_from_set` is the one that calls ``loop.create_task``, which calls the task factory."""

EAGER_DEPTH: Final = 6
"""The same for an eager factory."""


class NumberedRun(Protocol):
    """What a task must know of its run."""

    tasks_hash: int | None
    """What the hashes of its tasks begin with."""
    tasks_started: int
    end_key: bytes
    stopped: str | None
    over: bool
    tasks_cancelled: list[tuple[int, RunTask, Any]] | None
    """The tasks that are cancelled in the next turn of the event loop, with their numbers and messages."""

    @property
    def set_start(self) -> SetStart:
        """What starts the coroutines of sets."""
        ...

    def add_task(self, task: asyncio.Task[Any]) -> None:
        """Remember the task as long as it lives."""

    def add_hidden_task(self, task: asyncio.Task[Any]) -> None:
        """Remember the task until it has ended, since the event loop does not tell what it does."""


class RunTask(asyncio.Task[Any]):
    """A task of a run."""

    __slots__ = ("_hash", "_requested", "_run")

    _hash: int
    _run: NumberedRun
    _requested: int
    """How often it will be cancelled in the next turn of the event loop."""

    @staticmethod
    def make(run: NumberedRun, number: int, coroutine: Coroutine[Any, Any, Any], **options: Any) -> RunTask:
        """The task of this number. A third cheaper than an ``__init__`` of its own."""
        if run.tasks_hash is None:
            run.tasks_hash = int.from_bytes(run.end_key[:RUN_BYTES]) << RUN_SHIFT
        task = RunTask.__new__(RunTask)
        task._hash = run.tasks_hash + number
        task._run, task._requested = run, 0
        asyncio.Task.__init__(task, coroutine, **options)  # puts the task into a set
        return task

    def __hash__(self) -> int:
        return self._hash

    def cancel(self, msg: Any | None = None) -> bool:
        run, waits_for = self._run, waiter_of(self)
        if (
            waits_for is None
            or waits_for.done()
            or type(waits_for) is Uncancelled
            or run.over
            or run.stopped is not None
        ):
            return super().cancel(msg)
        if run.tasks_cancelled is None:
            run.tasks_cancelled = []
            self.get_loop().call_soon(_cancel_in_order, run)
        run.tasks_cancelled.append((self._hash, self, msg))
        self._requested += 1
        return True

    def cancelling(self) -> int:
        return super().cancelling() + self._requested

    def cancel_as_requested(self, msg: Any | None) -> None:
        """Do what an earlier call of `cancel` has asked for."""
        self._requested -= 1
        super().cancel(msg)


def _cancel_in_order(run: NumberedRun) -> None:
    tasks, run.tasks_cancelled = run.tasks_cancelled or [], None
    for _, task, msg in sorted(tasks, key=lambda one: one[0]):
        task.cancel_as_requested(msg)


class TaskFactory:
    """Makes the tasks of an event loop as long as it is installed, in the place of asyncio's own factory.

    The tasks of a run are those that are made in its body: there the variable ``current`` has a value of the type ``body``.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        current: contextvars.ContextVar[Any],
        body: type[Any],
        *,
        hides_tasks: bool,
    ) -> None:
        self._loop, self._current, self._body, self._hides_tasks = loop, current, body, hides_tasks
        self._before: Any = loop.get_task_factory()
        self._is_eager = self._before is not None and self._before is getattr(asyncio, "eager_task_factory", None)
        self._make: Any = self._maker()  # what the typeshed asks of a factory differs between the releases of Python

    @property
    def is_installed(self) -> bool:
        """Whether the loop makes its tasks by this factory."""
        return self._loop.get_task_factory() is self._make

    def install(self) -> None:
        """Make the tasks from now on, unless the program has a factory of its own."""
        if self._before is None or self._is_eager:
            self._loop.set_task_factory(self._make)

    def remove(self) -> None:
        """Give the loop its factory back, unless the program has set another one meanwhile."""
        if self.is_installed:
            self._loop.set_task_factory(self._before)

    def _maker(self) -> Callable[..., asyncio.Task[Any]]:
        # Every task of the program is made here, so this is a function that looks nothing up.
        current, body, make_task = self._current, self._body, self._make_task

        def make(
            loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
        ) -> asyncio.Task[Any]:
            context: contextvars.Context | None = options.get("context")
            here: Any = current.get() if context is None else context.get(current)
            if type(here) is body:
                if type(coroutine) is not _AsyncGeneratorClose:
                    return make_task(here.run, loop, coroutine, options)
                here = None
            task = asyncio.Task(coroutine, loop=loop, **options)
            if here is not None:
                here.add_task(task)  # of a step
            return task

        def construct(
            coroutine: Coroutine[Any, Any, Any], *, loop: asyncio.AbstractEventLoop, **options: Any
        ) -> asyncio.Task[Any]:
            return make(loop, coroutine, **options)

        # anyio knows factories of asyncio that are eager, and goes round them.
        return getattr(asyncio, "create_eager_task_factory")(construct) if self._is_eager else make  # noqa: B009 - not in 3.11

    def _make_task(
        self,
        run: NumberedRun,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, Any],
        options: dict[str, Any],
    ) -> asyncio.Task[Any]:
        run.tasks_started += 1
        if not is_from_set(EAGER_DEPTH if self._is_eager else DEPTH):
            task = RunTask.make(run, run.tasks_started, coroutine, loop=loop, **options)
        else:
            task = RunTask.make(run, run.tasks_started, run.set_start.run(coroutine), loop=loop, **options)
            task.add_done_callback(lambda _: coroutine.close())  # if it was cancelled before its turn
        run.add_task(task)
        if self._hides_tasks:
            run.add_hidden_task(task)
        return task

    def make_main_task(self, run: NumberedRun, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """The main task of a run, in a context of its own. It is in sets as well: a scope of anyio has its host task."""
        context = contextvars.Context()
        if not self.is_installed:
            return self._loop.create_task(coroutine, name=name, context=context)
        if self._is_eager:
            return RunTask.make(run, 0, coroutine, loop=self._loop, name=name, context=context, eager_start=True)
        return RunTask.make(run, 0, coroutine, loop=self._loop, name=name, context=context)
