"""Validation of values that a sender controls, in a time and memory linear in their size.

pydantic describes every wrong item of a value, which for a value of some megabytes takes a minute and gigabytes. Here a list, set
or dict ends at its first wrong item. And a set or dict of numbers takes a time that is quadratic in its size if a sender chose
numbers that all have one hash, which is easy, since Python's hashes of numbers have no secret. Here such a value is refused.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import datetime, time, timedelta, timezone
from threading import local
from typing import Any, Final, cast

from pydantic import TypeAdapter, ValidationError
from pydantic_core import CoreConfig, PydanticCustomError, SchemaValidator, TzInfo, core_schema, from_json, to_json

MAX_ADAPTERS: Final = 4096
MAX_ERRORS: Final = 10_000
"""A value with more errors than these is described without most of them."""
MAX_OF_ONE_HASH: Final = 100
"""How many different items of the sets and dicts of one value may have the same hash."""
SEARCHED: Final = 1 << 14
"""How many characters are searched for an example when a value has more errors than that."""

CORE_CONFIG: Final = CoreConfig(
    ser_json_inf_nan="constants", ser_json_bytes="base64", val_json_bytes="base64", allow_inf_nan=False
)
_HASHED: Final = {"set": "items_schema", "frozenset": "items_schema"} | dict.fromkeys(
    ("dict", "frozendict", "ordered-dict", "counter"), "keys_schema"
)
_ENDING_EARLY: Final = frozenset(("list", "deque", "tuple", *_HASHED))
_HASHED_WITH_SECRET: Final = frozenset(("str", "bytes", "bool", "none", "enum", "literal", "date", "time", "datetime"))
_TIMES: Final = frozenset(("datetime", "time"))
_NO_SCHEMAS: Final = frozenset(("metadata", "serialization", "default", "cls", "config", "expected", "members"))


class _Seen(local):
    """The items of the sets and the keys of the dicts of the value that this thread validates, by their hashes."""

    first: dict[int, Any]
    others: dict[int, list[Any]]


_seen = _Seen()


def validate_json(adapter: TypeAdapter[Any], data: str | bytes, *, strict: bool | None = None) -> Any:
    """Return the value of a large JSON text as a type. Raises pydantic's ``ValidationError``, with few errors."""
    return _validate(adapter, lambda checker: checker.validate_json(data, strict=strict, by_alias=True, by_name=True))


def validate_strictly(adapter: TypeAdapter[Any], value: object) -> Any:
    """Return a Python value if it is of a type. Raises pydantic's ``ValidationError``, with few errors."""
    return _validate(adapter, lambda checker: checker.validate_python(value, strict=True))


def errors_of(problem: ValidationError, adapter: TypeAdapter[Any], large: str | None) -> list[Any]:
    """Return pydantic's list of errors, but few for a value that has very many.

    ``large`` is the JSON text that has them if it is large. Then they come without their inputs, which may be large, too.
    """
    if problem.error_count() <= MAX_ERRORS:
        return problem.errors(include_url=False, include_context=False, include_input=large is None)
    # Only keys that a model forbids are described one by one. The beginning of the text may have an example of them.
    if large is not None:
        try:
            validate_json(adapter, to_json(from_json(large[:SEARCHED], allow_partial=True)))
        except ValidationError as smaller:
            if smaller.error_count() <= MAX_ERRORS:
                found = smaller.errors(include_url=False, include_context=False, include_input=False)
                if forbidden := [one for one in found if one["type"] == "extra_forbidden"]:
                    return forbidden
    return [{"type": "too_many_errors", "loc": (), "msg": "it does not fit its type in very many places"}]


def _validate(adapter: TypeAdapter[Any], check: Callable[[Any], Any]) -> Any:
    schema = schema_of(adapter)
    before = vars(_seen).copy()  # a validator of the user's may validate another value
    _seen.first, _seen.others = {}, {}
    try:
        return check(adapter if schema is None else _checker(adapter))
    finally:
        vars(_seen).clear()
        vars(_seen).update(before)


def schema_of(adapter: TypeAdapter[Any]) -> Any:
    """Return the schema of a type, ``None`` as long as it waits for a name that is not defined yet."""
    if not isinstance(adapter.core_schema, dict):
        adapter.rebuild(raise_errors=False)
    return adapter.core_schema if isinstance(adapter.core_schema, dict) else None


