"""Functions of every shape: what `DBOS.workflow` and `DBOS.step` take, how it is called, and what tells two functions apart.

Each shape works or is refused when it is decorated.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import sys
import types
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, Final, Literal, NamedTuple, ParamSpec, Protocol, TypeVar

from dbos_async._checks import check_key, excerpt
from dbos_async.errors import RegistrationError

Q = ParamSpec("Q")
R_co = TypeVar("R_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)

Kind = Literal["workflow", "step", "transaction"]

_LAMBDA: Final = "<lambda>"


class Decorated:
    """What a decorator of ours has made. It is not decorated again."""

    kind: ClassVar[Kind]
    name: str


class TakesClass(Protocol[Q, R_co]):
    """A function whose first argument is a class. (Type checkers compare what stands here, but no ``Concatenate``.)"""

    def __call__(self, cls: type[Any], /, *args: Q.args, **kwargs: Q.kwargs) -> Coroutine[Any, Any, R_co]:
        """Call it."""
        ...


class TakesObject(Protocol[T_contra, Q, R_co]):
    """A function whose first argument is an object of this type."""

    def __call__(self, instance: T_contra, /, *args: Q.args, **kwargs: Q.kwargs) -> Coroutine[Any, Any, R_co]:
        """Call it."""
        ...


class Origin(NamedTuple):
    """Where a decorated function comes from. The same code loaded or executed again is of the same origin."""

    module: str | None
    qualname: str
    file: str
    has_own_name: bool
    """Whether no other function of its module has this qualified name: it is no wrapper, no lambda and not local."""
    place: tuple[tuple[str, int], tuple[str, str, int]]
    """Where it is decorated and where its code stands."""

    def is_same(self, other: Origin) -> bool:
        """Whether both are one function: of a module that was loaded twice or anew, or of a line that ran again."""
        if self.place == other.place:
            return True
        if not (self.has_own_name and other.has_own_name and self.qualname == other.qualname):
            return False
        return self.module == other.module or (self.file == other.file != "")

    @property
    def module_name(self) -> str:
        """The name of its module, also if that is the program itself."""
        return os.path.splitext(os.path.basename(self.file))[0] if self.module == "__main__" else str(self.module)

    def __str__(self) -> str:
        return f"{self.module}.{self.qualname}"


class Shape(NamedTuple):
    """A function that may be decorated."""

    name: str
    origin: Origin
    is_coroutine: bool
    """Whether a call returns a coroutine, as that of an ``async def``."""


def decorating_frame() -> types.FrameType:
    """The frame that has called the caller."""
    return sys._getframe(2)  # pyright: ignore[reportPrivateUsage]


def shape_of(function: Any, kind: Kind, name: str | None, frame: types.FrameType) -> Shape:
    """The shape of a function that is decorated in this frame; raises `RegistrationError` for one that cannot be."""
    decorator = f"@DBOS.{kind}()"
    made = function.__func__ if isinstance(function, types.MethodType) else function
    if isinstance(made, Decorated):
        raise RegistrationError(
            f"{decorator} decorates functions, and {made.name!r} is a {made.kind} already: remove one of both decorators."
        )
    if not callable(function) or inspect.isclass(function):
        raise RegistrationError(
            f"{decorator} decorates functions, and {excerpt(function)} is none: decorate a def or an async def."
        )
    code_of = _with_code(function)
    makes_many = inspect.isgeneratorfunction(code_of) or inspect.isasyncgenfunction(code_of)
    if makes_many or getattr(code_of, "__globals__", None) is contextlib.__dict__:
        what = "a generator: return a list, or write the values to a stream with DBOS.write_stream()"
        raise RegistrationError(
            f"{decorator} decorates functions that return one value, and {_said(function)} is "
            f"{what if makes_many else 'a context manager: use it inside of a function'}."
        )
    qualname = _qualname(function)
    if name is None and (qualname is None or qualname.endswith(_LAMBDA)):
        raise RegistrationError(
            f"{_said(function)} has no name under which a {kind} could be found in its record: "
            f"write DBOS.{kind}(name=…)."
        )
    known_as = check_key(qualname if name is None else name, f"The name of a {kind}")
    return Shape(known_as, _origin(function, frame), is_coroutine_function(function))


def is_coroutine_function(function: Any) -> bool:
    """Whether a call returns a coroutine, as that of an ``async def``."""
    return inspect.iscoroutinefunction(_with_code(function))


def is_method(function: Any) -> bool:
    """Whether this stands in a class as a method of its objects."""
    if not callable(function) or inspect.isclass(function) or isinstance(function, types.MethodType | Decorated):
        return False
    return _is_in_class(function) and _first_parameter(function) == "self"


def check_unbound(function: Any) -> None:
    """Refuse a workflow that needs an object: a replay in another process does not have it."""
    owner = function.__self__ if isinstance(function, types.MethodType) else None
    has_object = owner is not None and not inspect.isclass(owner)
    if not inspect.isroutine(function) and not isinstance(function, functools.partial):
        has_object = True
    first = _first_parameter(function) if _is_in_class(function) and owner is None else None
    if has_object:
        raise RegistrationError(
            f"The workflow {_said(function)} belongs to an object, which a replay in another process does not have: "
            "decorate the method in its class, and register the object with DBOS.register_instance(…)."
        )
    if first == "cls":
        raise RegistrationError(
            f"The workflow {_said(function)} would be given its class as an argument: write @DBOS.workflow() above "
            "@classmethod."
        )


def check_in_class(function: Any, owner: type) -> None:
    """Refuse a workflow that stands in the class that defines it as a method of its objects."""
    qualname = _qualname(function) or ""
    is_defined_there = qualname.rpartition(".")[0] == owner.__qualname__ and function.__module__ == owner.__module__
    if is_defined_there and (first := _first_parameter(function)) is not None:
        raise RegistrationError(
            f"The workflow {qualname} stands in a class, and {first!r} would not be its object: write @staticmethod above "
            "@DBOS.workflow(), @classmethod below it, or call it 'self'."
        )


def is_made_of_coroutine_function(function: Any) -> bool:
    """Whether decorators with `functools.wraps` have made this of an ``async def``."""
    return inspect.iscoroutinefunction(innermost(function))


def innermost(function: Any) -> Any:
    """The function that was written: under its decorators, in its partials, behind a method or a callable object."""
    while True:
        try:
            inner = _with_code(inspect.unwrap(function))
        except ValueError:  # an object that has every attribute wraps itself for ever
            return function
        if inner is function:
            return function
        function = inner


def awaiting(function: Callable[..., Any]) -> Callable[..., Any]:
    """An ``async def`` of a function whose calls return a coroutine, or their result."""

    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result

    return call


def _with_code(function: Any) -> Any:
    """What a call executes first: the function in partials, of a bound method, or of a callable object."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, types.MethodType):
            function = function.__func__
        else:
            return function if inspect.isroutine(function) else type(function).__call__


