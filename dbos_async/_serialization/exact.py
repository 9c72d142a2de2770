"""Whether a value arrives as it was sent: of the same type, with the same fields, zone and flags, and not only equal.

``==`` is not enough: ``True == 1``, a subclass of str equals its text, a datetime equals the same moment in another zone. What
is compared is decided by the declared type (`shapes.Shape`): what it leaves open arrives as plain JSON, and what it serializes by a
function of its own may be changed by that function.
"""

from __future__ import annotations

import dataclasses
import functools
import marshal
import math
import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from datetime import datetime, time, timezone, tzinfo
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from uuid import UUID

from asyncpg.pgproto import pgproto
from pydantic import BaseModel, SecretBytes, SecretStr
from pydantic_core import TzInfo

from dbos_async._serialization.shapes import Shape

MAX_KINDS: Final = 4096
NOT_FINITE: Final = "it has a NaN, an infinity or a number outside the range of float, which JSON cannot represent"
SIMPLE: Final = frozenset((type(None), bool, int, str))
STAND_INS: Final[dict[type, type]] = {pgproto.UUID: UUID}
"""Classes that stand for one of Python's, and differ from it in nothing that is seen: asyncpg reads each UUID as its own."""
_JSON_TYPES: Final = frozenset((type(None), bool, int, float, str, list, dict))

_Check = Callable[[Any, Any, Shape], None]


def check_same(value: Any, again: Any, shape: Shape) -> None:
    """Raise if ``value`` differs in any respect from ``again``, the value of its JSON."""
    kind = type(value)
    if kind is not type(again):
        _check_kinds(value, again, shape)
    elif value is not again:
        _check_of(kind)(value, again, shape)


def _find_check(kind: Any) -> _Check:
    """How two values of one class are compared."""
    known = _OF_KINDS.get(kind)
    if known is not None:
        return known
    if issubclass(kind, BaseModel):
        return _check_model
    if dataclasses.is_dataclass(kind):
        return _check_fields
    if issubclass(kind, Enum):
        return _check_member
    for base, check in ((tuple, _check_items), (list, _check_items), (dict, _check_dict), (AbstractSet, _check_set)):
        if issubclass(kind, base):
            return check
    return _check_object


_check_of: Callable[[type], _Check] = functools.lru_cache(maxsize=MAX_KINDS)(_find_check)


def _identical(one: Any, other: Any) -> bool:
    """Whether two values are of plain types only, the same ones, and equal. This takes about as long as ``==``."""
    try:
        # It writes no subclass of a plain type. Version 2 writes equal texts in one way.
        return marshal.dumps(one, 2) == marshal.dumps(other, 2)
    except ValueError:
        return False


def _check_kinds(value: Any, again: Any, shape: Shape) -> None:
    sent, arrived = type(value), type(again)
    if sent is int and arrived is float and (value == again or shape.is_own):
        return  # Wherever a float is declared, Python's type checkers allow an int.
    if STAND_INS.get(sent) is arrived and value == again:
        return
    check_plain(value, objects=True)
    if not (shape.is_open and arrived in _JSON_TYPES and sent not in _JSON_TYPES):
        names = sent.__qualname__, arrived.__qualname__
        if names[0] == names[1]:
            names = f"{sent.__module__}.{names[0]}", f"{arrived.__module__}.{names[1]}"
        raise TypeError(f"its type is or has {names[0]}, which would arrive as {names[1]}")


def _check_plain_collection(value: Any, again: Any, shape: Shape) -> None:
    if not _identical(value, again):
        _check_collection[type(value)](value, again, shape)


def _check_items(value: Any, again: Any, shape: Shape) -> None:
    if len(value) != len(again) and not shape.is_own:
        raise _would_arrive(value, again)
    shape = shape.member(type(value))
    if isinstance(value, tuple):
        for place, (one, other) in enumerate(zip(value, again, strict=False)):
            check_same(one, other, shape.part(place))
        return
    part = shape.part(0)
    for one, other in zip(value, again, strict=False):
        check_same(one, other, part)


def _check_deque(value: deque[Any], again: deque[Any], shape: Shape) -> None:
    if value.maxlen != again.maxlen:
        raise ValueError(f"its deque has a maxlen ({value.maxlen}), which would be lost")
    _check_items(value, again, shape)


def _check_dict(value: dict[Any, Any], again: dict[Any, Any], shape: Shape) -> None:
    if lost := value.keys() - again.keys():
        check_plain(value, objects=False)
        raise ValueError(f"its key {next(iter(lost))!r:.100} would be lost")
    if any(type(key) is not str for key in value):
        keys = {key: key for key in again}
        for key in value:
            check_same(key, keys[key], shape.part(None))
    for key, item in value.items():
        check_same(item, again[key], shape.part(key))


def _check_defaultdict(value: defaultdict[Any, Any], again: defaultdict[Any, Any], shape: Shape) -> None:
    if value.default_factory is not again.default_factory and not shape.is_own:
        raise ValueError("the default_factory of its defaultdict would be lost")
    _check_dict(value, again, shape)