def validator_with_zones(adapter: TypeAdapter[Any]) -> SchemaValidator | TypeAdapter[Any]:
    """Return a validator of a type. It gives a time one of Python's own offsets, where pydantic's has one of another class."""
    if _has_times(adapter.core_schema):
        return _made(adapter, _with_zone)
    return adapter.validator if isinstance(adapter.validator, SchemaValidator) else adapter


@functools.lru_cache(maxsize=MAX_ADAPTERS)
def _checker(adapter: TypeAdapter[Any]) -> SchemaValidator | TypeAdapter[Any]:
    return _made(adapter, lambda schema, kind: _with_zone(_bounded(schema, kind), kind))


def _made(
    adapter: TypeAdapter[Any], change: Callable[[dict[str, Any], str], Any]
) -> SchemaValidator | TypeAdapter[Any]:
    make: Any = SchemaValidator
    try:
        schema = _rewritten(adapter.core_schema, change)
        try:
            # Without this option, which older releases do not need or have, a model would bring its own validator along.
            return make(schema, CORE_CONFIG, _use_prebuilt=False)  # type: ignore[no-any-return]
        except TypeError:
            return make(schema, CORE_CONFIG)  # type: ignore[no-any-return]
    except Exception:  # A schema of an unknown kind may fail in any way.
        return adapter


def _rewritten(schema: Any, change: Callable[[dict[str, Any], str], Any]) -> Any:
    """Return a pydantic schema in which every part is changed, the inner ones first."""
    if isinstance(schema, (list, tuple)):
        return type(schema)(_rewritten(part, change) for part in schema)
    if not isinstance(schema, dict):
        return schema
    kind = schema.get("type")
    made = {name: part if name in _NO_SCHEMAS else _rewritten(part, change) for name, part in schema.items()}
    # Without a kind it is a dict of schemas, in which "type" is the name of a field.
    return change(made, kind) if isinstance(kind, str) else made


def _bounded(schema: dict[str, Any], kind: str) -> dict[str, Any]:
    """Let a collection end at its first wrong item, and count the hashes of its items."""
    if kind in _ENDING_EARLY:
        schema["fail_fast"] = True
    items = schema.get(_HASHED.get(kind, ""))
    if items is not None and items["type"] not in _HASHED_WITH_SECRET:
        schema[_HASHED[kind]] = core_schema.no_info_after_validator_function(_check_hash, items)
    return schema


def _has_times(schema: Any) -> bool:
    if isinstance(schema, (list, tuple)):
        return any(map(_has_times, schema))
    if not isinstance(schema, dict):
        return False
    kind = schema.get("type")  # In a dict of schemas this is one of them.
    return (
        kind == "datetime"
        or kind == "time"
        or any(_has_times(part) for name, part in schema.items() if name not in _NO_SCHEMAS)
    )


def _with_zone(schema: dict[str, Any], kind: str) -> Any:
    if kind == "union":
        # The errors of a union name its members.
        schema["choices"] = [
            (one, one["schema"]["type"]) if isinstance(one, dict) and _is_of_times(one) else one
            for one in schema["choices"]
        ]
    if kind not in _TIMES:
        return schema
    wrapped: dict[str, Any] = {**core_schema.no_info_after_validator_function(_with_own_offset, cast("Any", schema))}
    if "ref" in schema:
        wrapped["ref"] = schema.pop("ref")
    return wrapped


def _is_of_times(schema: dict[str, Any]) -> bool:
    return schema.get("type") == "function-after" and schema["function"].get("function") is _with_own_offset


def _with_own_offset(moment: datetime | time) -> datetime | time:
    zone = moment.tzinfo
    return moment if type(zone) is not TzInfo else moment.replace(tzinfo=_own_offset(zone))


@functools.lru_cache(maxsize=MAX_ADAPTERS)
def _own_offset(zone: TzInfo) -> timezone:
    return timezone(zone.utcoffset(None) or timedelta(0))


def _check_hash(item: Any) -> Any:
    try:
        key = hash(item)
        first = _seen.first.setdefault(key, item)
        if first is item or first == item:
            return item
        others = _seen.others.setdefault(key, [])
        if item in others:
            return item
    except Exception:  # The __hash__ and __eq__ of a user's class may raise anything.
        return item
    if len(others) >= MAX_OF_ONE_HASH:
        problem = "Input should have at most {most} different items of the same hash"
        raise PydanticCustomError("too_many_of_one_hash", problem, {"most": MAX_OF_ONE_HASH})
    others.append(item)
    return item
