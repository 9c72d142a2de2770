"""Values as JSON and back, by pydantic. Nothing is pickled, and a received value cannot run code.

The sender checks a value against its declared type, and the receiver restores that type. A value fits its type if the
type accepts the value's JSON and makes an equal value of it. A value without a declared type arrives as plain JSON: a date
as text, a tuple as a list, bytes as base64. What JSON cannot represent (NaN, infinity, keys that are not text, lone
surrogates) raises at the sender.
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

from dbos_async._logs import shown
from dbos_async._serialization import bounded
from dbos_async.errors import InvalidValueError

_ErrorType = Callable[[str, str, list[Any] | None], InvalidValueError]

MAX_DEPTH = 180  # levels; pydantic reads 200, and an envelope, a call or an error encloses the value
MAX_ADAPTERS = 4096
MAX_DETAILS = 20
EXCERPT_LENGTH = 200
MAX_SENTENCE_LENGTH = 500
MAX_SMALL = 1 << 14
"""The errors of a text of more characters come without their inputs."""
MAX_COMMAS = 2000
"""A text that is not small and has more commas, so that it may have very many errors, is validated within bounds."""

_CONFIG = ConfigDict(
    ser_json_inf_nan="constants", ser_json_bytes="base64", val_json_bytes="base64", allow_inf_nan=False
)
_EXPECTED = (ValidationError, PydanticSerializationError, PydanticUserError, ValueError, TypeError, RecursionError)
_SIMPLE = frozenset((type(None), bool, int, str))
_JSON_TYPES = frozenset((type(None), bool, int, float, str, list, dict))
# Finds JSON that may have a number outside the range of float: one with a long exponent or with very many digits. Digits are
# counted from the first of a number on, so that the time is linear.
_MAYBE_HUGE = re.compile(r"[0-9](?:[eE]\+?[0-9]{3}|(?<![0-9].)[0-9]{199})")
_OF_JSON = frozenset(("json_invalid", "json_type", "string_unicode", "recursion_loop", "invalid_key"))
"""Errors whose messages have no text of a sender."""
_NOT_FINITE = "it has a NaN, an infinity or a number outside the range of float, which JSON cannot represent"
# Searched for in short texts only, since some of these take a time that is quadratic.
_PHRASES = (
    (r"Unable to serialize unknown type: <class '(.+?)'>", r"its type is or has \1, which has no JSON"),
    (r"Unable to generate pydantic-core schema for (.+?)\. Set", r"its declared type is or has \1, which has no JSON"),
    (r"(Expected `[^`]*`)[^[]*(\[[^\n]*\])?", r"\1 \2"),
    (r"id repeated", "it contains itself"),
    (r"depth exceeded|recursion limit|serialization depth", f"it is nested deeper than {MAX_DEPTH} levels"),
    (r"surrogate", "it has a lone surrogate, which UTF-8 cannot encode"),
    (r"invalid utf-8", "it has bytes that are not UTF-8: give its model ser_json_bytes and val_json_bytes = 'base64'"),
    (r"number out of range", "it has an integer of more than 4300 digits"),
)


def encode_value(
    value: object, declared: Any = Any, *, what: str = "The value", error: _ErrorType = InvalidValueError
) -> str:
    """Return the JSON text of a value. A value that is not JSON, or does not fit its declared type, raises ``error``.

    ``what`` names the value in the sentence of that error.
    """
    kind = type(value)
    try:
        if kind in _SIMPLE and (declared is Any or declared is kind):
            data = to_json(value)
            if kind is int:
                _read(data)  # raises for an integer that is too long to be read again
        else:
            data = _dump_plain(value) if declared is Any else _dump_declared(value, type_adapter(declared))
        return data.decode()
    except Exception as problem:  # The serializers and validators of a user's type may raise anything.
        reason = None if isinstance(problem, _EXPECTED) else problem
        raise _invalid(problem, what, error, declared) from reason


def decode_value(
    text: str | None, declared: Any = Any, *, what: str = "The value", error: _ErrorType = InvalidValueError
) -> Any:
    """Return the value of a JSON text, and ``None`` for ``None`` (SQL null).

    A text that is not JSON, or does not fit the declared type, raises ``error``.
    """
    if text is None:
        return None
    try:
        if _MAYBE_HUGE.search(text):
            # from_json makes an infinity of such a number, to_json writes it as Infinity, and _read refuses that.
            _read(to_json(from_json(text)))
        if declared is Any:
            return _read(text)
        checker = type_adapter(declared)
        if len(text) > MAX_SMALL and text.count(",") > MAX_COMMAS:
            return bounded.validate_json(checker, text)
        return checker.validate_json(text, by_alias=True, by_name=True)
    except Exception as problem:  # As above.
        reason = None if isinstance(problem, _EXPECTED) else problem
        raise _invalid(problem, what, error, declared, text if len(text) > MAX_SMALL else None) from reason


def display_value(text: str | None) -> Any:
    """Return the plain value of a stored text for display, or the text itself if it cannot be decoded."""
    try:
        return decode_value(text)
    except InvalidValueError:
        return text


def size_error(text: str, max_bytes: int, what: str, error: _ErrorType = InvalidValueError) -> InvalidValueError | None:
    """Return an ``error`` (without raising it) if a JSON text has more than ``max_bytes``, else ``None``."""
    if len(text) * 4 <= max_bytes:  # a character has at most four bytes
        return None
    size = len(text.encode())
    if size <= max_bytes:
        return None
    return error(
        what,
        f"its JSON has {size:,} bytes and may have {max_bytes:,} (max_payload_bytes): keep it elsewhere and send a reference, "
        "or launch with a larger max_payload_bytes",
        None,
    )


def type_adapter(declared: Any) -> TypeAdapter[Any]:
    """Return the pydantic adapter of a type. Each is made once."""
    known = _adapters.get(id(declared))
    if known is None:
        if len(_adapters) >= MAX_ADAPTERS:
            _adapters.clear()
        try:
            made = _new_adapter(declared, repr(declared))
        except TypeError:  # an unhashable type, such as an Annotated with a list in it
            made = _new_adapter.__wrapped__(declared, "")
        # The cache keeps the type alive, so that no other type can get the same id.
        known = _adapters[id(declared)] = declared, made
    return known[1]


_adapters: dict[int, tuple[Any, TypeAdapter[Any]]] = {}


@functools.lru_cache(maxsize=MAX_ADAPTERS)
def _new_adapter(declared: Any, type_text: str) -> TypeAdapter[Any]:
    # type_text is a part of the cache's key: int | str equals str | int, but pydantic tries their members in this order.
    if isinstance(declared, type) and issubclass(declared, BaseModel):
        return TypeAdapter(declared)  # a model has its own configuration
    try:
        return TypeAdapter(declared, config=_CONFIG)
    except PydanticUserError as problem:
        if problem.code != "type-adapter-config-unused":
            raise
        # pydantic refuses a configuration for a dataclass or TypedDict itself, but not for a type that contains one.
        alias: Any = TypeAliasType("Declared", declared)  # pyright: ignore[reportGeneralTypeIssues]  # made at run time
        return TypeAdapter(alias, config=_CONFIG)


def _dump_plain(value: object) -> bytes:
    data = to_json(value, bytes_mode="base64", round_trip=True)
    _check_depth(data)
    if not are_equal(_read(data), value):
        _check_plain(value, objects=b"null" in data or b"***" in data)
    return data


def _dump_declared(value: object, checker: TypeAdapter[Any]) -> bytes:
    try:
        data = checker.dump_json(value, warnings="error", round_trip=True)
    except PydanticSerializationError:
        bounded.validate_strictly(checker, value)  # This names the problem more clearly if the type is wrong.
        raise
    _check_depth(data)
    if b"NaN" in data or b"Infinity" in data:
        _read(data)
    if len(data) > MAX_SMALL and data.count(b",") > MAX_COMMAS:
        _check_equal(value, bounded.validate_json(checker, data), checker)
    else:
        _check_equal(value, checker.validate_json(data, by_alias=True, by_name=True), checker)
    return data


def _read(data: bytes | str) -> Any:
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError:
        from_json(data)  # raises if the problem is a different one
        raise ValueError(_NOT_FINITE) from None


def _check_depth(data: bytes) -> None:
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH:
        from_json(b"[" * (200 - MAX_DEPTH) + data + b"]" * (200 - MAX_DEPTH))


def _check_plain(value: Any, *, objects: bool, keys: bool = True) -> None:
    """Raise if a value without a declared type would arrive changed.

    Examples are a key that is not text, a NaN in an object (it becomes null) and a secret (it becomes stars).
    ``objects`` says whether to look into the fields of objects, ``keys`` whether to check the keys of dicts.
    """
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
        items, keys = _fields(value), False  # its own serializer decides about its keys
    for item in items:
        if type(item) not in _SIMPLE:
            _check_plain(item, objects=objects, keys=keys)


def _check_equal(value: Any, again: Any, checker: TypeAdapter[Any]) -> None:
    """Raise if ``value`` differs from ``again``, the value of its JSON, beyond what its type's own serializer changes."""
    if are_equal(again, value):
        return
    sent, arrived = type(value), type(again)
    if isinstance(value, (list, tuple, deque)) and isinstance(again, (list, tuple, deque)):
        pairs: Iterable[tuple[Any, Any]] = zip(value, again, strict=False)
    elif sent is not arrived:
        _check_plain(value, objects=True)
        # Where no type is declared, plain JSON arrives.
        if sent in _JSON_TYPES or arrived not in _JSON_TYPES or not _allows_any(checker):
            raise TypeError(f"its type is or has {sent.__qualname__}, which would arrive as {arrived.__qualname__}")
        return
    elif isinstance(value, dict):
        if lost := value.keys() - again.keys():
            _check_plain(value, objects=False)
            raise ValueError(f"its key {next(iter(lost))!r:.100} would be lost")
        pairs = ((item, again[key]) for key, item in value.items())
    else:  # The serializer of any other object may change it.
        _check_plain(value, objects=False)
        pairs = zip(_fields(value), _fields(again), strict=False)
    for one, other in pairs:
        _check_equal(one, other, checker)


