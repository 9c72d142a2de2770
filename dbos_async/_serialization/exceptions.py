"""Exceptions as JSON and back. Nothing received can run code or trigger an import.

An exception comes back as the same type if that type is imported here, else as a `RecordedError` that names it.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from pydantic import BaseModel
from pydantic_core import from_json

from dbos_async._serialization.values import EXCERPT, clean, encode, equal, shown
from dbos_async.errors import DBOSError, InvalidValueError, RecordedError

MAX_ERROR_DEPTH = 8
MAX_ERRORS = 100
MAX_ERROR_LENGTH = 1 << 20
MAX_PART_LENGTH = 1000

# What built-in exceptions keep outside of their arguments and attributes.
_FIELDS: tuple[tuple[type[Exception], tuple[str, ...]], ...] = (
    (OSError, ("errno", "strerror", "filename", "filename2")),
    (ImportError, ("msg", "name", "path")),
    (SyntaxError, ("msg", "filename", "lineno", "offset", "text", "end_lineno", "end_offset")),
)
_UNICODE_ERRORS = (UnicodeDecodeError, UnicodeEncodeError, UnicodeTranslateError)


def encode_error(error: BaseException) -> str:
    """An exception as JSON: its type by name, its message, arguments and attributes as far as they are JSON. Never raises."""
    try:
        record = _describe(error, MAX_ERROR_DEPTH, iter(range(MAX_ERRORS)))
    except Exception:  # A class may do anything with its arguments, attributes and causes: its name is left.
        record = _Record(type=_name(error), message=shown(error))
    text = record.model_dump_json(exclude_defaults=True)
    if len(text) > MAX_ERROR_LENGTH:
        record.notes = [f"Most of this error is not recorded: it had {len(text):,} characters."]
        record.message, record.cause, record.exceptions = record.message[:MAX_PART_LENGTH], None, []
        record.args = [_shortened(argument) for argument in record.args[:MAX_ERRORS]]
        record.attributes = {name: _shortened(record.attributes[name]) for name in [*record.attributes][:MAX_ERRORS]}
        text = record.model_dump_json(exclude_defaults=True)
    return text


def decode_error(text: str, of: str = "") -> Exception:
    """The exception again, if its type is imported here; else a `RecordedError` that names it. Never raises.

    ``of`` says whose error it is, for the case that the record is none.
    """
    try:
        return _rebuild(_Record.model_validate_json(text, strict=True))
    except (ValueError, RecursionError):
        return RecordedError(f"an unreadable record of {of}" if of else "an unreadable record", text[:EXCERPT])


class _Record(BaseModel):
    """A stored exception. Only its type, ``module:qualname``, must be there."""

    type: str
    message: str = ""
    args: list[Any] = []
    attributes: dict[str, Any] = {}
    notes: list[str] = []
    cause: _Record | None = None
    exceptions: list[_Record] = []


def _describe(error: BaseException, depth: int, room: Iterator[int]) -> _Record:
    record = _Record(type=_name(error), message=shown(error))
    if not _is_ours(type(error)):
        record.attributes = _attributes(error)
    notes = getattr(error, "__notes__", None)
    record.notes = [shown(note) for note in notes] if isinstance(notes, list) else []
    # One exception may stand in many places: what is recorded of all causes and members together is bounded.
    if depth and error.__cause__ is not None and next(room, None) is not None:
        record.cause = _describe(error.__cause__, depth - 1, room)
    if isinstance(error, BaseExceptionGroup):
        record.args = [shown(error.message)]
        places = zip(error.exceptions, room, strict=False) if depth else ()
        record.exceptions = [_describe(member, depth - 1, room) for member, _ in places]
        if missing := len(error.exceptions) - len(record.exceptions):
            record.notes.append(f"{missing} more errors of this group are not recorded.")
    else:
        record.args = [_told(argument) for argument in error.args]
    return record


def _attributes(error: BaseException) -> dict[str, Any]:
    found = {name: value for name, value in vars(error).items() if _may_be_set(name)}
    for base, names in _FIELDS:
        if isinstance(error, base):
            found.update((name, value) for name in names if (value := getattr(error, name)) is not None)
    if isinstance(error, _UNICODE_ERRORS):
        broken = error.object
        found["object"] = broken if isinstance(broken, bytes) else broken.encode("utf-8", "surrogatepass")
    plain = {name: _plain(value) for name, value in found.items()}
    return {clean(name): value for name, value in plain.items() if value is not None or found[name] is None}


def _shortened(value: Any) -> Any:
    # What its message may be made of keeps its type as far as it can.
    whole = value if isinstance(value, str) else encode(value)
    return value if len(whole) <= MAX_PART_LENGTH else whole[:MAX_PART_LENGTH]


def _told(value: object) -> Any:
    # An argument that would arrive as something else is told as str() does, so that the message stays the same.
    plain = _plain(value)
    return plain if equal(plain, value) else shown(value)


def _plain(value: object) -> Any:
    """The value as it arrives when nothing is declared, ``None`` if it is not JSON."""
    if isinstance(value, Iterator):
        return None  # To look at it would use it up.
    try:
        return from_json(encode(value))
    except InvalidValueError:
        return None


def _rebuild(record: _Record) -> Exception:
    kind = _imported(record.type)
    try:
        error = _make(kind, record) if kind else None
    except Exception:  # What was stored does not make one of these.
        error = None
    if error is None:
        error = RecordedError(record.type, record.message or ", ".join(map(str, record.args)))
    for note in record.notes:
        BaseException.add_note(error, note)
    if record.cause is not None:
        error.__cause__ = _rebuild(record.cause)
    return error


def _make(kind: type[Exception], record: _Record) -> Exception:
    if _is_ours(kind):
        ours = kind(*record.args)
        str(ours)  # raises if its arguments are not what it was made of
        return ours
    # Without its own __new__ and __init__: nothing that was received decides what runs here.
    built_in: Any = next(base for base in kind.__mro__ if base.__module__ == "builtins")
    if issubclass(kind, ExceptionGroup):
        members = [_rebuild(member) for member in record.exceptions]
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
        str(error)  # As above.
    return error


def _fill_unicode_error(error: Exception, arguments: list[Any], data: bytes) -> None:
    *encoding, _, start, end, reason = arguments
    broken = data if isinstance(error, UnicodeDecodeError) else data.decode("utf-8", "surrogatepass")
    if not 0 <= start <= end <= len(broken):
        raise ValueError("The message of this error would be read from beyond its object.")
    base = next(base for base in _UNICODE_ERRORS if isinstance(error, base))
    # A built-in __init__, which checks what it gets: nothing else can fill such an error.
    vars(base)["__init__"](error, *encoding, broken, start, end, reason)


def _imported(name: str) -> type[Exception] | None:
    module_name, _, qualified_name = name.partition(":")
    found: Any = sys.modules.get(module_name)
    for part in qualified_name.split("."):
        # Through the dictionaries of modules and classes only: reading an attribute may run code.
        found = vars(found).get(part) if isinstance(found, (type, ModuleType)) else None
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _is_ours(kind: type[BaseException]) -> bool:
    return issubclass(kind, DBOSError) and kind.__module__ == DBOSError.__module__


def _may_be_set(name: str) -> bool:
    return not name.startswith("__") and not hasattr(BaseException, name)


def _name(error: BaseException) -> str:
    return clean(f"{type(error).__module__}:{type(error).__qualname__}")
