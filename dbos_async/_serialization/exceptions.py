"""Exceptions as JSON and back. A received exception cannot run code or trigger an import.

An exception comes back as the same type if this process has imported that type, or raised it itself, else as a `RecordedError`
that names it. ``str`` of it is what it was: if the stored fields do not suffice for that, the text itself is kept.
"""

from __future__ import annotations

import base64
import sys
from abc import ABCMeta
from collections.abc import Iterator
from types import ModuleType
from typing import Annotated, Any, cast

from pydantic import BaseModel, Field, ValidationError

from dbos_async._serialization import bounded, error_fields, local_classes, tracebacks, validation_errors
from dbos_async._serialization.error_fields import Told
from dbos_async._serialization.validation_errors import Validation
from dbos_async._serialization.values import EXCERPT_LENGTH, encode_value, safe_str, type_adapter, utf8_safe
from dbos_async.errors import DBOSError, RecordedError

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
_SAYS_FOR = "__says_text_for__"
_UNICODE_ERRORS = (UnicodeDecodeError, UnicodeEncodeError, UnicodeTranslateError)


def encode_error(error: BaseException) -> str:
    """Return an exception as JSON. Never raises.

    The JSON has the name of its type, its message, and its arguments and attributes as far as they are JSON.
    """
    try:
        record = _describe(error, MAX_ERROR_DEPTH, iter(range(MAX_ERRORS)))
    except Exception:  # The arguments, attributes and causes of a user's class may raise anything when they are read.
        record = _Record(type=_name(error), message=safe_str(error))
        record.keeps_text = isinstance(error, Exception) and _needs_text(record)
    text = record.model_dump_json(exclude_defaults=True)
    if len(text) > MAX_ERROR_LENGTH:
        record.notes = [f"Most of this error is not recorded: it had {len(text):,} characters."]
        record.message, record.cause, record.exceptions = record.message[:MAX_PART_LENGTH], None, []
        record.told_args, record.told, record.validation = {}, {}, None
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
    told_args: dict[int, Told] = {}
    told: dict[str, Told] = {}
    """What the arguments and attributes were that are no JSON."""
    traceback: str = ""
    """Where it was raised, as Python shows it: to be read, and never more."""
    keeps_text: bool = False
    """Whether the message has to be kept, because the stored fields make another one."""
    local: str = ""
    """Which class of the process it is, if it cannot be imported by its name."""
    validation: Validation | None = None
    cause: _Record | None = None
    exceptions: Annotated[list[_Record], Field(max_length=MAX_ERRORS)] = []


def _describe(error: BaseException, depth: int, budget: Iterator[int]) -> _Record:
    record = _Record(
        type=_name(error), message=safe_str(error), traceback=tracebacks.text_of(error, depth == MAX_ERROR_DEPTH)
    )
    if not _is_dbos_error(type(error)):
        _describe_attributes(record, error)
    if isinstance(error, ValidationError):
        record.validation = validation_errors.describe(error, record.message)
    notes = vars(error).get("__notes__")  # A __getattr__ of its class may need what is not stored, and raise anything.
    record.notes = [safe_str(note) for note in notes] if isinstance(notes, list) else []
    if (
        isinstance(error, ValidationError)
        and record.validation
        and (missing := error.error_count() - len(record.validation.lines))
    ):
        record.notes.append(f"{missing} more errors of this validation are not recorded.")
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
        _describe_args(record, error.args[:MAX_ARGS])
        if missing := len(error.args) - len(record.args):
            record.notes.append(f"{missing} more arguments of this error are not recorded.")
    if isinstance(error, Exception):
        record.local = local_classes.name_of(cast("Any", _real(error)), _found(record.type))
        record.keeps_text = _needs_text(record)
    return record


def _needs_text(record: _Record) -> bool:
    """Whether the error that is made of the record says something else. Only where it is raised may its own code be run."""
    kind = _class_of(record)
    try:
        made = _make(kind, record, iter(range(MAX_ERRORS))) if kind is not None else None
    except Exception:  # It cannot be made, and will come back as a RecordedError.
        return False
    try:
        return made is not None and utf8_safe(str(made)) != record.message
    except Exception:  # Its __str__ needs what is not stored.
        return True


def _describe_args(record: _Record, args: tuple[Any, ...]) -> None:
    for place, value in enumerate(args):
        stored, told = error_fields.argument(value)
        record.args.append(stored)
        if told is not None:
            record.told_args[place] = told


