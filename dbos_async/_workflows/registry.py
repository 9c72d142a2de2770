"""The workflows that this process knows: decorated functions, found by their names."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Generic, ParamSpec, TypeVar, cast
from weakref import WeakSet

from dbos_async._checks import check_key, excerpt
from dbos_async._serialization.signature import Signature, encode_plain_call
from dbos_async.errors import RegistrationError

P = ParamSpec("P")
R = TypeVar("R")


class RegisteredWorkflow(Generic[P, R]):
    """A function under the name by which its workflows are found again after a restart."""

    def __init__(self, function: Callable[P, Awaitable[R]], name: str | None, max_recovery_attempts: int) -> None:
        if not inspect.iscoroutinefunction(function):
            raise RegistrationError(
                f"@DBOS.workflow() decorates async functions, and {excerpt(function)} is none: "
                "write 'async def' and @DBOS.workflow()."
            )
        functools.update_wrapper(cast("Any", self), function)  # what starts it makes it callable
        self.name: str = check_key(name or function.__qualname__, "The name of a workflow")
        self.function = function
        self.signature: Signature = Signature(function)
        self.max_recovery_attempts = max_recovery_attempts
        namesake = registered.get(self.name)
        if namesake is not None and _full_name(namesake.function) != _full_name(function):
            raise RegistrationError(
                f"Two workflows are named {self.name!r} ({_full_name(namesake.function)} and {_full_name(function)}): "
                "give one of them another name with @DBOS.workflow(name=…)."
            )
        registered[self.name] = self


def check_registered() -> None:
    """Raise `RegistrationError` if an annotation of a workflow or step cannot be resolved by now, when DBOS launches."""
    for workflow in list(registered.values()):
        workflow.signature.resolve()
    for signature in list(step_signatures):
        signature.resolve()


step_signatures: WeakSet[Signature] = WeakSet()
"""The signatures of every step that this process knows."""

registered: dict[str, RegisteredWorkflow[Any, Any]] = {}
"""Every workflow that this process knows, by its name."""


def find(function: Any) -> RegisteredWorkflow[Any, Any]:
    """The workflow that a caller named by its decorated function."""
    if isinstance(function, RegisteredWorkflow):
        return function
    raise RegistrationError(f"{excerpt(function)} is not a workflow: decorate it with @DBOS.workflow().")


def call_by_name(function: Any, args: Iterable[Any], kwargs: dict[str, Any]) -> tuple[str, str, Any]:
    """The name, the encoded arguments and the result type of a workflow, which this process may know by its name only."""
    if isinstance(function, str):
        check_key(function, "The name of a workflow")
        return function, encode_plain_call(tuple(args), kwargs), Any
    workflow = find(function)
    return workflow.name, workflow.signature.encode_call(tuple(args), kwargs), workflow.signature.result_type


def _full_name(function: Any) -> str:
    return f"{function.__module__}.{function.__qualname__}"
