"""The arguments and the result of a workflow or step as JSON and back, by the annotations of its function."""

from __future__ import annotations

import functools
import inspect
import math
import sys
import typing
from collections.abc import Awaitable, Callable, Coroutine
from inspect import Parameter
from types import GenericAlias, SimpleNamespace
from typing import Any

from pydantic import PydanticSchemaGenerationError
from pydantic_core import to_json

from dbos_async._checks import excerpt
from dbos_async._logs import shown
from dbos_async._serialization.values import decode_value, encode_value, type_adapter
from dbos_async.errors import InvalidArgumentError, InvalidCallError, InvalidValueError, RegistrationError

_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
_BY_INDEX = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_PARAM_SPEC = (typing.ParamSpecArgs, typing.ParamSpecKwargs)
_AWAITABLE = (Awaitable, Coroutine)
_EMPTY_CALL = '{"args":[],"kwargs":{}}'
_MANY = 100
"""More arguments of one parameter than these are decoded as one value."""
_SAME_IN_JSON = frozenset((str, bool, int))
# Kinds of type that pydantic can check but that have no JSON form. (An Iterable would arrive as a generator.)
_WITHOUT_JSON = frozenset(("callable", "generator", "is-instance", "is-subclass"))


class Signature:
    """The signature of a workflow or step.

    An annotation without a JSON form raises `RegistrationError` when the function is decorated.
    An annotation that names something defined further down in the module is resolved when it is first needed.
    Without ``takes_stored_arguments`` only the annotation of the result counts.
    """

    def __init__(self, function: Callable[..., Any], *, takes_stored_arguments: bool = True, name: str = "") -> None:
        self._function = _function_in(function)
        self._name = getattr(function, "__qualname__", name or type(function).__qualname__)
        self._awaits = not inspect.iscoroutinefunction(self._function)
        self.returns_awaitable: bool = False
        """Whether the annotation says that a plain ``def`` returns a coroutine. The type of the result is what that gives."""
        self._signature = signature_of(function)
        parameters = list(self._signature.parameters.values())
        self._indexed = [parameter.name for parameter in parameters if parameter.kind in _BY_INDEX]
        self._named = {parameter.name for parameter in parameters if parameter.kind in _BY_NAME}
        kinds = {parameter.kind: parameter.name for parameter in parameters}
        self._var_args, self._var_kwargs = kinds.get(Parameter.VAR_POSITIONAL, ""), kinds.get(Parameter.VAR_KEYWORD, "")
        # A call with this many positional arguments and no keyword certainly binds; any other call is bound to find out.
        required = [parameter.kind for parameter in parameters if parameter.default is Parameter.empty]
        self._min_args = math.inf if Parameter.KEYWORD_ONLY in required else sum(kind in _BY_INDEX for kind in required)
        self._max_args = math.inf if self._var_args else len(self._indexed)
        annotations = {parameter.name: parameter.annotation for parameter in parameters if takes_stored_arguments}
        annotations["return"] = self._signature.return_annotation
        self._annotations = {name: found for name, found in annotations.items() if found is not Parameter.empty}
        self._types: dict[str, Any] | None = None
        self._resolve(final=False)

    @property
    def result_type(self) -> Any:
        """The annotation of the result, ``Any`` if there is none."""
        return self._declared_types().get("return", Any)

    def resolve(self) -> None:
        """Raise `RegistrationError` if an annotation names something that is defined nowhere."""
        self._declared_types()

    def takes(self, name: str) -> bool:
        """Return whether an argument may be given by this name."""
        return name in self._named or bool(self._var_kwargs)

    def encode_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Return the call as JSON. Arguments that do not bind raise `InvalidCallError`, which is also a ``TypeError``."""
        if kwargs or not self._min_args <= len(args) <= self._max_args:
            args, kwargs = self.bind(args, kwargs)
        if not args and not kwargs:
            return _EMPTY_CALL
        stored_args = [self._encode(self._parameter_at(index), value) for index, value in enumerate(args)]
        stored_kwargs = [
            f"{encode_value(key)}:{self._encode(self._parameter_named(key), value)}" for key, value in kwargs.items()
        ]
        return f'{{"args":[{",".join(stored_args)}],"kwargs":{{{",".join(stored_kwargs)}}}}}'

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments by position and by name. Raises `InvalidCallError` when the function does not take them."""
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as problem:
            raise InvalidCallError(f"{shown(self._name)} cannot be called with these arguments: {problem}.") from None
        return bound.args, bound.kwargs

    def decode_call(self, text: str, of: str = "") -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments, each of its annotated type. Whether they bind is not checked: the call itself does that.

        ``of`` names the workflow or step in the errors.
        """
        if text == _EMPTY_CALL:
            return [], {}
        of = of or self._name
        call = decode_value(text, what=f"The stored call of {of}")
        if not (isinstance(call, dict) and isinstance(call.get("args"), list) and isinstance(call.get("kwargs"), dict)):
            raise InvalidValueError(
                f"The stored call of {of}", 'it is not of the form {"args": [...], "kwargs": {...}}'
            )
        args = [self._decode(name, value, of) for name, value in zip(self._indexed, call["args"], strict=False)]
        if len(args) < len(call["args"]):
            args += self._decode_all(self._var_args, call["args"][len(args) :], list, of)
        kwargs: dict[str, Any] = call["kwargs"]
        if not kwargs:
            return args, kwargs
        known = {name: self._decode(name, value, of) for name, value in kwargs.items() if name in self._named}
        if len(known) == len(kwargs):
            return args, known
        others = {name: value for name, value in kwargs.items() if name not in known}
        return args, known | self._decode_all(self._var_kwargs, others, dict, of)

    def _parameter_at(self, index: int) -> str:
        """Return the parameter that takes the positional argument at this index, ``""`` if none does."""
        return self._indexed[index] if index < len(self._indexed) else self._var_args

    def _parameter_named(self, key: str) -> str:
        """Return the parameter that takes the argument with this keyword, ``""`` if none does."""
        return key if key in self._named else self._var_kwargs

    def _encode(self, parameter: str, value: Any) -> str:
        declared = self._declared_types().get(parameter, Any)
        return encode_value(value, declared, what=f"The argument {parameter!r} of {self._name}")

    def _decode(self, parameter: str, value: Any, of: str) -> Any:
        declared = self._declared_types().get(parameter, Any)
        if declared is Any or (type(value) is declared and declared in _SAME_IN_JSON):
            return value
        what = f"The stored argument {parameter!r} of {of}"
        return decode_value(to_json(value).decode(), declared, what=what)

    def _decode_all(self, parameter: str, values: Any, kind: type[Any], of: str) -> Any:
        """Decode the items of a list, or the values of a dict, that this parameter takes, which may be millions."""
        declared = self._declared_types().get(parameter, Any)
        if declared is Any:
            return values
        if len(values) > _MANY:
            alias = GenericAlias(kind, (declared,) if kind is list else (str, declared))
            what = f"The stored argument {parameter!r} of {of}"
            return decode_value(to_json(values).decode(), alias, what=what)
        if kind is list:
            return [self._decode(parameter, value, of) for value in values]
        return {key: self._decode(parameter, value, of) for key, value in values.items()}

    def _declared_types(self) -> dict[str, Any]:
        return self._types if self._types is not None else self._resolve(final=True)

    def _resolve(self, *, final: bool) -> dict[str, Any]:
        types: dict[str, Any] = {}
        complete = True
        for name, annotation in self._annotations.items():
            what, reason = "result" if name == "return" else f"parameter {name!r}", ""
            try:
                declared = self._evaluate(annotation)
                if name == "return" and self._awaits and typing.get_origin(declared) in _AWAITABLE:
                    self.returns_awaitable = True
                    declared = typing.get_args(declared)[-1]
                types[name] = declared
                has_json = declared is Any or _has_json(type_adapter(declared).core_schema)
            except (NameError, AttributeError) as problem:
                if final:
                    raise RegistrationError(
                        f"The annotation of the {what} of {self._name} cannot be resolved ({problem}): "
                        "define or import that name in the module of the function."
                    ) from None
                complete = False
                continue
            except PydanticSchemaGenerationError:
                has_json = False
            except (
                Exception
            ) as problem:  # An annotation may be any code, and the schema of a type of the user any other.
                has_json, reason = False, f" ({' '.join(str(problem).split()):.200})"
            if not has_json:
                raise RegistrationError(
                    f"The {what} of {self._name} is annotated as {excerpt(annotation)}, which has no JSON{reason}: "
                    "annotate it with a type that pydantic can serialize, or not at all."
                )
        if complete:
            self._types = types
        return types

    def _evaluate(self, annotation: Any) -> Any:
        holder = SimpleNamespace(
            __annotations__={"annotation": annotation}, __type_params__=getattr(self._function, "__type_params__", ())
        )
        names = getattr(_function_in(inspect.unwrap(self._function)), "__globals__", {})
        declared = typing.get_type_hints(holder, globalns=names, include_extras=True)["annotation"]
        # A function that never returns has no result, and the types behind a ParamSpec are not known.
        if declared in (typing.Never, typing.NoReturn) or isinstance(declared, _PARAM_SPEC):
            return Any
        return declared


def check_declared(declared: Any, what: str) -> None:
    """Raise unless values of this type have JSON. A type that names something defined further down is not checked yet."""
    reason = ""
    try:
        if declared is Any or _has_json(type_adapter(declared).core_schema):
            return
    except (NameError, AttributeError):
        return
    except PydanticSchemaGenerationError:
        pass
    except Exception as problem:  # The schema of a user's type may raise anything.
        reason = f" ({shown(' '.join(str(problem).split()))[:200]})"
    raise InvalidArgumentError(
        f"{what} is {excerpt(declared)}, which has no JSON{reason}: give a type that pydantic can serialize."
    )


def encode_plain_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return the JSON of a call of a function of which only the name is known: the arguments as plain JSON."""
    return encode_value({"args": list(args), "kwargs": kwargs}, what="The arguments of the workflow")


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """The signature of a function; annotations that name something defined further down stay as they are."""
    try:
        if sys.version_info >= (3, 14):
            import annotationlib

            return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
        else:
            return inspect.signature(function)
    except (
        Exception
    ):  # Some functions that are written in C tell nothing, and an object of the user may raise anything.
        return inspect.Signature(
            [Parameter("args", Parameter.VAR_POSITIONAL), Parameter("kwargs", Parameter.VAR_KEYWORD)]
        )


def _function_in(function: Any) -> Any:
    """The function in partials, or of a callable object. It has the globals in which the annotations are read."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if inspect.isroutine(function) else type(function).__call__


def _has_json(schema: Any) -> bool:
    # The schema of a type with an unresolved forward reference is not a dict yet.
    while isinstance(schema, dict) and schema["type"] in ("default", "nullable"):
        schema = schema["schema"]
    return not isinstance(schema, dict) or schema["type"] not in _WITHOUT_JSON
