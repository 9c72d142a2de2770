"""``DBOS.run_step(…)``: a function that is a step for this one call, without a decorator."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any, ParamSpec, TypeVar

from dbos_async._checks import check_callable, check_key
from dbos_async._runs.own_ids import are_same
from dbos_async._workflows.retries import RetryPolicy
from dbos_async._workflows.shapes import Decorated, is_coroutine_function
from dbos_async._workflows.step_functions import StepFunction
from dbos_async.errors import InvalidArgumentError

P = ParamSpec("P")
R = TypeVar("R")

_ONCE = RetryPolicy()


class _GivenName:
    """The name that the caller has given. A replay compares it, and nothing of the function."""

    __slots__ = ("recorded",)

    def __init__(self, name: str) -> None:
        self.recorded = name

    async def is_same(self, _step: Any, recorded: str, ids: Sequence[str], /) -> bool:
        return are_same([recorded], [self.recorded], ids)


class _NamedCall(StepFunction[P, R]):
    """A step that is no decorated function, and is not registered."""

    def __init__(self, name: str, function: Callable[P, Any]) -> None:
        self._make(function, name, _GivenName(name), _ONCE, None, is_coroutine=is_coroutine_function(function))


async def run_step(name: object, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call the function as a step of this name; elsewhere than in the body of a workflow it is a plain call."""
    checked = check_key(name, "name")
    check_callable(function, "function")
    decorated = function.__func__ if isinstance(function, MethodType) else function
    if isinstance(decorated, Decorated):
        is_workflow = decorated.kind == "workflow"
        raise InvalidArgumentError(
            f"run_step makes a step of a function, and {decorated.name!r} is a {decorated.kind} already: "
            f"{'start it with DBOS.start_workflow, or call it' if is_workflow else 'call it without run_step'}."
        )
    return await _NamedCall(checked, _maker(function) if inspect.isclass(function) else function)(*args, **kwargs)


def _maker(kind: type[Any]) -> Callable[..., Any]:
    """A function that makes objects of this class, and says so."""

    def make(*args: Any, **kwargs: Any) -> Any:
        return kind(*args, **kwargs)

    make.__annotations__ = {"return": kind}
    make.__qualname__ = kind.__qualname__
    return make
