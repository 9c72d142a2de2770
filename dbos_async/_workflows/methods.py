"""Workflows that stand in a class: methods of registered objects, class methods, static methods.

A method of objects runs for each registered object, a class method for its class and for each subclass that inherits it, all under
names of their own (`owners.py`). What an attribute like ``shop.checkout`` gives is bound, and looks its name up when it is started.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from types import MethodType
from typing import Any, ClassVar, Final, ParamSpec, TypeVar, cast

from dbos_async._workflows import owners, shapes
from dbos_async._workflows.owners import OwnedWorkflow
from dbos_async._workflows.registry import RegisteredWorkflow
from dbos_async._workflows.start import Workflow
from dbos_async.errors import RegistrationError

P = ParamSpec("P")
R = TypeVar("R")

_NO_OWNER: Final = object
"""Stands for the class or the object of a method until that is known."""


class StaticWorkflow(Workflow[P, R]):
    """A static method that is a workflow."""

    def __set_name__(self, owner: type, name: str) -> None:
        """It may stand in a class."""


class MethodWorkflow(OwnedWorkflow[P, R]):
    """A method of objects that is a workflow: it runs for those that are registered."""

    belongs_to_object: ClassVar[bool] = True

    def __init__(self, method: Callable[..., Any], *options: Any) -> None:
        super().__init__(MethodType(method, _NO_OWNER), *options)
        functools.update_wrapper(cast("Any", self), method)
        self._method = method

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else BoundWorkflow(self, instance)

    async def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """``Shop.checkout(shop, "x")`` is ``shop.checkout("x")``. A decorator over ours calls it so."""
        instance, *others = args or (None,)
        if self not in owners.methods_of(type(instance)):
            raise self._refusal()
        return cast("R", await BoundWorkflow[Any, Any](self, instance)(*others, **kwargs))

    def found(self) -> RegisteredWorkflow[P, R]:
        raise self._refusal()

    def _refusal(self) -> RegistrationError:
        of = f"the objects of {self.owner.__qualname__}" if self.owner else "objects"
        return RegistrationError(
            f"The workflow {self.name!r} is a method of {of}: call it on one that was registered by DBOS.register_instance(…)."
        )

    def bound_to(self, owner: Any) -> Callable[..., Any]:
        return _async(MethodType(self._method, owner))

    def found_for(self, owner: Any) -> RegisteredWorkflow[Any, Any]:
        return owners.found_for_object(self, owner)


class ClassWorkflow(OwnedWorkflow[P, R]):
    """A class method that is a workflow: it runs for the class that defines it, and for those that inherit it."""

    def __init__(self, method: classmethod[Any, P, Any], *options: Any) -> None:
        # The first parameter is the class. Which one it is, Python says after the class has been made.
        super().__init__(method.__get__(None, _NO_OWNER), *options)
        self._method = method
        self.function = self._call_without_class

    async def _call_without_class(self, /, *args: Any, **kwargs: Any) -> R:
        raise RegistrationError(
            f"The workflow {self.name!r} is a class method, and stands in no class: define it in one."
        )

    def __set_name__(self, owner: type, name: str) -> None:
        super().__set_name__(owner, name)
        if self.owner is owner:
            self.function = self.bound_to(owner)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        found = type(instance) if owner is None else owner
        return self if found is self.owner else BoundWorkflow(self, found)

    def bound_to(self, owner: Any) -> Callable[..., Any]:
        return _async(self._method.__get__(None, owner))

    def found_for(self, owner: Any) -> RegisteredWorkflow[Any, Any]:
        return owners.found_for_class(self, owner)


class BoundWorkflow(Workflow[P, R]):
    """A method with its object, or a class method with the class that inherits it. It is found by name when it is started."""

    def __init__(self, method: OwnedWorkflow[..., R], owner: Any) -> None:
        function = method.bound_to(owner)
        functools.update_wrapper(cast("Any", self), function)
        self.name, self.signature, self.origin = method.name, method.signature, method.origin
        self.function, self.max_recovery_attempts = function, method.max_recovery_attempts
        self.method, self.owner = method, owner

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BoundWorkflow) and self.method is other.method and self.owner is other.owner

    def __hash__(self) -> int:
        return hash((id(self.method), id(self.owner)))

    def found(self) -> RegisteredWorkflow[Any, Any]:
        return self.method.found_for(self.owner)


class WorkflowDecorator:
    """What ``@DBOS.workflow(…)`` returns: it turns a function into a workflow."""

    def __init__(self, name: str | None, max_recovery_attempts: int) -> None:
        self._options = name, max_recovery_attempts

    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> Workflow[P, R]:
        options = *self._options, shapes.decorating_frame()
        made: Any = function  # type checkers pass the function of a static or class method
        if isinstance(made, classmethod):
            return ClassWorkflow(made, *options)
        if isinstance(made, staticmethod):
            return StaticWorkflow(made.__func__, *options)
        return MethodWorkflow(made, *options) if shapes.is_method(made) else Workflow(function, *options)


def _async(bound: Callable[..., Any]) -> Callable[..., Any]:
    return bound if inspect.iscoroutinefunction(bound) else shapes.awaiting(bound)
