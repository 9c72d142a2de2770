"""``@DBOS.step()``: an ordinary function. A workflow records its outcome and does not run it again."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine
from types import AsyncGeneratorType, FrameType, GeneratorType, MethodType
from typing import Any, ClassVar, Final, Generic, ParamSpec, Self, TypeVar, cast, overload

import anyio

from dbos_async._checks import check_loop
from dbos_async._runs import exits
from dbos_async._runs.context import StepContext, WorkflowContext, current
from dbos_async._runs.step import Step
from dbos_async._runs.threads import run_in_thread
from dbos_async._runs.turns import Turn, Turns
from dbos_async._serialization.exceptions import encode_error
from dbos_async._serialization.signature import Signature
from dbos_async._serialization.values import decode_value, encode_value, size_error
from dbos_async._workflows.registry import step_signatures
from dbos_async._workflows.retries import RetryPolicy, attempts
from dbos_async._workflows.shapes import Decorated, Kind, TakesClass, TakesObject, decorating_frame, shape_of
from dbos_async._workflows.step_names import RecordedName, StepName
from dbos_async.errors import InvalidValueError, StepCancelledError

OTHER_LOOP: Final = (
    "A step works in the event loop of its workflow and was called in another one: call it from there, for example with "
    "anyio.from_thread.run(...)."
)

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
T = TypeVar("T")

_GENERATORS: Final = (GeneratorType, AsyncGeneratorType)


class StepFunction(Decorated, Generic[P, R]):
    """A registered step: await it like the function. In a workflow it is recorded, elsewhere it is a plain call."""

    kind: ClassVar[Kind] = "step"

    def __init__(
        self,
        function: Callable[P, Any],
        *,
        name: str | None,
        retries: RetryPolicy,
        max_concurrent: int | None,
        frame: FrameType,
    ) -> None:
        shape = shape_of(function, self.kind, name, frame)
        functools.update_wrapper(self, function)
        turns = None if max_concurrent is None else Turns(max_concurrent)
        self._make(function, shape.name, StepName(shape), retries, turns, is_coroutine=shape.is_coroutine)
        step_signatures.add(self._signature)

    def _make(
        self,
        function: Callable[P, Any],
        name: str,
        recorded: RecordedName,
        retries: RetryPolicy,
        turns: Turns | None,
        *,
        is_coroutine: bool,
    ) -> None:
        self.name: str = name
        self._function = function
        self._signature = Signature(function, takes_stored_arguments=False, name=name)
        self._is_coroutine = is_coroutine
        self._is_called_here = is_coroutine or self._signature.returns_awaitable
        self._retries = retries
        self._turns = turns
        self._recorded_name = recorded

    @overload  # a class method
    def __get__(
        self: TakesClass[Q, R], instance: object, owner: type | None = None
    ) -> Callable[Q, Coroutine[Any, Any, R]]: ...
    @overload  # a method
    def __get__(
        self: TakesObject[T, Q, R], instance: T, owner: type | None = None
    ) -> Callable[Q, Coroutine[Any, Any, R]]: ...
    @overload  # a static method, or what the class itself has
    def __get__(self, instance: object, owner: type | None = None) -> Self: ...
    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """A step that is defined in a class is a method like any other."""
        return self if instance is None else MethodType(self, instance)

    async def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if not isinstance(current.get(), WorkflowContext):
            return cast("R", await self._call(*args, **kwargs))
        return await self.execute(args, kwargs)

    def check_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise `InvalidCallError` for arguments that the function does not take."""
        self._signature.bind(args, kwargs)

    async def execute(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        scope: anyio.CancelScope | None = None,
        on_begin: Callable[[Step], None] | None = None,
    ) -> R:
        """Execute or replay the step in the workflow of the current task. To cancel the scope is an outcome of the step."""
        context = current.get()
        assert isinstance(context, WorkflowContext)
        check_loop(context.run.database.loop, OTHER_LOOP)
        self._signature.resolve()  # before anything is done whose result could not be recorded
        step = self._new_step(context)
        step.matcher = self._recorded_name
        if on_begin is not None:
            on_begin(step)

        attempt = functools.partial(self._attempt, step, args, kwargs)

        async def find() -> tuple[str | None, str | None]:
            try:
                work = self._attempts(attempt, step) if scope is None else self._within(scope, attempt, step)
                telemetry = step.run.database.telemetry
                value = await (work if telemetry is None else telemetry.in_step(step, self.name, work))
                return self._encode(value, step), None
            except Exception as error:
                return None, encode_error(error)
            except BaseException as error:
                if exits.is_outcome(error):
                    return None, encode_error(error)
                exits.interrupt(step.run, error)
                raise

        done = await step.run_once(find)
        text, what = done.value(), f"The recorded result of step {self.name!r}"
        try:
            return cast("R", decode_value(text, self._signature.result_type, what=what))
        except InvalidValueError as invalid:
            await step.park_undecodable(invalid)

    def _new_step(self, context: WorkflowContext) -> Step:
        """The next step of the current task."""
        return Step(context, "step", self._recorded_name.recorded)

    def _encode(self, value: Any, step: Step) -> str:
        """What is recorded of a result. Raises `InvalidValueError` if it cannot be stored."""
        what = f"The result of step {self.name!r}"
        if type(value) in _GENERATORS:
            raise InvalidValueError(what, "it is a generator, whose code would run outside of the step")
        text = encode_value(value, self._signature.result_type, what=what)
        invalid = size_error(text, step.run.database.max_payload_bytes, what)
        if invalid is not None:
            raise invalid
        return text

    async def _attempt(self, step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the function once, as the body of the step."""
        body = StepContext(step.run, step.path, attempt=step.attempts)
        token = current.set(body)
        forks = exits.forks
        try:
            try:
                value = await self._call(*args, **kwargs)
                if body.writers is not None:
                    await body.finish_writers()
                return value
            finally:
                if exits.forks != forks:
                    exits.leave_child(sys.exception())
        except asyncio.CancelledError:
            if body.tasks is None or (left_with := exits.exit_of(body.tasks)) is None:
                raise
            raise exits.as_error(left_with, f"The step {self.name!r}") from None
        except (SystemExit, BaseExceptionGroup) as error:
            outcome = exits.as_error(error, f"The step {self.name!r}")
            raise outcome from outcome.__cause__
        finally:
            body.abandon_writers()
            body.over = True  # stops an abandoned thread from acting in the name of the step
            current.reset(token)

    async def _within(self, scope: anyio.CancelScope, call: Callable[[], Awaitable[Any]], step: Step) -> Any:
        late: BaseException | None = None
        with scope:
            try:
                if not _is_cancelled(scope):
                    value = await self._attempts(call, step)
                    if not _is_cancelled(scope):
                        return value
            except Exception as error:
                if not _is_cancelled(scope):
                    raise
                late = error
        # It is cancelled, whatever it made of that.
        raise StepCancelledError(self.name, step.path) from late

    async def _attempts(self, call: Callable[[], Awaitable[Any]], step: Step) -> Any:
        return await attempts(self._retries, self._turns, call, step, self.name)

    async def _call(self, /, *args: Any, **kwargs: Any) -> Any:
        if self._turns is None:
            return await self._call_now(None, *args, **kwargs)
        async with self._turns.take() as turn:
            return await self._call_now(turn, *args, **kwargs)

    async def _call_now(self, turn: Turn | None, /, *args: Any, **kwargs: Any) -> Any:
        if self._is_coroutine:
            return await self._function(*args, **kwargs)
        if self._is_called_here:
            result = self._function(*args, **kwargs)
        else:
            result = await run_in_thread(self.name, functools.partial(self._function, *args, **kwargs), turn)
        # Many a decorator makes a def of an async def: what it returns is awaited here.
        return await result if inspect.isawaitable(result) else result


class StepDecorator:
    """What ``@DBOS.step(…)`` returns: it turns a function into a step."""

    def __init__(self, name: str | None, retries: RetryPolicy, max_concurrent: int | None) -> None:
        self._name, self._retries, self._max_concurrent = name, retries, max_concurrent

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> StepFunction[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R]) -> StepFunction[P, R]: ...
    def __call__(self, function: Any) -> Any:
        frame = decorating_frame()
        if isinstance(function, (staticmethod, classmethod)):
            return type(function)(self._step(function.__func__, frame))
        return self._step(function, frame)

    def _step(self, function: Any, frame: FrameType) -> StepFunction[Any, Any]:
        return StepFunction(
            function, name=self._name, retries=self._retries, max_concurrent=self._max_concurrent, frame=frame
        )


def _is_cancelled(scope: anyio.CancelScope) -> bool:
    return scope.cancel_called