@functools.lru_cache(maxsize=MAX_ADAPTERS)
def _allows_any(checker: TypeAdapter[Any]) -> bool:
    return "'type': 'any'" in str(checker.core_schema)


def _fields(value: Any) -> list[Any]:
    kind: Any = type(value)
    return [getattr(value, name, None) for name in _field_names(kind)]


@functools.lru_cache(maxsize=MAX_ADAPTERS)
def _field_names(kind: type) -> list[str]:
    if issubclass(kind, BaseModel):
        return [name for name, field in kind.model_fields.items() if not field.exclude]
    return [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []


def are_equal(one: object, other: object) -> bool:
    """Return whether two values are equal, and true if their comparison fails."""
    try:
        return bool(one == other)
    except Exception:  # The __eq__ of a user's class may raise anything.
        return True


def _invalid(
    problem: Exception, what: str, error: _ErrorType, declared: Any, large: str | None = None
) -> InvalidValueError:
    if not isinstance(problem, ValidationError):
        return error(what, _phrase(str(problem) if isinstance(problem, _EXPECTED) else repr(problem)), None)
    count = problem.error_count()
    found = bounded.errors_of(problem, type_adapter(declared), large)
    first = found[0]
    path = shown(".".join(map(_excerpt, first["loc"])))[:EXCERPT_LENGTH]
    message = _phrase(first["msg"]) if first["type"] in _OF_JSON else _in_one_line(first["msg"])
    sentence = ": ".join(filter(None, (path, message)))
    # The details are stored with the error: they must be JSON, and long texts are cut.
    details = [
        {
            "type": one["type"],
            "loc": [part if isinstance(part, int) else _excerpt(part) for part in one["loc"]],
            "msg": one["msg"][:MAX_SENTENCE_LENGTH],
            "input": _excerpt(one["input"]) if "input" in one else "(too large to be shown)",
        }
        for one in found[:MAX_DETAILS]
    ]
    return error(what, f"{sentence} (and {count - 1:,} more)" if count > 1 else sentence, details)


def _phrase(text: str) -> str:
    beginning = text[: 4 * MAX_SENTENCE_LENGTH]
    for pattern, phrase in _PHRASES:
        if found := re.search(pattern, beginning):
            return _in_one_line(found.expand(phrase))
    return _in_one_line(beginning)


def _in_one_line(text: str) -> str:
    return shown(" ".join(text[: 4 * MAX_SENTENCE_LENGTH].split())).rstrip(".")[:MAX_SENTENCE_LENGTH]


def _excerpt(value: object) -> str:
    return safe_str(value[:EXCERPT_LENGTH] if isinstance(value, str) else value)[:EXCERPT_LENGTH]


def safe_str(value: object) -> str:
    """Return ``str(value)`` as text that UTF-8 can encode. Never raises."""
    try:
        return utf8_safe(str(value))
    except Exception:  # A __str__ may raise anything.
        return f"<{type(value).__name__}>"


def utf8_safe(text: str) -> str:
    """Return the text with an escape in place of each lone surrogate, which UTF-8 cannot encode."""
    return text.encode("utf-8", "backslashreplace").decode()