def _check_set(value: AbstractSet[Any], again: AbstractSet[Any], shape: Shape) -> None:
    items, part = {item: item for item in again}, shape.part(0)
    for item in value:
        if item in items:
            check_same(item, items[item], part)
        elif part.is_open and type(item) not in _JSON_TYPES:
            check_plain(item, objects=True)
        elif not shape.is_own:
            raise ValueError(f"its item {item!r:.100} would be lost")


def _check_model(value: BaseModel, again: BaseModel, shape: Shape) -> None:
    extra = value.__pydantic_extra__
    # As the fields of most models are plain, this is the usual end. It takes less time than the models' own ==.
    if not extra and _identical(value.__dict__, again.__dict__):
        return
    shape = shape.member(type(value))
    found, others = value.__dict__, again.__dict__
    kind: Any = type(value)
    for name in field_names(kind):
        check_same(found.get(name), others.get(name), shape.part(name))
    if extra:
        _check_dict(extra, again.__pydantic_extra__ or {}, shape)


def _check_fields(value: Any, again: Any, shape: Shape) -> None:
    shape = shape.member(type(value))
    kind: Any = type(value)
    for name in field_names(kind):
        check_same(getattr(value, name, None), getattr(again, name, None), shape.part(name))


def _check_time(value: datetime | time, again: datetime | time, shape: Shape) -> None:
    if shape.is_own:
        return
    if value.fold:
        raise ValueError("it has a time with fold=1, which would be lost: give it an offset from UTC")
    sent, arrived = value.tzinfo, again.tzinfo
    if sent is not arrived and not _same_zone(sent, arrived):
        raise ValueError(
            f"it has a time in the zone {sent!r:.100}, which would arrive as {arrived!r}: "
            "convert it with .astimezone(datetime.UTC), and send the name of the zone beside it"
        )
    if value != again:
        raise _would_arrive(value, again)


def _same_zone(one: tzinfo | None, other: tzinfo | None) -> bool:
    # pydantic's own class of offsets, which its models have, stands for an offset without a name as Python's does.
    if type(one) is TzInfo:
        return one == other
    return type(one) is timezone and one == other and one.tzname(None) == timezone(one.utcoffset(None)).tzname(None)


def _check_pattern(value: re.Pattern[Any], again: re.Pattern[Any], shape: Shape) -> None:
    if value.flags != again.flags and not shape.is_own:
        raise ValueError(
            f"its pattern has the flags {re.RegexFlag(value.flags & ~re.UNICODE)!r}, which would be lost: "
            "write them into the pattern, as in (?i)"
        )
    _check_object(value, again, shape)


def _check_number(value: Any, again: Any, shape: Shape) -> None:
    # Different numbers of these classes may be equal: 1.1 and 1.10, or -0j and 0j.
    if repr(value) != repr(again) and not shape.is_own:
        raise _would_arrive(value, again)


def _check_member(value: Enum, again: Enum, shape: Shape) -> None:
    # Two members may have one JSON, as those of a date and of its text.
    if value is not again and not shape.is_own:
        raise ValueError(f"its {value!s:.100} would arrive as {again!s:.100}")


def _check_object(value: Any, again: Any, shape: Shape) -> None:
    # Objects without a comparison of their own are taken as they are.
    if not shape.is_own and not are_equal(value, again) and _has_comparison(type(value)):
        check_plain(value, objects=False)
        raise _would_arrive(value, again)


def _has_comparison(kind: Any) -> bool:
    return kind.__eq__ is not object.__eq__


_check_collection: Final[dict[type, _Check]] = {
    list: _check_items, tuple: _check_items, dict: _check_dict, set: _check_set, frozenset: _check_set
}  # fmt: skip
_OF_KINDS: Final[dict[type, _Check]] = {
    **dict.fromkeys(_check_collection, _check_plain_collection),
    **dict.fromkeys((datetime, time), _check_time),
    **dict.fromkeys((float, complex, Decimal), _check_number),
    deque: _check_deque, defaultdict: _check_defaultdict, re.Pattern: _check_pattern,
}  # fmt: skip


def _would_arrive(value: object, again: object) -> ValueError:
    return ValueError(f"its {type(value).__qualname__} {value!r:.100} would arrive as {again!r:.100}")


def check_plain(value: Any, *, objects: bool, keys: bool = True) -> None:
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
        raise ValueError(NOT_FINITE)
    elif isinstance(value, (SecretStr, SecretBytes)):
        raise ValueError("it has a secret, of which JSON shows only stars")
    elif objects and type(value) not in _JSON_TYPES:
        # its own serializer decides about its keys
        kind: Any = type(value)
        items, keys = [getattr(value, name, None) for name in field_names(kind)], False
    for item in items:
        if type(item) not in SIMPLE:
            check_plain(item, objects=objects, keys=keys)


@functools.lru_cache(maxsize=MAX_KINDS)
def field_names(kind: type) -> list[str]:
    """The fields of a model or dataclass that are in its JSON and count in a comparison, ``[]`` for any other class."""
    if issubclass(kind, BaseModel):
        return [name for name, field in kind.model_fields.items() if not field.exclude]
    return [field.name for field in dataclasses.fields(kind) if field.compare] if dataclasses.is_dataclass(kind) else []


def are_equal(one: object, other: object) -> bool:
    """Return whether two values are equal, and true if their comparison fails."""
    try:
        return bool(one == other)
    except Exception:  # The __eq__ of a user's class may raise anything.
        return True
