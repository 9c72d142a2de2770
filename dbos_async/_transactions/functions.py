"""``@DBOS.transaction()``: a step that gets a connection or a session. Its writes and its record are one commit."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from types import FrameType
from typing import Any, ClassVar, Concatenate, Final, Generic, ParamSpec, TypeVar, cast, overload

from dbos_async._checks import excerpt
from dbos_async._executor import launched
from dbos_async._runs.context import WorkflowContext, current
from dbos_async._runs.step import Step
from dbos_async._runs.transaction import Level, current_level, current_transaction
from dbos_async._serialization.signature import signature_of
from dbos_async._transactions.attempts import Attempts
from dbos_async._transactions.opened import Opened, Source, TransactionOptions
from dbos_async._transactions.recording import TransactionStep
from dbos_async._workflows.retries import RetryPolicy
from dbos_async._workflows.shapes import Kind, decorating_frame
from dbos_async._workflows.step_functions import StepFunction
from dbos_async.errors import RegistrationError, WrongPlaceError

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")
T = TypeVar("T")

ISOLATIONS: Final = ("read committed", "repeatable read", "serializable")
"""The isolation levels, the weakest first."""

_ONCE: Final = RetryPolicy()
_BOUND: Final = ("self", "cls")


class TransactionFunction(StepFunction[P, R]):
    """A registered transaction: await it without its connection. In a workflow it is a step, elsewhere a plain transaction."""

    kind: ClassVar[Kind] = "transaction"

    def __init__(
        self,
        function: Callable[..., Any],
        position: int,
        source: Source,
        options: TransactionOptions,
        *,
        name: str | None,
        frame: FrameType,
    ) -> None:
        super().__init__(_connected(function, position), name=name, retries=_ONCE, max_concurrent=None, frame=frame)
        self._source, self._options = source, options

    async def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        outer = current_transaction.get()
        if isinstance(outer, Opened) and not outer.is_over:
            return await self._call_inside(outer, args, kwargs)
        if isinstance(current.get(), WorkflowContext):
            return await self.execute(args, kwargs)
        database = launched.database()
        attempts = Attempts(database, self.name, self._source, self._options, None)
        return cast("R", await attempts.run(functools.partial(self._call, *args, **kwargs), None))

    def _new_step(self, context: WorkflowContext) -> Step:
        return TransactionStep(context, self._recorded_name.recorded)

    async def _attempts(self, call: Callable[[], Awaitable[Any]], step: Step) -> Any:
        assert isinstance(step, TransactionStep)
        attempts = Attempts(step.run.database, self.name, self._source, self._options, step)
        return await attempts.run(call, lambda value: StepFunction._encode(self, value, step))

    def _encode(self, value: Any, step: Step) -> str:
        return cast("str", value)  # what was committed

    async def _call_inside(self, outer: Opened, args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        """Call the function in the body of another transaction, as a part of that."""
        problem = ""
        if outer.source != self._source:
            problem = "gets another kind of connection"
        elif ISOLATIONS.index(outer.isolation) < ISOLATIONS.index(self._options.isolation):
            problem = f"has the isolation level {self._options.isolation!r}, not {outer.isolation!r}"
        elif outer.is_read_only and not self._options.read_only:
            problem = "may write"
        if problem:
            raise WrongPlaceError(
                f"The transaction {self.name!r} cannot be a part of {outer.name!r}, in whose body it was called, since it {problem}"
                ": call it outside of that body."
            )
        level = outer.level
        async with level.lock, outer.savepoint():
            inner = Level(outer, level)
            token = current_level.set(inner)
            try:
                return cast("R", await self._call(*args, **kwargs))
            finally:
                inner.is_over = True
                current_level.reset(token)


class TransactionDecorator(Generic[C]):
    """What ``@DBOS.transaction(…)`` returns: it turns a function into a transaction."""

    def __init__(self, source: Source, options: TransactionOptions, name: str | None) -> None:
        self._source, self._options, self._name = source, options, name

    @overload
    def __call__(self, function: Callable[Concatenate[C, P], Coroutine[Any, Any, R]]) -> TransactionFunction[P, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[T, C, P], Coroutine[Any, Any, R]]
    ) -> TransactionFunction[Concatenate[T, P], R]: ...
    def __call__(self, function: Any) -> Any:
        frame = decorating_frame()
        if isinstance(function, classmethod):
            return classmethod(self._transaction(function.__func__, 1, frame))
        if isinstance(function, staticmethod):
            return staticmethod(self._transaction(function.__func__, 0, frame))
        names = [] if not callable(function) or inspect.ismethod(function) else [*signature_of(function).parameters]
        return self._transaction(function, int(names[:1] in (["self"], ["cls"])), frame)

    def _transaction(self, function: Any, position: int, frame: FrameType) -> TransactionFunction[Any, Any]:
        return TransactionFunction(function, position, self._source, self._options, name=self._name, frame=frame)


def _connected(function: Any, position: int) -> Callable[..., Any]:
    """The function without its connection, which the open transaction has."""
    if isinstance(function, StepFunction) or not callable(function) or inspect.isclass(function):
        return cast("Callable[..., Any]", function)  # which is refused
    if not inspect.iscoroutinefunction(function):
        raise RegistrationError(
            f"@DBOS.transaction() decorates async functions, and {excerpt(function)} is none: "
            "write 'async def' and @DBOS.transaction()."
        )
    signature = signature_of(function)
    parameters = [*signature.parameters.values()]
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    if len(positional) <= position:
        raise RegistrationError(
            f"The transaction {excerpt(function)} takes no connection: its first parameter is the connection or the session."
        )

    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        opened = current_transaction.get()
        assert isinstance(opened, Opened)
        return await function(*args[:position], opened.argument, *args[position:], **kwargs)

    del parameters[position]
    call.__dict__["__signature__"] = signature.replace(parameters=parameters)
    return call
