"""Exceptions as JSON and back. A received exception cannot run code or trigger an import.

An exception comes back as the same type if this process has imported that type, else as a `RecordedError` that names it.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Annotated, Any

from pydantic import BaseModel, Field
from pydantic_core import from_json

from dbos_async._serialization import bounded
from dbos_async._serialization.values import EXCERPT_LENGTH, are_equal, encode_value, safe_str, type_adapter, utf8_safe
from dbos_async.errors import DBOSError, InvalidValueError, RecordedError

MAX_ERROR_DEPTH = 8
MAX_ERRORS = 100
MAX_ERROR_LENGTH = 1 << 20
MAX_PART_LENGTH = 1000
MAX_ARGS = 10_000

# Built-in exceptions keep these fields outside of their arguments and their __dict__.
_FIELDS: tuple[tuple[type[Exception], tuple[str, ...]], ...] = (
    (OSError, ("errno", "strerror", "filename", "filename2")),
    (ImportError, ("msg", "name", "path")),
    (SyntaxError, ("msg", "filename", "lineno", "offset", "text", "end_lineno", "end_offset")),
)
_UNICODE_ERRORS = (UnicodeDecodeError, UnicodeEncodeError, UnicodeTranslateError)


def encode_error(error: BaseException) -> str:
    """Return an exception as JSON. Never raises.

    The JSON has the name of its type, its message, and its arguments and attributes as far as they are JSON.
    """
    try:
        record = _describe(error, MAX_ERROR_DEPTH, iter(range(MAX_ERRORS)))
    except Exception:  # The arguments, attributes and causes of a user's class may raise anything when they are read.
        record = _Record(type=_name(error), message=safe_str(error))
    text = record.model_dump_json(exclude_defaults=True)
    if len(text) > MAX_ERROR_LENGTH:
        record.notes = [f"Most of this error is not recorded: it had {len(text):,} characters."]
        record.message, record.cause, record.exceptions = record.message[:MAX_PART_LENGTH], None, []
        record.args = [_shortened(argument) for argument in record.args[:MAX_ERRORS]]
        record.attributes = {name: _shortened(record.attributes[name]) for name in [*record.attributes][:MAX_ERRORS]}
        text = record.model_dump_json(exclude_defaults=True)
    return text


def decode_error(text: str, of: str = "") -> Exception:
    """Return the exception, as its own type if this process has imported it, else as a `RecordedError`. Never raises.

    ``of`` names the record's origin in the message for a record that cannot be read.
    """
    try:
        if len(text) <= 2 * MAX_ERROR_LENGTH:  # encode_error writes no longer ones
            record: _Record = bounded.validate_json(type_adapter(_Record), text, strict=True)
            return _rebuild(record, iter(range(MAX_ERRORS)))
    except (ValueError, RecursionError):
        pass
    return RecordedError(f"an unreadable record of {of}" if of else "an unreadable record", text[:EXCERPT_LENGTH])


class _Record(BaseModel):
    """A stored exception. Only ``type`` (as ``module:qualname``) is required."""

    type: str
    message: str = ""
    args: list[Any] = []
    attributes: dict[str, Any] = {}
    notes: list[str] = []
    cause: _Record | None = None
    exceptions: Annotated[list[_Record], Field(max_length=MAX_ERRORS)] = []


def _describe(error: BaseException, depth: int, budget: Iterator[int]) -> _Record:
    record = _Record(type=_name(error), message=safe_str(error))
    if not _is_dbos_error(type(error)):
        record.attributes = _attributes(error)
    notes = getattr(error, "__notes__", None)
    record.notes = [safe_str(note) for note in notes] if isinstance(notes, list) else []
    # The same exception may occur many times, so a budget limits the causes and members of all levels together.
    if depth and error.__cause__ is not None and next(budget, None) is not None:
        record.cause = _describe(error.__cause__, depth - 1, budget)
    if isinstance(error, BaseExceptionGroup):
        record.args = [safe_str(error.message)]
        members = zip(error.exceptions, budget, strict=False) if depth else ()
        record.exceptions = [_describe(member, depth - 1, budget) for member, _ in members]
        if missing := len(error.exceptions) - len(record.exceptions):
            record.notes.append(f"{missing} more errors of this group are not recorded.")
    else:
        record.args = [_argument(argument) for argument in error.args[:MAX_ARGS]]
        if missing := len(error.args) - len(record.args):
            record.notes.append(f"{missing} more arguments of this error are not recorded.")
    return record


def _attributes(error: BaseException) -> dict[str, Any]:
    found = {name: value for name, value in vars(error).items() if _may_be_set(name)}
    for base, names in _FIELDS:
        if isinstance(error, base):
            found.update((name, value) for name in names if (value := getattr(error, name)) is not None)
    if isinstance(error, _UNICODE_ERRORS):
        broken = error.object
        found["object"] = broken if isinstance(broken, bytes) else broken.encode("utf-8", "surrogatepass")
    plain = {name: _as_plain_json(value) for name, value in found.items()}
    return {utf8_safe(name): value for name, value in plain.items() if value is not None or found[name] is None}


def _shortened(value: Any) -> Any:
    # A short value keeps its type, because the message of the exception may be made of it.
    text = value if isinstance(value, str) else encode_value(value)
    return value if len(text) <= MAX_PART_LENGTH else text[:MAX_PART_LENGTH]


def _argument(value: object) -> Any:
    # An argument that would arrive changed is stored as its str(), so that the message of the exception stays the same.
    plain = _as_plain_json(value)
    return plain if are_equal(plain, value) else safe_str(value)


def _as_plain_json(value: object) -> Any:
    """Return the value as it arrives without a declared type, ``None`` if it is not JSON."""
    if isinstance(value, Iterator):
        return None  # Reading an iterator would use it up.
    try:
        return from_json(encode_value(value))
    except InvalidValueError:
        return None


def _rebuild(record: _Record, budget: Iterator[int]) -> Exception:
    kind = _imported(record.type)
    try:
        error = _make(kind, record, budget) if kind else None
    except Exception:  # The stored arguments do not fit this type.
        error = None
    if error is None:
        error = RecordedError(record.type, record.message or ", ".join(map(str, record.args)))
    for note in record.notes:
        BaseException.add_note(error, note)
    if record.cause is not None:
        error.__cause__ = _rebuild(record.cause, budget)
    return error


def _make(kind: type[Exception], record: _Record, budget: Iterator[int]) -> Exception:
    if _is_dbos_error(kind):
        dbos_error = kind(*record.args)
        str(dbos_error)  # raises if the stored arguments are not those of such an error
        return dbos_error
    # The type's own __new__ and __init__ are not called: a received exception must not run code.
    built_in: Any = next(base for base in kind.__mro__ if base.__module__ == "builtins")
    if issubclass(kind, ExceptionGroup):
        # zip takes from the members first, so that none is left when the budget is: as many were recorded.
        members = [_rebuild(member, budget) for member, _ in zip(record.exceptions, budget, strict=False)]
        error: Exception = built_in.__new__(kind, str(record.args[0]), members or [RecordedError(record.type, "…")])
    else:
        error = built_in.__new__(kind, *record.args)
        vars(BaseException)["args"].__set__(error, tuple(record.args))
    attributes = dict(record.attributes)
    if issubclass(kind, _UNICODE_ERRORS):
        _fill_unicode_error(error, record.args, base64.urlsafe_b64decode(attributes.pop("object")))
    for base, names in _FIELDS:
        if issubclass(kind, base):
            for name in attributes.keys() & names:
                vars(base)[name].__set__(error, attributes.pop(name))
    vars(error).update((name, value) for name, value in attributes.items() if _may_be_set(name))
    if kind.__module__ == "builtins":
        str(error)  # Raises, as above.
    return error


def _fill_unicode_error(error: Exception, arguments: list[Any], data: bytes) -> None:
    *encoding, _, start, end, reason = arguments
    broken = data if isinstance(error, UnicodeDecodeError) else data.decode("utf-8", "surrogatepass")
    if not 0 <= start <= end <= len(broken):
        raise ValueError("The positions of this Unicode error are outside of its object.")
    base = next(base for base in _UNICODE_ERRORS if isinstance(error, base))
    # Only the built-in __init__ can set these fields. It checks its arguments.
    vars(base)["__init__"](error, *encoding, broken, start, end, reason)


def _imported(name: str) -> type[Exception] | None:
    module_name, _, qualified_name = name.partition(":")
    found: Any = sys.modules.get(module_name)
    for part in qualified_name.split("."):
        # Look only into the dictionaries of modules and classes: reading an attribute may run code.
        found = vars(found).get(part) if isinstance(found, (type, ModuleType)) else None
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _is_dbos_error(kind: type[BaseException]) -> bool:
    return issubclass(kind, DBOSError) and kind.__module__ == DBOSError.__module__


def _may_be_set(name: str) -> bool:
    return not name.startswith("__") and not hasattr(BaseException, name)


def _name(error: BaseException) -> str:
    return utf8_safe(f"{type(error).__module__}:{type(error).__qualname__}")
