"""The tasks of runs have a hash of their own, so that a set of them has the same order in a replay.

``asyncio.wait`` returns sets of tasks, and task groups cancel the tasks of a set. By default their order is that of addresses,
which no replay can repeat. A task factory makes the tasks of runs with a hash that counts them; all other tasks are as before.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from dbos_async._runs.set_start import SetStart, is_from_set

RUN_SHIFT: Final = 40
"""The bits for the number of a task. The bits above tell runs apart. A set looks at them after many collisions only, so the order
of a small set is the same in a fork, too."""

_RUN_MASK: Final = (1 << 20) - 1

Factory = Callable[..., Any]


class NumberedRun(Protocol):
    """What a task must know of its run."""

    tasks_hash: int | None
    """What the hashes of its tasks begin with."""
    end_key: bytes

    @property
    def set_start(self) -> SetStart:
        """What starts the coroutines of sets."""
        ...

    def next_task(self) -> int:
        """The number of one more task."""
        ...

    def add_task(self, task: asyncio.Task[Any]) -> None:
        """Remember the task, since the event loop hides what it does."""


class RunTask(asyncio.Task[Any]):
    """A task of a run."""

    __slots__ = ("_hash",)

    def __init__(self, run: NumberedRun, number: int, coroutine: Coroutine[Any, Any, Any], **options: Any) -> None:
        if run.tasks_hash is None:
            run.tasks_hash = (int.from_bytes(run.end_key) & _RUN_MASK) << RUN_SHIFT
        self._hash = run.tasks_hash + number
        super().__init__(coroutine, **options)  # puts the task into a set

    def __hash__(self) -> int:
        return self._hash


class TaskFactory:
    """Makes the tasks of an event loop as long as it is installed, in the place of asyncio's own factory."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        run_of: Callable[[contextvars.Context | None], NumberedRun | None],
        *,
        adds_tasks: bool,
    ) -> None:
        self._loop, self._run_of = loop, run_of
        self._before: Any = loop.get_task_factory()
        self._adds_tasks = adds_tasks
        self._is_eager = self._before is not None and self._before is getattr(asyncio, "eager_task_factory", None)

    @property
    def is_installed(self) -> bool:
        """Whether the loop makes its tasks by this factory."""
        factory: Any = self._loop.get_task_factory()
        return factory is self

    def install(self) -> None:
        """Make the tasks from now on, unless the program has a factory of its own."""
        if self._before is None or self._is_eager:
            factory: Any = self  # what the typeshed asks of a factory differs between the releases of Python
            self._loop.set_task_factory(factory)

    def remove(self) -> None:
        """Give the loop its factory back, unless the program has set another one meanwhile."""
        if self.is_installed:
            self._loop.set_task_factory(self._before)

    def __call__(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, Any],
        *,
        context: contextvars.Context | None = None,
        **options: Any,
    ) -> asyncio.Task[Any]:
        if self._is_eager:
            options.setdefault("eager_start", True)
        run = self._run_of(context)
        if run is None:
            return asyncio.Task(coroutine, loop=loop, context=context, **options)
        if not is_from_set():
            task = RunTask(run, run.next_task(), coroutine, loop=loop, context=context, **options)
        else:
            task = RunTask(run, run.next_task(), run.set_start.run(coroutine), loop=loop, context=context, **options)
            task.add_done_callback(lambda _: coroutine.close())  # if it was cancelled before its turn
        if self._adds_tasks:
            run.add_task(task)
        return task

    def make_main_task(self, run: NumberedRun, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """The main task of a run, in a context of its own. It is in sets as well: a scope of anyio has its host task."""
        context = contextvars.Context()
        if not self.is_installed:
            return self._loop.create_task(coroutine, name=name, context=context)
        options = {"eager_start": True} if self._is_eager else {}
        return RunTask(run, 0, coroutine, loop=self._loop, name=name, context=context, **options)
