"""The workflows that this process knows: decorated functions, found by their names."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable
from types import FrameType
from typing import Any, ClassVar, Generic, ParamSpec, TypeVar, cast
from weakref import WeakSet

from dbos_async._checks import check_key, excerpt
from dbos_async._serialization.signature import Signature, encode_plain_call
from dbos_async._workflows import shapes
from dbos_async.errors import RegistrationError

P = ParamSpec("P")
R = TypeVar("R")


class RegisteredWorkflow(shapes.Decorated, Generic[P, R]):
    """A function under the name by which its workflows are found again after a restart."""

    kind: ClassVar[shapes.Kind] = "workflow"
    belongs_to_object: ClassVar[bool] = False
    """Whether it is a method of objects: it runs for those that are registered, under a name of each."""

    def __init__(
        self, function: Callable[P, Awaitable[R]], name: str | None, max_recovery_attempts: int, frame: FrameType
    ) -> None:
        shape = shapes.shape_of(function, self.kind, name, frame)
        shapes.check_unbound(function)
        functools.update_wrapper(cast("Any", self), function)  # what starts it makes it callable
        self.name: str = shape.name
        self.signature: Signature = Signature(function, name=shape.name)
        self.origin: shapes.Origin = shape.origin
        self.max_recovery_attempts = max_recovery_attempts
        self.function: Callable[..., Awaitable[R]] = function
        if not shape.is_coroutine:
            if not (self.signature.returns_awaitable or shapes.is_made_of_coroutine_function(function)):
                raise RegistrationError(
                    f"@DBOS.workflow() decorates async functions, and {excerpt(function)} is none: "
                    "write 'async def' and @DBOS.workflow()."
                )
            self.function = shapes.awaiting(function)
        for namesake in (methods.get(self.name), registered.get(self.name)):
            if namesake is not None and not namesake.origin.is_same(self.origin):
                raise RegistrationError(
                    f"Two workflows are named {self.name!r} ({namesake.origin} and {self.origin}): "
                    "give one of them another name with @DBOS.workflow(name=…)."
                )
        place, other = (methods, registered) if self.belongs_to_object else (registered, methods)
        place[self.name] = self
        other.pop(self.name, None)

    def found(self) -> RegisteredWorkflow[P, R]:
        """What is started by this: itself, unless it is a method. Raises `RegistrationError` when that runs for nothing."""
        return self


def check_registered() -> None:
    """Raise `RegistrationError` if an annotation of a workflow or step cannot be resolved by now, when DBOS launches."""
    for workflow in (*registered.values(), *methods.values()):
        workflow.signature.resolve()
    for signature in list(step_signatures):
        signature.resolve()


step_signatures: WeakSet[Signature] = WeakSet()
"""The signatures of every step that this process knows."""

registered: dict[str, RegisteredWorkflow[Any, Any]] = {}
"""Every workflow that this process can run, by its name. Methods stand here once for each object or subclass that has them."""

methods: dict[str, RegisteredWorkflow[Any, Any]] = {}
"""The methods of objects that are workflows, by their names. None of them runs without an object."""


def find(function: Any) -> RegisteredWorkflow[Any, Any]:
    """The workflow that a caller named by its decorated function."""
    if isinstance(function, RegisteredWorkflow):
        return function.found()
    if isinstance(getattr(function, "__wrapped__", None), RegisteredWorkflow):
        raise RegistrationError(
            f"{excerpt(function)} has a decorator over @DBOS.workflow(), which a start would not call: "
            "write @DBOS.workflow() above the other decorator."
        )
    raise RegistrationError(f"{excerpt(function)} is not a workflow: decorate it with @DBOS.workflow().")


def call_by_name(function: Any, args: Iterable[Any], kwargs: dict[str, Any]) -> tuple[str, str, Any]:
    """The name, the encoded arguments and the result type of a workflow, which this process may know by its name only."""
    if isinstance(function, str):
        name = check_key(function, "The name of a workflow")
        return name, encode_plain_call(tuple(args), kwargs), Any
    workflow = find(function)
    return workflow.name, workflow.signature.encode_call(tuple(args), kwargs), workflow.signature.result_type
