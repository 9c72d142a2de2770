"""Values as JSON and back, by pydantic. Nothing is pickled, and nothing received can run code.

A declared type is checked where a value leaves and restored where it arrives: a value fits if its type accepts its JSON
and it would arrive equal. An undeclared value arrives as plain JSON: a date as text, a tuple as a list, bytes as base64.
What JSON cannot say (NaN, infinity, keys that are no text, lone surrogates) raises where it leaves.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, PydanticUserError, SecretBytes, SecretStr, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json
from typing_extensions import TypeAliasType

from dbos_async.errors import InvalidValueError

_Kind = Callable[[str, str, list[Any] | None], InvalidValueError]

MAX_DEPTH = 180  # levels; JSON is read to 200, and an envelope, a call or an error stands around the value
MAX_ADAPTERS = 4096
MAX_DETAILS = 20
EXCERPT = 200

_CONFIG = ConfigDict(
    ser_json_inf_nan="constants", ser_json_bytes="base64", val_json_bytes="base64", allow_inf_nan=False
)
_EXPECTED = (ValidationError, PydanticSerializationError, PydanticUserError, ValueError, TypeError, RecursionError)
_SIMPLE = frozenset((type(None), bool, int, str))
_JSON_TYPES = frozenset((type(None), bool, int, float, str, list, dict))
# Whether a text may hold a number beyond the floats: a long exponent, or so many digits that a short one is enough.
_HUGE = re.compile(r"[0-9](?:[eE]\+?[0-9]{3}|[0-9]{199})")
_NOT_FINITE = "it has a NaN, an infinity or a number beyond the floats, which JSON cannot say"
_PHRASES = (
    (r"Unable to serialize unknown type: <class '(.+?)'>", r"its type is or has \1, which has no JSON"),
    (r"Unable to generate pydantic-core schema for (.+?)\. Set", r"its declared type is or has \1, which has no JSON"),
    (r"(Expected `[^`]*`)[^[]*(\[[^\n]*\])?", r"\1 \2"),
    (r"id repeated", "it contains itself"),
    (r"depth exceeded|recursion limit|serialization depth", f"it is nested deeper than {MAX_DEPTH} levels"),
    (r"surrogate", "it has a lone surrogate, which UTF-8 cannot carry"),
    (r"invalid utf-8", "it has bytes that are no UTF-8: give its model ser_json_bytes and val_json_bytes = 'base64'"),
    (r"number out of range", "it has an integer of more than 4300 digits"),
)


def encode(value: object, declared: Any = Any, *, what: str = "The value", error: _Kind = InvalidValueError) -> str:
    """The JSON text of a value. One that is not JSON, or does not fit its declared type, raises ``error``."""
    kind = type(value)
    try:
        if kind in _SIMPLE and (declared is Any or declared is kind):
            data = to_json(value)
            if kind is int:
                _read(data)  # raises if it is too long to be read again
        else:
            data = _dump_plain(value) if declared is Any else _dump_declared(value, adapter(declared))
        return data.decode()
    except Exception as problem:  # A type's serializers and validators are its author's code and may raise anything.
        raise _misfit(problem, what, error) from (None if isinstance(problem, _EXPECTED) else problem)


def decode(text: str | None, declared: Any = Any, *, what: str = "The value", error: _Kind = InvalidValueError) -> Any:
    """The value of a JSON text; ``None`` (SQL null) is ``None``. One that does not fit its declared type raises ``error``."""
    if text is None:
        return None
    try:
        if _HUGE.search(text):
            _read(to_json(from_json(text)))
        if declared is Any:
            return _read(text)
        return adapter(declared).validate_json(text, by_alias=True, by_name=True)
    except Exception as problem:  # As above.
        raise _misfit(problem, what, error) from (None if isinstance(problem, _EXPECTED) else problem)


def show(text: str | None) -> Any:
    """What is stored, for somebody who looks at it: the plain value, or the text itself if that cannot be read."""
    try:
        return decode(text)
    except InvalidValueError:
        return text


def too_large(text: str, most: int, what: str, error: _Kind = InvalidValueError) -> InvalidValueError | None:
    """The ``error`` of a JSON text that has more bytes than it may have, ``None`` if it has not."""
    if len(text) * 4 <= most:  # a character has at most four bytes
        return None
    size = len(text.encode())
    if size <= most:
        return None
    return error(
        what,
        f"its JSON has {size:,} bytes and may have {most:,} (max_payload_bytes): keep it elsewhere and pass on where it is, "
        "or launch with a larger max_payload_bytes",
        None,
    )


def adapter(declared: Any) -> TypeAdapter[Any]:
    """The checker of a type, made once for each."""
    known = _adapters.get(id(declared))
    if known is None:
        if len(_adapters) >= MAX_ADAPTERS:
            _adapters.clear()
        try:
            made = _new_adapter(declared, repr(declared))
        except TypeError:  # an unhashable type, such as Annotated with a list in it
            made = _new_adapter.__wrapped__(declared, "")
        # The type is kept beside its adapter, so that nothing else can get its id.
        known = _adapters[id(declared)] = declared, made
    return known[1]


_adapters: dict[int, tuple[Any, TypeAdapter[Any]]] = {}


@functools.lru_cache(maxsize=MAX_ADAPTERS)
def _new_adapter(declared: Any, shown: str) -> TypeAdapter[Any]:
    # shown tells types apart that are equal and not checked alike, such as int | str and str | int.
    if isinstance(declared, type) and issubclass(declared, BaseModel):
        return TypeAdapter(declared)  # it has a configuration of its own
    try:
        return TypeAdapter(declared, config=_CONFIG)
    except PydanticUserError as problem:
        if problem.code != "type-adapter-config-unused":
            raise
        # A dataclass or TypedDict follows ours when it is a part of another type, and shall when it stands alone.
        alias: Any = TypeAliasType("Declared", declared)  # pyright: ignore[reportGeneralTypeIssues]  # made as the program runs
        return TypeAdapter(alias, config=_CONFIG)


def _dump_plain(value: object) -> bytes:
    data = to_json(value, bytes_mode="base64", round_trip=True)
    _check_depth(data)
    if not equal(_read(data), value):
        _check_plain(value, objects=b"null" in data or b"***" in data)
    return data


def _dump_declared(value: object, checker: TypeAdapter[Any]) -> bytes:
    try:
        data = checker.dump_json(value, warnings="error", round_trip=True)
    except PydanticSerializationError:
        checker.validate_python(value, strict=True)  # It says better what is wrong, if it is the type.
        raise
    _check_depth(data)
    if b"NaN" in data or b"Infinity" in data:
        _read(data)
    _check_equal(value, checker.validate_json(data, by_alias=True, by_name=True), checker)
    return data


def _read(data: bytes | str) -> Any:
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError:
        from_json(data)  # raises if the trouble is another
        raise ValueError(_NOT_FINITE) from None


def _check_depth(data: bytes) -> None:
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH:
        from_json(b"[" * (200 - MAX_DEPTH) + data + b"]" * (200 - MAX_DEPTH))


def _check_plain(value: Any, *, objects: bool, keys: bool = True) -> None:
    """Raise if an undeclared value would arrive changed: a key as text, a NaN in an object as null, a secret as stars."""
    items: Iterable[Any] = ()
    if isinstance(value, dict):
        for key in value if keys else ():
            if not isinstance(key, str):
                raise TypeError(f"its key {key!r:.100} is of type {type(key).__name__} and JSON keys are str")
        items = value.values()
    elif isinstance(value, (list, tuple, deque)):
        items = value
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(_NOT_FINITE)
    elif isinstance(value, (SecretStr, SecretBytes)):
        raise ValueError("it has a secret, of which JSON shows only stars")
    elif objects and type(value) not in _JSON_TYPES:
        items, keys = _fields(value), False  # what the keys in there are is the object's own affair
    for item in items:
        if type(item) not in _SIMPLE:
            _check_plain(item, objects=objects, keys=keys)


def _check_equal(value: Any, again: Any, checker: TypeAdapter[Any]) -> None:
    """Raise if a value of a declared type would arrive changed, beyond what its type itself makes of it."""
    if equal(again, value):
        return
    sent, arrived = type(value), type(again)
    if isinstance(value, (list, tuple, deque)) and isinstance(again, (list, tuple, deque)):
        pairs: Iterable[tuple[Any, Any]] = zip(value, again, strict=False)
    elif sent is not arrived:
        _check_plain(value, objects=True)
        # Plain JSON may arrive where nothing is declared.
        if sent in _JSON_TYPES or arrived not in _JSON_TYPES or "'type': 'any'" not in str(checker.core_schema):
            raise TypeError(f"its type is or has {sent.__qualname__}, which would arrive as {arrived.__qualname__}")
        return
    elif isinstance(value, dict):
        if lost := value.keys() - again.keys():
            _check_plain(value, objects=False)
            raise ValueError(f"its key {next(iter(lost))!r:.100} would be lost")
        pairs = ((item, again[key]) for key, item in value.items())
    else:  # The difference of any other object is the work of its own serializer.
        _check_plain(value, objects=False)
        pairs = zip(_fields(value), _fields(again), strict=False)
    for one, other in pairs:
        _check_equal(one, other, checker)


def _fields(value: Any) -> list[Any]:
    kind: Any = type(value)
    return [getattr(value, name, None) for name in _field_names(kind)]


@functools.lru_cache(maxsize=MAX_ADAPTERS)
def _field_names(kind: type) -> list[str]:
    if issubclass(kind, BaseModel):
        return [name for name, field in kind.model_fields.items() if not field.exclude]
    return [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []


def equal(one: object, other: object) -> bool:
    """Whether two values are equal as far as they can say."""
    try:
        return bool(one == other)
    except Exception:  # A class whose comparison fails says nothing.
        return True


def _misfit(problem: Exception, what: str, error: _Kind) -> InvalidValueError:
    if not isinstance(problem, ValidationError):
        return error(what, _phrase(str(problem) if isinstance(problem, _EXPECTED) else repr(problem)), None)
    found = problem.errors(include_url=False, include_context=False)
    place = "".join(f"{part}." for part in found[0]["loc"])[:-1]
    sentence = ": ".join(filter(None, (clean(place), _phrase(found[0]["msg"]))))
    # The details travel with the error: they are JSON, and a long input is told by its beginning.
    details = [one | {"loc": [*one["loc"]], "input": shown(one["input"])[:EXCERPT]} for one in found[:MAX_DETAILS]]
    return error(what, f"{sentence} (and {len(found) - 1} more)" if len(found) > 1 else sentence, details)


def _phrase(text: str) -> str:
    for sign, phrase in _PHRASES:
        if found := re.search(sign, text):
            return clean(found.expand(phrase)).strip()
    return clean(" ".join(text.split())).rstrip(".")[:500]


def shown(value: object) -> str:
    """What ``str`` says of a value, as text that UTF-8 can carry."""
    try:
        return clean(str(value))
    except Exception:  # A __str__ may raise anything.
        return f"<{type(value).__name__}>"


def clean(text: str) -> str:
    """The text with escapes in place of what UTF-8 cannot carry."""
    return text.encode("utf-8", "backslashreplace").decode()
