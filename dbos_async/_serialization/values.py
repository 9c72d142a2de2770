"""Values as JSON and back, by pydantic. Nothing is pickled, and a received value cannot run code.

The sender checks a value against its declared type, and the receiver restores that type. A value fits its type if the
type accepts the value's JSON and makes an equal value of it. A value without a declared type arrives as plain JSON: a date
as text, a tuple as a list, bytes as base64. What JSON cannot represent (NaN, infinity, keys that are not text, lone
surrogates) raises at the sender.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json
from typing_extensions import TypeAliasType

from dbos_async._logs import shown
from dbos_async._serialization import bounded
from dbos_async._serialization.exact import NOT_FINITE, SIMPLE, are_equal, check_plain, check_same
from dbos_async._serialization.shapes import Shape
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
_UNKNOWN = Shape({"type": "any"})
_EXPECTED = (ValidationError, PydanticSerializationError, PydanticUserError, ValueError, TypeError, RecursionError)
# Finds JSON that may have a number outside the range of float: one with a long exponent or with very many digits. Digits are
# counted from the first of a number on, so that the time is linear.
_MAYBE_HUGE = re.compile(r"[0-9](?:[eE]\+?[0-9]{3}|(?<![0-9].)[0-9]{199})")
_OF_JSON = frozenset(("json_invalid", "json_type", "string_unicode", "recursion_loop", "invalid_key"))
"""Errors whose messages have no text of a sender."""
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
        if kind in SIMPLE and (declared is Any or declared is kind):
            data = to_json(value)
            if kind is int:
                _read(data)  # raises for an integer that is too long to be read again
        else:
            data = _dump_plain(value) if declared is Any else _dump_declared(value, _known(declared))
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
        if len(text) > MAX_SMALL and text.count(",") > MAX_COMMAS:
            return bounded.validate_json(type_adapter(declared), text)
        return _known(declared).validator.validate_json(text, by_alias=True, by_name=True)
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


class _Known:
    """A declared type, which this keeps alive, with what pydantic and `exact` make of it."""

    __slots__ = ("adapter", "declared", "serialize", "shape", "validator")

    def __init__(self, declared: Any, adapter: TypeAdapter[Any]) -> None:
        self.declared = declared
        self.adapter = adapter
        self.validator: Any = adapter
        self.serialize: Callable[..., bytes] = adapter.dump_json
        self.shape: Shape | None = None

    def complete(self) -> None:
        """Learn what to compare, unless the type waits for a name that is not defined yet."""
        schema = bounded.schema_of(self.adapter)
        if schema is not None:
            self.validator = bounded.validator_with_zones(self.adapter)
            self.serialize = self.adapter.serializer.to_json
            self.shape = Shape(schema)


def type_adapter(declared: Any) -> TypeAdapter[Any]:
    """Return the pydantic adapter of a type. Each is made once."""
    return _known(declared).adapter


def _known(declared: Any) -> _Known:
    known = _adapters.get(id(declared))
    if known is None:
        if len(_adapters) >= MAX_ADAPTERS:
            _adapters.clear()
        try:
            made = _new_adapter(declared, repr(declared))
        except TypeError:  # an unhashable type, such as an Annotated with a list in it
            made = _new_adapter.__wrapped__(declared, "")
        # It keeps the type alive, so that no other type can get the same id.
        known = _adapters[id(declared)] = _Known(declared, made)
    if known.shape is None:
        known.complete()
    return known


_adapters: dict[int, _Known] = {}


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
        check_plain(value, objects=b"null" in data or b"***" in data)
    return data


def _dump_declared(value: object, known: _Known) -> bytes:
    try:
        data: bytes = known.serialize(value, warnings="error", round_trip=True)
    except PydanticSerializationError:
        bounded.validate_strictly(known.adapter, value)  # This names the problem more clearly if the type is wrong.
        raise
    _check_depth(data)
    if b"NaN" in data or b"Infinity" in data:
        _read(data)
    if len(data) > MAX_SMALL and data.count(b",") > MAX_COMMAS:
        again = bounded.validate_json(known.adapter, data)
    else:
        again = known.validator.validate_json(data, by_alias=True, by_name=True)
    check_same(value, again, known.shape or _UNKNOWN)
    return data


def _read(data: bytes | str) -> Any:
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError:
        from_json(data)  # raises if the problem is a different one
        raise ValueError(NOT_FINITE) from None


def _check_depth(data: bytes) -> None:
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH:
        from_json(b"[" * (200 - MAX_DEPTH) + data + b"]" * (200 - MAX_DEPTH))


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
