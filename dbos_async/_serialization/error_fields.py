"""The arguments and attributes of exceptions: as JSON, and as what they were where that can be had without running their code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel
from pydantic_core import from_json, to_json

from dbos_async._serialization.exact import STAND_INS, are_equal
from dbos_async._serialization.values import decode_value, encode_value, safe_str, utf8_safe
from dbos_async.errors import InvalidValueError

MAX_SHOWN: Final = 1000
_RESTORED: Final[dict[str, Any]] = {
    kind.__name__: kind for kind in (datetime, date, time, timedelta, Decimal, UUID, bytes, complex)
}


class Told(BaseModel):
    """What a field was that is no JSON: a value of a class of ``_RESTORED``, a member of an enum, or only its ``repr``."""

    type: str = ""
    member: str = ""
    shown: str = ""


class ToldText(str):
    """The text of an argument that is no JSON, which looks as that argument did, since messages are made of arguments."""

    __slots__ = ("shown",)
    shown: str

    def __repr__(self) -> str:
        return self.shown


def as_plain_json(value: object) -> Any:
    """Return the value as it arrives without a declared type, ``None`` if it is not JSON."""
    if isinstance(value, Iterator):
        return None  # Reading an iterator would use it up.
    try:
        return from_json(encode_value(value))
    except InvalidValueError:
        return None


def plain_and_same(value: object) -> tuple[Any, bool]:
    """Return the value as it arrives without a declared type, and whether that is equal."""
    plain = as_plain_json(value)
    return plain, are_equal(plain, value)


def argument(value: object) -> tuple[Any, Told | None]:
    """Return an argument as it is stored: its JSON, or its text if that would be another value, and what it was."""
    plain, is_same = plain_and_same(value)
    if is_same and type(value) is not ToldText and not isinstance(value, Enum):
        return plain, None
    told = told_of(value)
    if told is None:
        told = Told(shown=safe_repr(value)[:MAX_SHOWN])
    return plain if told.type else safe_str(value), told


def told_of(value: object) -> Told | None:
    """Return how a value of a known kind is restored, ``None`` for any other."""
    kind = STAND_INS.get(type(value), type(value))
    if _RESTORED.get(kind.__name__) is kind:
        try:
            encode_value(value, kind)
        except InvalidValueError:
            return None
        return Told(type=kind.__name__)
    if isinstance(value, Enum) and isinstance(value.name, str):
        return Told(type=f"{kind.__module__}:{kind.__qualname__}", member=utf8_safe(value.name))
    return None


def restored(plain: Any, told: Told | None, find: Callable[[str], Any]) -> Any:
    """Return a field as it was, as far as this process can. ``find`` returns what it has imported under a name."""
    if told is None:
        return plain
    if told.type in _RESTORED:
        return decode_value(to_json(plain).decode(), _RESTORED[told.type])
    if told.member:
        found = find(told.type)
        # Only the members that there are: to look one up by its value may run code.
        members = vars(found).get("_member_map_") if isinstance(found, type) and issubclass(found, Enum) else None
        return members.get(told.member, plain) if isinstance(members, dict) else plain
    if told.shown and isinstance(plain, str):
        text = ToldText(plain)
        text.shown = told.shown
        return text
    return plain


def safe_repr(value: object) -> str:
    """Return ``repr(value)`` as text that UTF-8 can encode. Never raises."""
    try:
        return utf8_safe(repr(value))
    except Exception:  # A __repr__ may raise anything.
        return f"<{type(value).__name__}>"
