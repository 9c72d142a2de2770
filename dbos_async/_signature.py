"""How the arguments and the result of a function travel: by its annotations, as JSON."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

from pydantic import PydanticSchemaGenerationError, PydanticUserError

from dbos_async import _codec
from dbos_async.errors import RegistrationError

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Signature:
    """The signature of a workflow or step.

    Annotations that pydantic has no JSON for raise `RegistrationError` when the function is decorated;
    those that name what is defined further down are resolved when they are first needed.
    """

    def __init__(self, function: Callable[..., Any], *, takes_stored_arguments: bool = True) -> None:
        self._function = function
        self._signature = inspect.signature(function)
        self._checked_parameters = takes_stored_arguments
        self._types: dict[str, Any] | None = None
        self._resolve(final=False)

    @property
    def result_type(self) -> Any:
        """The annotated result, ``Any`` when there is none."""
        return self._declared().get("return", Any)

    def encode_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The call as JSON. Arguments that do not bind raise Python's own ``TypeError``."""
        bound = self._signature.bind(*args, **kwargs)
        types = self._declared()
        name = self._function.__qualname__
        stored_args: list[str] = []
        stored_kwargs: list[str] = []
        for parameter in self._signature.parameters.values():
            if parameter.name not in bound.arguments:
                continue
            value, declared = bound.arguments[parameter.name], types.get(parameter.name, Any)
            what = f"The argument {parameter.name!r} of {name}"
            if parameter.kind in _POSITIONAL:
                stored_args.append(_codec.encode(value, declared, what=what))
            elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                stored_args.extend(_codec.encode(item, declared, what=what) for item in value)
            elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
                stored_kwargs.extend(
                    _member(key, _codec.encode(item, declared, what=what)) for key, item in value.items()
                )
            else:
                stored_kwargs.append(_member(parameter.name, _codec.encode(value, declared, what=what)))
        return f'{{"args":[{",".join(stored_args)}],"kwargs":{{{",".join(stored_kwargs)}}}}}'

    def decode_call(self, text: str) -> tuple[list[Any], dict[str, Any]]:
        """The arguments again, each as its annotation says."""
        call = _codec.decode(text)
        types = self._declared()
        plain = all(types.get(name, Any) is Any for name in self._signature.parameters)
        if plain:
            return call["args"], call["kwargs"]
        bound = self._signature.bind(*call["args"], **call["kwargs"])
        for parameter in self._signature.parameters.values():
            declared = types.get(parameter.name, Any)
            if declared is Any or parameter.name not in bound.arguments:
                continue
            value = bound.arguments[parameter.name]
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                bound.arguments[parameter.name] = tuple(self._restore(parameter, item, declared) for item in value)
            elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
                bound.arguments[parameter.name] = {
                    key: self._restore(parameter, item, declared) for key, item in value.items()
                }
            else:
                bound.arguments[parameter.name] = self._restore(parameter, value, declared)
        return list(bound.args), bound.kwargs

    def _restore(self, parameter: inspect.Parameter, value: Any, declared: Any) -> Any:
        what = f"The stored argument {parameter.name!r} of {self._function.__qualname__}"
        return _codec.decode(_codec.encode(value), declared, what=what)

    def _declared(self) -> dict[str, Any]:
        if self._types is None:
            self._resolve(final=True)
        assert self._types is not None
        return self._types

    def _resolve(self, *, final: bool) -> None:
        try:
            hints = typing.get_type_hints(self._function, include_extras=True)
        except NameError as problem:
            if not final:
                return
            raise RegistrationError(
                f"An annotation of {self._function.__qualname__} cannot be resolved ({problem}): "
                "define or import that name in the module of the function."
            ) from None
        if not self._checked_parameters:
            hints = {name: hint for name, hint in hints.items() if name == "return"}
        for name, hint in hints.items():
            if hint is Any:
                continue
            try:
                _codec.adapter(hint)
            except (PydanticSchemaGenerationError, PydanticUserError):
                which = "result" if name == "return" else f"parameter {name!r}"
                raise RegistrationError(
                    f"The {which} of {self._function.__qualname__} is annotated as {hint!r:.100}, which has no JSON: "
                    "annotate it with a type that pydantic knows, or not at all."
                ) from None
        self._types = hints


def encode_plain_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """A call of a function that is known by its name only: its arguments as plain JSON."""
    return _codec.encode({"args": list(args), "kwargs": kwargs}, what="The arguments of the workflow")


def _member(key: str, value: str) -> str:
    return f"{_codec.encode(key)}:{value}"
