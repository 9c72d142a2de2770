"""Starting a step and going on: its handle can be waited for, asked for the result, and cancelled on record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import MethodType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

import anyio

from dbos_async._checks import excerpt
from dbos_async._database.change_keys import digest
from dbos_async._database.database import Database
from dbos_async._runs.awaited import Awaited
from dbos_async._runs.context import calling_context, in_workflow
from dbos_async._runs.step import Step
from dbos_async._workflows.step_functions import StepFunction
from dbos_async.errors import InvalidArgumentError, WrongPlaceError

P = ParamSpec("P")
R = TypeVar("R")


class StepHandle(Generic[R]):
    """A step that was started with `DBOS.start_step`: wait for its result, wait for the first of several, or cancel it."""

    __slots__ = ("_key", "_run", "_scope", "_task", "step_id", "step_name")

    def __init__(self, run: Any, name: str, step_id: str, task: asyncio.Task[R], scope: anyio.CancelScope) -> None:
        self._run, self._task, self._scope = run, task, scope
        self._key = digest("step", run.workflow_id, step_id)
        """Changes when the step has an outcome."""
        self.step_name: str = name
        self.step_id: str = step_id
        task.add_done_callback(self._ended)

    def __repr__(self) -> str:
        return f"StepHandle({self.step_name!r}, {self.step_id})"

    @property
    def done(self) -> bool:
        """Whether the step has an outcome: it has returned, raised, or was cancelled."""
        return self._task.done()

    async def get_result(self) -> R:
        """Wait until the step has an outcome; return what it returned, raise what it raised.

        Raises `StepCancelledError` when the step was cancelled. A caller that is cancelled while it waits leaves the step alone.

        Example:
            ```python
            @DBOS.step()
            async def think(question: str) -> int:
                return len(question)

            @DBOS.workflow()
            async def answer() -> int:
                thought = await DBOS.start_step(think, "how long is this?")
                return await thought.get_result()

            assert await answer() == 17
            ```
        """
        self._check_place("get_result")
        return await asyncio.shield(self._task)

    async def cancel(self) -> None:
        """Cancel the step, and return when that is recorded. A step that has an outcome keeps it.

        "Cancelled" is the outcome of the step then, so a replay does not execute it again. An ``async def`` sees the cancellation
        at its next ``await``; a ``def`` goes on in its thread, and what it returns is thrown away.

        Example:
            ```python
            @DBOS.step()
            async def think() -> str:
                await asyncio.sleep(3600)
                return "42"

            @DBOS.workflow()
            async def impatient() -> str:
                thought = await DBOS.start_step(think)
                await thought.cancel()
                try:
                    return await thought.get_result()
                except StepCancelledError:
                    return "never mind"

            assert await impatient() == "never mind"
            ```
        """
        self._check_place("cancel")
        self._scope.cancel()
        await asyncio.wait([self._task])

    if TYPE_CHECKING:

        def _brings(self) -> StepHandle[R]: ...

    def __dbos_wait__(self, database: Any) -> Any:
        """For `DBOS.wait_first`."""
        self._check_place("wait_first")
        return Awaited(
            kind="step", name=f"step {self.step_name} ({self.step_id})", keys=(self._key,),
            is_ready=self._task.done, read=lambda _, __: self,
        )  # fmt: skip

    def _check_place(self, verb: str) -> None:
        """No record of another workflow has what this step brings."""
        context = calling_context(self._run.database)
        if context is None or context.run is not self._run:
            raise WrongPlaceError(
                f"{verb} of a step works in the workflow that has started it: this is a step of {self._run.workflow_id!r}."
            )

    def _ended(self, task: asyncio.Task[R]) -> None:
        self._run.database.wakeups.wake(self._key)


async def start_step(
    database: Database, function: Callable[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs
) -> StepHandle[R]:
    """Start a step, and return its handle."""
    method = function if isinstance(function, MethodType) else None
    step: Any = function if method is None else method.__func__
    if not isinstance(step, StepFunction):
        raise InvalidArgumentError(
            f"start_step starts steps, and {excerpt(function)} is none: decorate it with @DBOS.step()."
        )
    bound = args if method is None else (method.__self__, *args)
    step.check_call(bound, kwargs)
    in_workflow(calling_context(database), "start_step")
    begun: asyncio.Future[Step] = database.loop.create_future()
    scope = anyio.CancelScope()
    task: asyncio.Task[R] = database.loop.create_task(step.execute(bound, kwargs, scope, begun.set_result))

    def ended(task: asyncio.Task[R]) -> None:
        begun.cancel()  # if it never came so far
        if not task.cancelled():
            task.exception()  # the record has it, and whoever asks for the result

    task.add_done_callback(ended)
    try:
        begun_step = await begun
        return StepHandle(begun_step.run, step.name, begun_step.path, task, scope)
    except asyncio.CancelledError:
        if task.done():
            task.result()
        scope.cancel()  # nobody will have this handle
        raise
