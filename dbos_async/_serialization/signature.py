"""How the arguments and the result of a function travel: by its annotations, as JSON."""

from __future__ import annotations

import inspect
import math
import sys
import typing
from collections.abc import Callable
from inspect import Parameter
from types import SimpleNamespace
from typing import Any

from pydantic import PydanticSchemaGenerationError, PydanticUserError
from pydantic_core import to_json

from dbos_async._serialization import values
from dbos_async.errors import InvalidValueError, RegistrationError

_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
_PLACED = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_PARAM_SPEC = (typing.ParamSpecArgs, typing.ParamSpecKwargs)
_EMPTY_CALL = '{"args":[],"kwargs":{}}'
_UNTOUCHED = frozenset((str, bool, int))
# Kinds of type that pydantic checks and no JSON fits; an Iterable would arrive as something that can be read once.
_WITHOUT_JSON = frozenset(("callable", "generator", "is-instance", "is-subclass"))


class Signature:
    """The signature of a workflow or step.

    Annotations that pydantic has no JSON for raise `RegistrationError` when the function is decorated;
    those that name what is defined further down are resolved when they are first needed.
    Of a function whose arguments are not stored only the annotation of the result counts.
    """

    def __init__(self, function: Callable[..., Any], *, takes_stored_arguments: bool = True) -> None:
        self._function = function
        self._name = getattr(function, "__qualname__", type(function).__qualname__)
        self._signature = _signature_of(function)
        parameters = list(self._signature.parameters.values())
        self._placed = [parameter.name for parameter in parameters if parameter.kind in _PLACED]
        self._named = {parameter.name for parameter in parameters if parameter.kind in _NAMED}
        kinds = {parameter.kind: parameter.name for parameter in parameters}
        self._rest, self._others = kinds.get(Parameter.VAR_POSITIONAL, ""), kinds.get(Parameter.VAR_KEYWORD, "")
        # So many arguments without a keyword bind as they stand; a required keyword needs a real look.
        required = [parameter.kind for parameter in parameters if parameter.default is Parameter.empty]
        self._least = math.inf if Parameter.KEYWORD_ONLY in required else sum(kind in _PLACED for kind in required)
        self._most = math.inf if self._rest else len(self._placed)
        annotations = {parameter.name: parameter.annotation for parameter in parameters if takes_stored_arguments}
        annotations["return"] = self._signature.return_annotation
        self._annotations = {name: found for name, found in annotations.items() if found is not Parameter.empty}
        self._types: dict[str, Any] | None = None
        self._resolve(final=False)

    @property
    def result_type(self) -> Any:
        """The annotated result, ``Any`` when there is none."""
        return self._declared().get("return", Any)

    def takes(self, name: str) -> bool:
        """Whether an argument may be given by this name."""
        return name in self._named or bool(self._others)

    def encode_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The call as JSON. Arguments that do not bind raise Python's own ``TypeError``."""
        if kwargs or not self._least <= len(args) <= self._most:
            bound = self._signature.bind(*args, **kwargs)
            args, kwargs = bound.args, bound.kwargs
        if not args and not kwargs:
            return _EMPTY_CALL
        stored_args = [self._store(self._at(place), value) for place, value in enumerate(args)]
        stored_kwargs = [f"{values.encode(key)}:{self._store(self._of(key), value)}" for key, value in kwargs.items()]
        return f'{{"args":[{",".join(stored_args)}],"kwargs":{{{",".join(stored_kwargs)}}}}}'

    def decode_call(self, text: str, of: str = "") -> tuple[list[Any], dict[str, Any]]:
        """The arguments again, each as its annotation says; whether they bind is for the call to find out.

        ``of`` says in the errors whose call it is.
        """
        if text == _EMPTY_CALL:
            return [], {}
        whose = of or self._name
        call = values.decode(text, what=f"The stored call of {whose}")
        if not (isinstance(call, dict) and isinstance(call.get("args"), list) and isinstance(call.get("kwargs"), dict)):
            raise InvalidValueError(
                f"The stored call of {whose}", 'it is not of the form {"args": [...], "kwargs": {...}}'
            )
        args = [self._restore(self._at(place), value, whose) for place, value in enumerate(call["args"])]
        return args, {key: self._restore(self._of(key), value, whose) for key, value in call["kwargs"].items()}

    def _at(self, place: int) -> str:
        """The parameter that takes the argument at this place, ``""`` if none does."""
        return self._placed[place] if place < len(self._placed) else self._rest

    def _of(self, key: str) -> str:
        """The parameter that takes the argument with this keyword, ``""`` if none does."""
        return key if key in self._named else self._others

    def _store(self, parameter: str, value: Any) -> str:
        declared = self._declared().get(parameter, Any)
        return values.encode(value, declared, what=f"The argument {parameter!r} of {self._name}")

    def _restore(self, parameter: str, value: Any, whose: str) -> Any:
        declared = self._declared().get(parameter, Any)
        if declared is Any or (type(value) is declared and declared in _UNTOUCHED):
            return value
        what = f"The stored argument {parameter!r} of {whose}"
        return values.decode(to_json(value).decode(), declared, what=what)

    def _declared(self) -> dict[str, Any]:
        return self._types if self._types is not None else self._resolve(final=True)

    def _resolve(self, *, final: bool) -> dict[str, Any]:
        types: dict[str, Any] = {}
        complete = True
        for name, annotation in self._annotations.items():
            which, reason = "result" if name == "return" else f"parameter {name!r}", ""
            try:
                types[name] = declared = self._evaluate(annotation)
                fits = declared is Any or _has_json(values.adapter(declared).core_schema)
            except (NameError, AttributeError) as problem:
                if final:
                    raise RegistrationError(
                        f"The annotation of the {which} of {self._name} cannot be resolved ({problem}): "
                        "define or import that name in the module of the function."
                    ) from None
                complete = False
                continue
            except PydanticSchemaGenerationError:
                fits = False
            except (PydanticUserError, TypeError, SyntaxError) as problem:
                fits, reason = False, f" ({' '.join(str(problem).split()):.200})"
            if not fits:
                raise RegistrationError(
                    f"The {which} of {self._name} is annotated as {annotation!r:.100}, which has no JSON{reason}: "
                    "annotate it with a type that pydantic knows, or not at all."
                )
        if complete:
            self._types = types
        return types

    def _evaluate(self, annotation: Any) -> Any:
        holder = SimpleNamespace(
            __annotations__={"it": annotation}, __type_params__=getattr(self._function, "__type_params__", ())
        )
        names = getattr(inspect.unwrap(self._function), "__globals__", {})
        declared = typing.get_type_hints(holder, globalns=names, include_extras=True)["it"]
        # A function that never returns has no result, and what a ParamSpec stands for is not known.
        if declared in (typing.Never, typing.NoReturn) or isinstance(declared, _PARAM_SPEC):
            return Any
        return declared


def encode_plain_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """A call of a function that is known by its name only: its arguments as plain JSON."""
    return values.encode({"args": list(args), "kwargs": kwargs}, what="The arguments of the workflow")


def _signature_of(function: Callable[..., Any]) -> inspect.Signature:
    if sys.version_info >= (3, 14):
        import annotationlib

        return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
    else:
        return inspect.signature(function)


def _has_json(schema: Any) -> bool:
    # A type that waits for a forward reference has no schema yet.
    while isinstance(schema, dict) and schema["type"] in ("default", "nullable"):
        schema = schema["schema"]
    return not isinstance(schema, dict) or schema["type"] not in _WITHOUT_JSON
