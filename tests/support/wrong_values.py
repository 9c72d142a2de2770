"""Values that no parameter of a kind takes."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any, Final

from dbos_async import SendMessage

LIVES: Final = "lives"
"""The workflow that the calls are about."""


class Shouts:
    """Its ``repr`` would begin a line of its own."""

    def __repr__(self) -> str:
        return "a\nb"


class Mute:
    """Its ``repr`` raises."""

    def __repr__(self) -> str:
        raise ValueError("no repr")


class NoZone(tzinfo):
    """A time zone that raises."""

    def utcoffset(self, moment: datetime | None) -> timedelta:
        raise ValueError("no offset")

    dst = tzname = utcoffset  # type: ignore[assignment]  # all raise


OBJECTS: tuple[Any, ...] = (object(), Shouts(), Mute(), [], {}, 1j, int)
NO_TEXTS = (5, True, 1.5, b"k", bytearray(b"k"), *OBJECTS)
UNSTORABLE = ("a\0b", "\0", "\ud800", "a\udfff", "x" * 513)
NO_NUMBERS = (
    "5",
    b"5",
    "",
    Decimal(5),
    timedelta(seconds=5),
    True,
    False,
    float("nan"),
    -1,
    -0.5,
    float("-inf"),
    -(10**400),
    *OBJECTS,
)
NO_AGES = (
    *[each for each in NO_NUMBERS if not isinstance(each, timedelta)], float("inf"), timedelta.max, timedelta(seconds=-1), None,
)  # fmt: skip
NO_DURATIONS = (*NO_NUMBERS, None)
NO_VALUES = (object(), Mute(), float("nan"), float("inf"), {1: 2}, "\ud800", [float("-inf")], 10**5000)
NO_INTS = (True, False, 1.0, "1", b"1", None, float("nan"), 2**31, 2**63, 10**5000, -(10**5000), *OBJECTS)
NO_URLS = (
    "postgresql://localhost:65536/x", "postgresql://a:5432,b:99999999/x", "postgresql://u:p@[::1]:0/x",
    5, True, b"postgresql://user:secret@host/db", "", "postgresql://a\0b", "postgresql://\ud800", *OBJECTS,
)  # fmt: skip
NO_STEPS = (
    0,
    -1,
    2**31,
    10**5000,
    True,
    1.5,
    None,
    b"1",
    "",
    "0",
    "1.",
    ".1",
    "1.0",
    "-1",
    "\u0661",
    "1\n",
    "1.99999999999",
    "1." * 600 + "1",
)
LAST = datetime.max.replace(tzinfo=timezone(timedelta(hours=-23)))
FIRST = datetime.min.replace(tzinfo=timezone(timedelta(hours=23)))
NO_MOMENTS = (
    "2026-01-01", 5, 1.5, True, date(2026, 1, 1), datetime(2026, 1, 1), LAST, FIRST,  # noqa: DTZ001
    datetime(2026, 1, 1, tzinfo=NoZone()), *OBJECTS,
)  # fmt: skip
NO_HEADERS = (5, "a", b"a", [("a", "b")], {"a": 1}, {1: "a"}, {"a": "\ud800"}, {"a": b"b"}, {"a": None}, object())
NO_FUNCTIONS = (5, b"f", None, len, lambda: None, object(), Shouts(), Mute())
NO_MESSAGES = (5, None, "abc", b"abc", [5], [None], [SendMessage(LIVES, 1), "x"], SendMessage(LIVES, 1), Mute())
