"""The objects and subclasses for which methods run as workflows, and the names under which they do.

A workflow is recorded with what it runs for, so that another process finds the same there:

- ``Shop.checkout@berlin`` for the object of ``Shop`` that is registered as ``berlin``,
- ``Shop.checkout[Bakery]@berlin`` for one of ``Bakery``, which inherits the method,
- ``Shop.restock[Bakery]`` for a class method that ``Bakery`` inherits; ``Shop.restock`` is that of ``Shop`` itself.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar

from dbos_async._checks import MAX_KEY_LENGTH, check_key, excerpt
from dbos_async._logs import shown
from dbos_async._workflows.registry import RegisteredWorkflow, methods, registered
from dbos_async._workflows.shapes import file_of
from dbos_async._workflows.start import Workflow
from dbos_async.errors import RegistrationError

P = ParamSpec("P")
R = TypeVar("R")

OBJECT_MARK: Final = "@"
CLASS_MARK: Final = "["


class OwnedWorkflow(Workflow[P, R]):
    """A method that is a workflow. It stands in the class ``owner``."""

    owner: type | None = None

    def __set_name__(self, owner: type, name: str) -> None:
        """It stands in this class. A class that takes it from another one has it like a subclass."""
        if self.owner is None or _are_same(self.owner, owner):
            self.owner = owner

    def bound_to(self, owner: Any) -> Callable[..., Any]:
        """The function that is called for this object or class: an ``async def``."""
        raise NotImplementedError

    def found_for(self, owner: Any) -> RegisteredWorkflow[Any, Any]:
        """What runs for this object or class, under its name. Raises `RegistrationError` when nothing does."""
        raise NotImplementedError


class WorkflowOf(Workflow[..., Any]):
    """A method as it runs for one object or subclass, under the name of that."""

    def __init__(self, method: OwnedWorkflow[..., Any], name: str, owner: Any) -> None:
        self.name, self.signature, self.origin = name, method.signature, method.origin
        self.max_recovery_attempts = method.max_recovery_attempts
        self.function = method.bound_to(owner)
        self.method, self.owner = method, owner


class _RegisteredObject(NamedTuple):
    """An object, its name, and where it was registered. It lives as long as the process, so that its id stays its own."""

    instance: object
    name: str
    file: str
    line: int
    code: CodeType

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"

    def comes_anew(self, other: _RegisteredObject) -> bool:
        """Whether this is the same as the other, of a module that was loaded twice or anew."""
        if (self.file, self.code.co_qualname) == (other.file, other.code.co_qualname) and self.code is not other.code:
            return True  # the same line: if the code is loaded only once, it registers two objects
        kind, before = type(self.instance), type(other.instance)
        return kind is not before and _are_same(kind, before)


_objects: dict[int, _RegisteredObject] = {}
"""Every registered object by its id: objects may be equal, or have no hash."""


def name_of(method: OwnedWorkflow[..., Any], kind: type, instance: str | None = None) -> str:
    """The name of a method for an object of this class, or for the class itself."""
    name = method.name if kind is method.owner else f"{method.name}{CLASS_MARK}{kind.__qualname__}]"
    return name if instance is None else f"{name}{OBJECT_MARK}{instance}"


def found_for_object(method: OwnedWorkflow[..., Any], instance: object) -> RegisteredWorkflow[Any, Any]:
    """The workflow of a registered object."""
    kind, known = type(instance), _objects.get(id(instance))
    found = None if known is None else registered.get(name_of(method, kind, known.name))
    if found is None:
        raise RegistrationError(
            f"The workflow {method.name!r} runs for registered objects, and this object of {kind.__qualname__} is none: "
            "write DBOS.register_instance(…, name=…) before the launch."
        )
    return found


def found_for_class(method: OwnedWorkflow[..., Any], kind: type) -> RegisteredWorkflow[Any, Any]:
    """The workflow of a class that inherits a class method."""
    name = name_of(method, kind)
    found = registered.get(name)
    if isinstance(found, WorkflowOf) and found.owner is kind:
        return found
    latest = registered.get(method.name)
    if isinstance(latest, OwnedWorkflow):  # what was loaded last runs
        method = latest
    namesakes = [each for each in _subclasses(method.owner or kind) if each.__qualname__ == kind.__qualname__]
    other = next((each for each in namesakes if not _are_same(each, kind)), None)
    if other is not None:
        raise RegistrationError(
            f"Two classes named {kind.__qualname__} inherit the workflow {method.name!r} (of {other.__module__} and "
            f"{kind.__module__}), so a record could not tell them apart: rename one of them."
        )
    newest = namesakes[-1] if namesakes else kind
    _check_name(name, found or methods.get(name), method)
    registered[name] = WorkflowOf(method, name, newest)
    return registered[name]


def register_subclasses() -> None:
    """Register the class methods of every subclass that inherits one. A name that two classes share is found by none."""
    for method in list(registered.values()):
        if isinstance(method, OwnedWorkflow) and method.owner is not None:
            for kind in _subclasses(method.owner):
                try:
                    found_for_class(method, kind)
                except RegistrationError:
                    continue  # who starts it hears of that


def ranges_of_names() -> list[tuple[str, str]]:
    """The ranges of names (from, up to) that methods of this process have, for whatever object or class."""
    return [
        (method.name + mark, method.name + chr(ord(mark) + 1))
        for method in (*registered.values(), *methods.values())
        if isinstance(method, OwnedWorkflow)
        for mark in (OBJECT_MARK, CLASS_MARK)
    ]


def describe_unknown(name: str) -> str | None:
    """What is missing for workflows of this name, one sentence; ``None`` if nothing is, or if no method here has it."""
    known = [each for each in (*registered.values(), *methods.values()) if isinstance(each, OwnedWorkflow)]
    method = next((each for each in known if name.startswith((each.name + OBJECT_MARK, each.name + CLASS_MARK))), None)
    if method is None or name in registered:
        return None
    kind, rest = method.owner.__qualname__ if method.owner else "its class", name[len(method.name) :]
    if rest.startswith(CLASS_MARK):
        kind, _, rest = rest[1:].partition("]" + OBJECT_MARK if method.belongs_to_object else "]")
    if not method.belongs_to_object:
        return (
            f"No live executor has a class {kind} that inherits the workflow {method.name!r}, which waits for it: "
            "import its module before the launch."
        )
    instance = rest.removeprefix(OBJECT_MARK)
    return (
        f"No live executor has an object of {kind} that is registered as {instance!r}, for which the workflow {method.name!r} "
        f"waits: write DBOS.register_instance(…, name={instance!r}) before the launch."
    )


def register_object(instance: Any, name: str | None, frame: FrameType, *, is_launched: bool) -> None:
    """Register an object under a name, or the one that it has: from now on its methods that are workflows run."""
    kind = type(instance)
    if inspect.isclass(instance):
        raise RegistrationError(f"{excerpt(instance)} is a class: register its objects with DBOS.register_instance(…).")
    bound = list(methods_of(kind))
    if not bound:
        raise RegistrationError(
            f"{shown(kind.__qualname__)} has no method that is a workflow, so its objects need not be registered: "
            "write @DBOS.workflow() above an async def of the class."
        )
    name = _name_for(instance, name)
    known = _objects.get(id(instance))
    if known is not None:
        if known.name != name:
            raise RegistrationError(
                f"This object of {kind.__qualname__} is registered as {known.name!r} ({known.place}): "
                f"register another object as {name!r}."
            )
        return
    if is_launched:
        raise RegistrationError(
            f"DBOS is launched, and the object {name!r} of {kind.__qualname__} comes too late: register it before the launch."
        )
    made = _RegisteredObject(instance, name, file_of(frame), frame.f_lineno, frame.f_code)
    found: dict[str, WorkflowOf] = {}
    for method in bound:
        full = name_of(method, kind, name)
        _check_name(full, registered.get(full) or methods.get(full), method, made)
        found[full] = WorkflowOf(method, full, instance)
    _objects[id(instance)] = made
    registered.update(found)


def _name_for(instance: Any, name: str | None) -> str:
    if name is not None:
        return check_key(name, "name")
    try:
        configured = instance.config_name
    except AttributeError:
        raise RegistrationError(
            f"This object of {shown(type(instance).__qualname__)} has no config_name under which another process could find "
            "its like: give it one, or write DBOS.register_instance(…, name=…)."
        ) from None
    return check_key(configured, f"The config_name of an object of {shown(type(instance).__qualname__)}")


def _check_name(
    name: str,
    namesake: RegisteredWorkflow[Any, Any] | None,
    method: OwnedWorkflow[..., Any],
    made: _RegisteredObject | None = None,
) -> None:
    """Raise `RegistrationError` for a name that something else has, or that no record can have."""
    if len(name) > MAX_KEY_LENGTH:
        raise RegistrationError(
            f"The workflow {method.name!r} would have a name of {len(name)} characters here, and may have {MAX_KEY_LENGTH}: "
            "choose a shorter one, of the object, its class or the workflow."
        )
    if namesake is None:
        return
    if not (isinstance(namesake, WorkflowOf) and namesake.origin.is_same(method.origin)):
        raise RegistrationError(
            f"Two workflows are named {name!r} ({namesake.origin} and {method.origin}): "
            "give one of them another name with @DBOS.workflow(name=…)."
        )
    before = _objects.get(id(namesake.owner))
    if made is not None and before is not None and not made.comes_anew(before):
        raise RegistrationError(
            f"Two objects of {type(made.instance).__qualname__} are registered as {made.name!r} ({before.place} and "
            f"{made.place}): give each a name of its own."
        )


def methods_of(kind: type) -> Iterator[OwnedWorkflow[..., Any]]:
    """The methods of objects of this class that are workflows, also those that a decorator or an override hides."""
    for base in kind.__mro__:
        for value in list(vars(base).values()):
            method = _under_decorators(value)
            if isinstance(method, OwnedWorkflow) and method.belongs_to_object:
                if method.owner is None:
                    method.owner = base
                yield method


def _under_decorators(value: Any) -> Any:
    """The workflow under decorators that stand over ours; else the value."""
    if not inspect.isfunction(value):
        return value
    try:
        return inspect.unwrap(value, stop=_is_workflow)
    except ValueError:  # it wraps itself
        return value


def _is_workflow(function: Any) -> bool:
    return isinstance(function, RegisteredWorkflow)


def _subclasses(kind: type) -> list[type]:
    """The subclasses of a class and theirs, in the order in which they were made; each once."""
    found: dict[type, None] = {}
    below: list[type] = type.__subclasses__(kind)
    for subclass in below:
        found[subclass] = None
        found.update(dict.fromkeys(_subclasses(subclass)))
    return list(found)


def _are_same(one: type, other: type) -> bool:
    """Whether both are one class, of a module that was loaded twice or anew."""
    if one is other:
        return True
    if one.__qualname__ != other.__qualname__:
        return False
    return one.__module__ == other.__module__ or (_file_of(one) == _file_of(other) != "")


def _file_of(kind: type) -> str:
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return os.path.realpath(file) if isinstance(file, str) else ""