def _describe_attributes(record: _Record, error: BaseException) -> None:
    found = {name: value for name, value in vars(error).items() if _may_be_set(name)}
    for base, names in _FIELDS:
        if isinstance(error, base):
            found.update((name, value) for name in names if (value := getattr(error, name)) is not None)
    if isinstance(error, _UNICODE_ERRORS):
        broken = error.object
        found["object"] = broken if isinstance(broken, bytes) else broken.encode("utf-8", "surrogatepass")
    for name, value in found.items():
        plain = error_fields.as_plain_json(value)
        if plain is None and value is not None:
            continue
        record.attributes[utf8_safe(name)] = plain
        told = error_fields.told_of(value)
        if told is not None and not isinstance(error, _UNICODE_ERRORS):
            record.told[utf8_safe(name)] = told


def _shortened(value: Any) -> Any:
    # A short value keeps its type, because the message of the exception may be made of it.
    text = value if isinstance(value, str) else encode_value(value)
    return value if len(text) <= MAX_PART_LENGTH else text[:MAX_PART_LENGTH]


def _rebuild(record: _Record, budget: Iterator[int]) -> Exception:
    kind = _class_of(record)
    if kind is not None and record.keeps_text and record.validation is None and not _is_dbos_error(kind):
        kind = _with_text(kind, record.message)
    try:
        error = _make(kind, record, budget) if kind else None
    except Exception:  # The stored arguments do not fit this type.
        error = None
    if error is None:
        error = RecordedError(record.type, record.message or ", ".join(map(str, record.args)))
    if record.notes or _asks_elsewhere(type(error)):
        vars(error)["__notes__"] = list(record.notes)  # to add or look for a note may run code of the class
    if record.traceback:
        tracebacks.keep(error, record.traceback)
    if record.cause is not None:
        error.__cause__ = _rebuild(record.cause, budget)
    return error


class _Quiet:
    """A base that comes before a class of a user: no ``__init_subclass__`` of that class is run."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        """Do nothing."""


def _with_text(kind: type[Exception], text: str) -> type[Exception]:
    """Return a class that is caught as this one and says this text. No code of the class is run."""
    meta: Any = type(kind)
    if meta not in (type, ABCMeta):
        return kind

    def say(_: BaseException) -> str:
        return text

    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, _SAYS_FOR: kind}
    try:
        return cast(
            "type[Exception]", meta(kind.__name__, (_Quiet, kind), {**names, "__str__": say, "__reduce__": _reduce})
        )
    except TypeError:  # A class of an extension may have no subclasses.
        return kind


def _real(error: BaseException) -> type[BaseException]:
    """The class of an error, also of one that says its text by a class of its own."""
    kind: type[BaseException] = vars(type(error)).get(_SAYS_FOR, type(error))
    return kind


def _reduce(error: BaseException) -> Any:
    return decode_error, (encode_error(error),)


def _make(kind: type[Exception], record: _Record, budget: Iterator[int]) -> Exception:
    if kind is ValidationError and record.validation is not None:
        return validation_errors.rebuild(record.validation)
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
        told = record.told_args
        args = tuple(error_fields.restored(value, told.get(place), _named) for place, value in enumerate(record.args))
        error = built_in.__new__(kind, *args)
        vars(BaseException)["args"].__set__(error, args)
    found = record.attributes.items()
    attributes = {name: error_fields.restored(value, record.told.get(name), _named) for name, value in found}
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


def _asks_elsewhere(kind: type[Exception]) -> bool:
    """Whether the class has code for attributes that are not there, which may need what is not stored."""
    return any("__getattr__" in vars(base) for base in kind.__mro__)


def _fill_unicode_error(error: Exception, arguments: list[Any], data: bytes) -> None:
    *encoding, _, start, end, reason = arguments
    broken = data if isinstance(error, UnicodeDecodeError) else data.decode("utf-8", "surrogatepass")
    if not 0 <= start <= end <= len(broken):
        raise ValueError("The positions of this Unicode error are outside of its object.")
    base = next(base for base in _UNICODE_ERRORS if isinstance(error, base))
    # Only the built-in __init__ can set these fields. It checks its arguments.
    vars(base)["__init__"](error, *encoding, broken, start, end, reason)


def _class_of(record: _Record) -> type[Exception] | None:
    return (local_classes.named(record.local) if record.local else None) or _found(record.type)


def _found(name: str) -> type[Exception] | None:
    found = _named(name)
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _named(name: str) -> Any:
    """Return what this process has imported under a name."""
    module_name, _, qualified_name = name.partition(":")
    found: Any = sys.modules.get(module_name)
    for part in qualified_name.split("."):
        # Look only into the dictionaries of modules and classes: reading an attribute may run code.
        found = vars(found).get(part) if isinstance(found, (type, ModuleType)) else None
    return found


def _is_dbos_error(kind: type[BaseException]) -> bool:
    return issubclass(kind, DBOSError) and kind.__module__ == DBOSError.__module__


def _may_be_set(name: str) -> bool:
    return not name.startswith("__") and not hasattr(BaseException, name)


def _name(error: BaseException) -> str:
    return utf8_safe(f"{type(error).__module__}:{type(error).__qualname__}")
