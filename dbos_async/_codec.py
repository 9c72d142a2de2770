"""Values and exceptions as JSON and back, by pydantic. Nothing is pickled, and nothing received can run code or trigger an import.

A declared type is checked where a value leaves and restored where it arrives. An undeclared value travels as plain JSON.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from dbos_async.errors import DBOSError, InvalidValueError, RecordedError

DEEPEST_CAUSE = 8
MOST_MEMBERS = 50

_CONFIG = ConfigDict(ser_json_inf_nan="constants", ser_json_bytes="base64", val_json_bytes="base64")


def encode(
    value: object, declared: Any = Any, *, what: str = "The value", error: type[InvalidValueError] = InvalidValueError
) -> str:
    """The JSON text of a value. One that is not JSON, or does not fit its declared type, raises ``error``."""
    try:
        data = to_json(value) if declared is Any else adapter(declared).dump_json(value, warnings="error")
        if declared is not Any or b"NaN" in data or b"Infinity" in data or type(value) is dict:
            _check(value, data, declared)
        return data.decode()
    except ValidationError as misfit:
        raise error(what, _first(misfit), misfit.errors(include_url=False, include_context=False)) from None
    except (PydanticSerializationError, PydanticUserError, ValueError, TypeError, RecursionError) as problem:
        raise error(what, _one_line(problem)) from None


def decode(
    text: str | None,
    declared: Any = Any,
    *,
    what: str = "The value",
    error: type[InvalidValueError] = InvalidValueError,
) -> Any:
    """The value of a JSON text; ``None`` (SQL null) is ``None``. One that does not fit its declared type raises ``error``."""
    if text is None:
        return None
    try:
        if declared is Any:
            return from_json(text)
        return adapter(declared).validate_json(text)
    except ValidationError as misfit:
        raise error(what, _first(misfit), misfit.errors(include_url=False, include_context=False)) from None
    except (ValueError, RecursionError) as problem:
        raise error(what, _one_line(problem)) from None


def adapter(declared: Any) -> TypeAdapter[Any]:
    """The checker of a type, made once for each."""
    try:
        return _cached_adapter(declared)
    except TypeError:  # an unhashable type, such as Annotated with a list in it
        return _new_adapter(declared)


def _new_adapter(declared: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(declared, config=_CONFIG)
    except PydanticUserError as problem:
        if problem.code != "type-adapter-config-unused":
            raise
        return TypeAdapter(declared)  # a model, dataclass or TypedDict has a configuration of its own


_cached_adapter = functools.lru_cache(maxsize=4096)(_new_adapter)


def encode_error(error: BaseException) -> str:
    """An exception as JSON: its type by name, its message, arguments and attributes as far as they are JSON. Never raises."""
    return to_json(_describe(error, DEEPEST_CAUSE)).decode()


def decode_error(text: str) -> Exception:
    """The exception again, if its type is imported here; else a `RecordedError` that names it. Never raises."""
    try:
        return _rebuild(from_json(text), DEEPEST_CAUSE)
    except (ValueError, RecursionError):
        return RecordedError("an unreadable record", text[:200])


def _check(value: object, data: bytes, declared: Any) -> None:
    if declared is Any:
        # What JSON cannot say would come back as something else: a NaN, an infinity, or a key that is no text.
        from_json(data, allow_inf_nan=False)
        if type(value) is dict:
            for key in value:
                if not isinstance(key, str):
                    raise TypeError(f"the key {key!r:.100} is a {type(key).__name__} and JSON keys are str")
    else:
        adapter(declared).validate_json(data)
        from_json(data, allow_inf_nan=False)


def _describe(error: BaseException, depth: int) -> dict[str, Any]:
    kind = type(error)
    record: dict[str, Any] = {"type": f"{kind.__module__}:{kind.__qualname__}", "message": _message(error)}
    arguments = error.args[:1] if isinstance(error, BaseExceptionGroup) else error.args
    record["args"] = [_plain(argument) for argument in arguments]
    attributes = {name: value for name, value in vars(error).items() if name != "__notes__" and _is_plain(value)}
    if attributes:
        record["attributes"] = attributes
    notes = [str(note) for note in getattr(error, "__notes__", ())]
    if notes:
        record["notes"] = [_clean(note) for note in notes]
    if depth:
        if error.__cause__ is not None:
            record["cause"] = _describe(error.__cause__, depth - 1)
        if isinstance(error, BaseExceptionGroup):
            record["exceptions"] = [_describe(member, depth - 1) for member in error.exceptions[:MOST_MEMBERS]]
    return record


def _rebuild(record: Any, depth: int) -> Exception:
    if not isinstance(record, dict) or not isinstance(record.get("type"), str):
        return RecordedError("an unreadable record", repr(record)[:200])
    name, message = record["type"], str(record.get("message", ""))
    arguments = record.get("args")
    arguments = arguments if isinstance(arguments, list) else []
    kind = _imported(name)
    error: Exception | None = None
    if kind is not None:
        try:
            if issubclass(kind, DBOSError) and kind.__module__ == DBOSError.__module__:
                error = kind(*arguments)
            elif issubclass(kind, ExceptionGroup):
                members = [_rebuild(member, depth - 1) for member in record.get("exceptions", [])] if depth else []
                error = kind.__new__(kind, message if not arguments else str(arguments[0]), members)
            else:
                # Without its own __new__ and __init__: nothing that was received decides what runs here.
                built_in = next(base for base in kind.__mro__ if base.__module__ == "builtins")
                error = built_in.__new__(kind, *arguments)
                error.args = tuple(arguments)
                attributes = record.get("attributes")
                if isinstance(attributes, dict):
                    vars(error).update(attributes)
        except Exception:
            error = None
    if error is None:
        error = RecordedError(name, message)
    notes = record.get("notes")
    for note in notes if isinstance(notes, list) else ():
        error.add_note(str(note))
    if depth and isinstance(record.get("cause"), dict):
        error.__cause__ = _rebuild(record["cause"], depth - 1)
    return error


def _imported(name: str) -> type[Exception] | None:
    module_name, _, qualified_name = name.partition(":")
    found: Any = sys.modules.get(module_name)
    for part in qualified_name.split("."):
        # Through the dictionaries of modules and classes only: reading an attribute may run code.
        found = vars(found).get(part) if isinstance(found, (type, type(sys))) else None
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _plain(value: object) -> Any:
    return value if _is_plain(value) else _clean(_shown(value))


def _is_plain(value: object) -> bool:
    try:
        return bool(from_json(to_json(value), allow_inf_nan=False) == value)
    except Exception:
        return False


def _message(error: BaseException) -> str:
    return _clean(_shown(error))


def _shown(value: object) -> str:
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _first(misfit: ValidationError) -> str:
    first, *others = misfit.errors(include_url=False, include_context=False)
    place = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(others)} more)" if others else ""
    return _clean(f"{place + ': ' if place else ''}{first['msg']}{more}")


def _one_line(problem: BaseException) -> str:
    return _clean(" ".join(str(problem).split())).rstrip(".")[:500]
