"""pydantic's ``ValidationError`` as JSON and back, with its text. It is made by pydantic alone, so that no code of a user runs."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from dbos_async._serialization.error_fields import plain_and_same, safe_repr

MAX_LINES: Final = 100
"""A record has no more of the errors of one ``ValidationError``."""
MAX_SHOWN: Final = 200
"""How many characters of an input that is no JSON are kept. pydantic shows the first and the last 25."""


class Line(BaseModel):
    """One of the errors. ``shown`` and ``of`` are the input's repr and its type, if it is no JSON."""

    type: str
    loc: list[int | str] = []
    message: str = ""
    context: dict[str, Any] = {}
    input: Any = None
    shown: str = ""
    of: str = ""


class Validation(BaseModel):
    """A stored ``ValidationError``; ``own_words`` says that its messages are kept instead of made again."""

    title: str
    lines: list[Line]
    of_json: bool = False
    hides_input: bool = False
    own_words: bool = False


def describe(error: ValidationError, text: str) -> Validation:
    """Return what is stored of an error whose ``str`` is ``text``."""
    lines = [_line(found) for found in error.errors(include_url=False)[:MAX_LINES]]
    ways = [(of_json, hides) for hides in (False, True) for of_json in (False, True)]
    for of_json, hides_input in ways:
        found = Validation(title=error.title, lines=lines, of_json=of_json, hides_input=hides_input)
        try:
            if str(rebuild(found)) == text:
                return found
        except Exception:  # A kind of error that needs what is no JSON.
            break
    return Validation(title=error.title, lines=lines, own_words=True, hides_input="input_value=" not in text)


def rebuild(stored: Validation) -> ValidationError:
    """Return the error. Raises if pydantic cannot make it."""
    details = [_details(line, own_words=stored.own_words) for line in stored.lines]
    kind: Literal["json", "python"] = "json" if stored.of_json else "python"
    return ValidationError.from_exception_data(stored.title, details, kind, stored.hides_input)


def _line(found: Any) -> Line:
    given, is_same = plain_and_same(found["input"])
    context = {}
    for name, value in found.get("ctx", {}).items():
        told, is_json = plain_and_same(value)
        context[name] = told if is_json else str(value)
    line = Line(type=found["type"], loc=list(found["loc"]), message=found["msg"], context=context, input=given)
    if not is_same:
        shown = safe_repr(found["input"])
        line.shown = shown if len(shown) <= MAX_SHOWN else shown[: MAX_SHOWN // 2] + shown[-MAX_SHOWN // 2 :]
        line.input, line.of = None, type(found["input"]).__qualname__
    return line


def _details(line: Line, *, own_words: bool) -> InitErrorDetails:
    given = _stand_in(line.of, line.shown) if line.of else line.input
    if own_words:
        return {"type": PydanticCustomError(line.type, line.message), "loc": tuple(line.loc), "input": given}  # pyright: ignore[reportArgumentType]  # it wants a literal
    context = dict(line.context)
    if isinstance(context.get("error"), str) and line.type in ("value_error", "assertion_error"):
        context["error"] = ValueError(context["error"])
    return {"type": line.type, "loc": tuple(line.loc), "input": given, "ctx": context}


def _stand_in(name: str, shown: str) -> object:
    """Return an object that looks like an input that is no JSON."""

    def show(_: object) -> str:
        return shown

    return type(name, (), {"__repr__": show})()