def _origin(function: Any, frame: types.FrameType) -> Origin:
    module, qualname = getattr(function, "__module__", None), _qualname(function)
    code: types.CodeType | None = getattr(innermost(function), "__code__", None)
    file, position = "", (str(module), str(qualname), 0)
    if code is not None:
        file = _file(code, module)
        position = (file, code.co_qualname, code.co_firstlineno)
    site = (file_of(frame), frame.f_lineno)
    is_plain = (
        inspect.isfunction(function) or getattr(function, "__self__", None) is object
    )  # a class that is not made yet
    has_own_name = is_plain and "<" not in str(qualname)
    return Origin(module, qualname or position[1], file, has_own_name, (site, position))


def file_of(frame: types.FrameType) -> str:
    """The file whose code this frame executes."""
    return _file(frame.f_code, frame.f_globals.get("__name__"))


def _file(code: types.CodeType, module: Any) -> str:
    # Text that was given to exec is of no file: what has the same name may be other text.
    return f"{module}:{code.co_filename}" if code.co_filename.startswith("<") else _real_path(code.co_filename)


_real_path = functools.lru_cache(maxsize=1000)(os.path.realpath)


def _is_in_class(function: Any) -> bool:
    scope = (_qualname(function) or "").rpartition(".")[0]
    return bool(scope) and not scope.endswith("<locals>")


def _first_parameter(function: Any) -> str | None:
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            return parameter.name
        break
    return None


def _said(function: Any) -> str:
    """How an error names what is decorated."""
    qualname = _qualname(function)
    if qualname is None or qualname.endswith(_LAMBDA):
        return excerpt(function)
    return qualname


def _qualname(function: Any) -> str | None:
    qualname = getattr(function, "__qualname__", None)
    return qualname if isinstance(qualname, str) else None
