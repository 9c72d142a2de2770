"""What is declared arrives equal in type, fields, zone and repr, or raises at the sender (promise D1), without a database."""

from __future__ import annotations

import re
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from http import HTTPStatus
from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, TypeAdapter, field_serializer
from typing_extensions import TypedDict

from dbos_async import InvalidValueError
from dbos_async._serialization.values import decode_value, encode_value
from tests.support.models import (
    NOW,
    Cat,
    Colour,
    Counted,
    Dog,
    Level,
    Model,
    Pair,
    Unit,
    Wide,
    counted,
    names,
)

BERLIN = ZoneInfo("Europe/Berlin")
PLUS_TWO = timezone(timedelta(hours=2))


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Ratio(float):
    pass


class Items(list[Any]):
    pass


class Table(dict[str, Any]):
    pass


class Day(date):
    pass


class Moment(datetime):
    pass


class OwnZone(tzinfo):
    def utcoffset(self, when: datetime | None) -> timedelta:
        return timedelta(hours=1)

    def dst(self, when: datetime | None) -> None:
        return None

    def tzname(self, when: datetime | None) -> str:
        return "own"


class Shelf(BaseModel):
    name: str = ""
    when: datetime = NOW
    inner: Cat = Cat()
    anything: Any = None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    n: int = 0


@dataclass
class Line:
    n: int


@dataclass
class LongLine(Line):
    more: int = 0


WOULD_DIFFER: list[tuple[Any, Any, str]] = [
    (datetime, datetime(1890, 1, 1, tzinfo=timezone(timedelta(hours=1, seconds=28))), "in the zone .*seconds=3628"),
    (datetime, datetime(2026, 1, 1, tzinfo=timezone(timedelta(seconds=-30))), "in the zone"),
    (datetime, datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=2), "CEST")), "in the zone .*CEST"),
    (datetime, datetime(2026, 6, 1, tzinfo=BERLIN), "Europe/Berlin.*would arrive as .*astimezone"),
    (datetime, datetime(2026, 6, 1, tzinfo=ZoneInfo("UTC")), "in the zone"),
    (datetime, datetime(2026, 6, 1, tzinfo=OwnZone()), "in the zone"),
    (datetime, NOW.replace(tzinfo=None, fold=1), "fold=1"),
    (datetime, Moment(2026, 1, 1, tzinfo=UTC), "has Moment, which would arrive as datetime"),
    (list[datetime], [NOW, NOW.astimezone(BERLIN)], "in the zone"),
    (dict[datetime, int], {NOW.astimezone(BERLIN): 1}, "in the zone"),
    (Shelf, Shelf(when=NOW.astimezone(BERLIN)), "in the zone"), (set[datetime], {NOW.astimezone(BERLIN)}, "in the zone"),
    (datetime | None, NOW.astimezone(BERLIN), "in the zone"), (int | datetime, NOW.astimezone(BERLIN), "in the zone"),
    (time, time(1, 2, tzinfo=BERLIN), "in the zone"), (time, time(1, 2, tzinfo=timezone(timedelta(seconds=7205))), "in the zone"),
    (time, time(1, 2, fold=1), "fold=1"), (date, Day(2026, 1, 1), "has Day, which would arrive as date"),

    (re.Pattern[str], re.compile("a", re.IGNORECASE | re.DOTALL), "flags re.IGNORECASE.re.DOTALL, which would be lost"),
    (list[re.Pattern[str]], [re.compile("a", re.ASCII)], "flags re.ASCII"),
    (str, Text("a"), "has Text, which would arrive as str"), (int, Number(1), "has Number"), (float, Ratio(1.5), "has Ratio"),
    (int, True, "has bool, which would arrive as int"), (float, True, "has bool"), (Literal[1], True, "has bool"),
    (list[int], [1, True], "has bool"), (dict[str, int], {"a": False}, "has bool"), (set[int], {True}, "has bool"),
    (dict[int, str], {True: "a"}, "True"), (tuple[str, int], ("a", True), "has bool"),
    (Cat, Cat.model_construct(lives=True), "has bool"),
    (int, Level.LOW, "has Level, which would arrive as int"), (int, HTTPStatus.OK, "has HTTPStatus"), (str, Unit.EUR, "has Unit"),
    (dict[str, int], {Unit.EUR: 1}, "has Unit"), (Shelf, Shelf.model_construct(name=Text("a")), "has Text"),
    (list[int], Items([1]), "has Items, which would arrive as list"), (dict[str, int], Table(a=1), "has Table"),
    (dict[str, int], OrderedDict(a=1), "has OrderedDict"), (dict[str, int], defaultdict(int, a=1), "has defaultdict"),
    (tuple[int, str], Pair(1, "b"), "has Pair, which would arrive as tuple"),
    (Sequence[int], (1, 2), "has tuple, which would arrive as list"),
    (Mapping[str, int], Table(a=1), "has Table"), (list[int] | tuple[int, ...], (1, 2), "has tuple"),
    (Model, Wide(n=1, when=NOW), "has Wide"),
    (Line, LongLine(1), "has LongLine"), (Cat | Dog, Wide(n=1, when=NOW), "instance of Cat"),
    (deque[int], deque([1], maxlen=3), "maxlen"),
    (complex, complex(-0.0, 0), "would arrive as"), (Counted, counted(seen=3), "its int 3 would arrive as 0"),
    (Annotated[str, AfterValidator(str.lower)], "Ab", "its str 'Ab' would arrive as 'ab'"),
    (Shelf, Shelf(inner=Cat.model_construct(lives=True), anything=(1,)), "has bool"),
    (Open, Open.model_construct(n=True, x=(1,)), "has bool"),
    (Shelf | int, Shelf(inner=Cat.model_construct(lives=True), anything=(1,)), "has bool"),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "value", "words"), WOULD_DIFFER, ids=names(WOULD_DIFFER))
def test_d1_a_declared_value_that_would_arrive_different_raises_at_the_sender(
    declared: Any, value: Any, words: str
) -> None:
    with pytest.raises(InvalidValueError, match=words) as raised:
        encode_value(value, declared)
    assert "\n" not in str(raised.value)


ARRIVE_THE_SAME: list[tuple[Any, Any]] = [
    (datetime, NOW), (datetime, NOW.astimezone(PLUS_TWO)), (datetime | str, NOW),
    (dict[datetime, time], {NOW: time(1, tzinfo=UTC)}),
    (Shelf, Shelf(when=NOW.astimezone(PLUS_TWO))), (list[Shelf], [Shelf(anything=[1, {"a": None}])]),
    (time, time(1, 2, 3, 4, tzinfo=PLUS_TWO)),
    (ZoneInfo, BERLIN), (re.Pattern[str], re.compile("(?i)a")), (Decimal, Decimal("1E+3")), (Fraction, Fraction(1, 3)),
    (complex, 1 - 2j),
    (Counter[str], Counter("aab")), (defaultdict[str, int], defaultdict(int, a=1)),
    (OrderedDict[str, int], OrderedDict(b=1, a=2)),
    (Counted, counted()), (Line, Line(1)), (LongLine, LongLine(1)), (Path, Path("a/b")),
    (IPv6Address, IPv6Address("fe80::1%eth0")),
    (HTTPStatus, HTTPStatus.OK), (Cat | Dog | datetime, NOW), (bytes | None, b"\xff"), (timedelta, timedelta.max),
    (UUID, UUID(int=1)),
    (Pair, Pair(1, "b")), (tuple[Pair, ...], (Pair(1, "b"),)), (frozenset[Colour], frozenset(Colour)),
    (datetime, NOW.replace(tzinfo=None, year=1)),
    (Open, Open.model_validate({"n": 1, "x": 1.5})), (float | int, 1),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "value"), ARRIVE_THE_SAME, ids=names(ARRIVE_THE_SAME))
def test_d1_a_declared_value_arrives_equal_in_type_fields_zone_and_repr(declared: Any, value: Any) -> None:
    again = decode_value(encode_value(value, declared), declared)
    assert (again, type(again), repr(again)) == (value, type(value), repr(value))


class Rounded(BaseModel):
    x: Annotated[float, PlainSerializer(lambda x: round(x, 1))]
    when: datetime = NOW
    lives: int = 9

    @field_serializer("when")
    def _in_utc(self, when: datetime) -> str:
        return when.astimezone(UTC).isoformat()


def test_d1_what_a_type_serializes_by_a_function_of_its_own_that_function_may_change() -> None:
    sent = Rounded(x=1.23, when=NOW.astimezone(BERLIN))
    again = decode_value(encode_value(sent, Rounded), Rounded)
    assert again == Rounded(x=1.2, when=NOW)
    # The other fields are compared all the same.
    with pytest.raises(InvalidValueError, match="has bool"):
        encode_value(Rounded.model_construct(x=1.23, lives=True), Rounded)


def test_d1_what_a_type_keeps_out_of_its_json_does_not_travel() -> None:
    class Keeps(BaseModel):
        n: int = 1
        hidden: int = Field(default=0, exclude=True)
        _private: int = 0

    kept = Keeps(hidden=5)
    kept._private = 7
    again = decode_value(encode_value(kept, Keeps), Keeps)
    assert (again.n, again.hidden, again._private) == (1, 0, 0)
    assert decode_value(encode_value(counted(cache=3), Counted), Counted).cache == 0


def test_d1_the_offsets_of_a_model_that_pydantic_made_arrive_as_those_of_python() -> None:
    made = TypeAdapter(Shelf).validate_json('{"when": "2026-11-23T12:00:00+02:00"}')
    again = decode_value(encode_value(made, Shelf), Shelf)
    assert again == made
    assert again.when.tzinfo == PLUS_TWO
    assert type(again.when.tzinfo) is timezone


def test_d1_the_errors_of_a_union_with_times_name_its_members() -> None:
    with pytest.raises(InvalidValueError) as raised:
        decode_value('"x"', int | datetime)
    assert [detail["loc"] for detail in raised.value.details] == [["int"], ["datetime"]]


# Any value of any class, where any other is declared.

T = TypeVar("T")


class Holder(BaseModel, Generic[T]):
    held: T


class Holding(NamedTuple):
    first: Any
    second: Any


ZONES = st.sampled_from(
    [None, UTC, PLUS_TWO, timezone(timedelta(seconds=61)), timezone(timedelta(hours=1), "x"), BERLIN]
)
MOMENTS = st.builds(lambda when, fold: when.replace(fold=fold), st.datetimes(timezones=ZONES), st.integers(0, 1))
TIMES = st.builds(lambda when, zone, fold: when.replace(tzinfo=zone, fold=fold), st.times(), ZONES, st.integers(0, 1))
PATTERNS = st.builds(
    re.compile, st.just("a+"), st.sampled_from([0, re.IGNORECASE, re.MULTILINE, re.ASCII, re.DOTALL | re.VERBOSE])
)
NUMBERS: st.SearchStrategy[Any] = (
    st.integers(-3, 3) | st.booleans() | st.sampled_from([Level.LOW, Number(1), -0.0, 1.5, Ratio(1), 1 - 0j, -0j])
)
LEAVES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (datetime, MOMENTS), (time, TIMES), (re.Pattern[str], PATTERNS), (int, NUMBERS), (float, NUMBERS), (complex, NUMBERS),
    (Level, NUMBERS),
    (str, st.sampled_from(["a", Text("a"), Unit.EUR])), (Unit, st.just(Unit.EUR)),
    (date, st.dates() | st.just(Day(2026, 1, 1)) | MOMENTS),
    (Decimal, st.sampled_from([Decimal("1.10"), Decimal("-0"), Decimal("1E+3"), 1])), (ZoneInfo, st.just(BERLIN)),
    (Cat, st.sampled_from([Cat(), Cat.model_construct(lives=True), Wide(n=1, when=NOW)])),
    (Line, st.sampled_from([Line(1), LongLine(1), Line(True)])),
]  # fmt: skip
A: Any = list
MAKE_TYPED_DICT: Any = TypedDict


def grown(kind: tuple[Any, st.SearchStrategy[Any]], how: int) -> tuple[Any, st.SearchStrategy[Any]]:
    declared, values = kind
    if how == 0:
        return A[declared], st.builds(Items, st.lists(values, max_size=2)) | st.lists(values, max_size=3) | st.tuples(
            values
        )
    if how == 1:
        one_item = st.dictionaries(st.sampled_from(["a", Text("b")]), values, max_size=2)
        table: Any = dict
        return table[str, declared], one_item | st.builds(Table, one_item) | st.builds(OrderedDict, one_item)
    if how == 2:
        pair: Any = tuple
        return pair[declared, declared], st.tuples(values, values) | st.builds(Holding, values, values)
    if how == 3:
        return declared | None, st.none() | values
    if how == 4:
        made: Any = Holder[declared]  # type: ignore[valid-type]  # made at run time
        return made, st.builds(made.model_construct, held=values)
    queue: Any = deque
    return queue[declared], st.builds(deque, st.lists(values, max_size=2), st.sampled_from([None, 5]))


@st.composite
def declared_values(draw: st.DrawFn) -> tuple[Any, Any]:
    kind = draw(st.sampled_from(LEAVES))
    for how in draw(st.lists(st.integers(0, 5), max_size=3)):
        kind = grown(kind, how)
    return kind[0], draw(kind[1])


def is_float(declared: Any) -> bool:
    return "float" in str(declared)


@given(declared_values())
def test_d1_any_declared_value_arrives_equal_in_every_respect_or_raises(case: tuple[Any, Any]) -> None:
    declared, value = case
    try:
        text = encode_value(value, declared)
    except InvalidValueError:
        return
    again = decode_value(text, declared)
    assert type(again) is type(value) or (is_float(declared) and type(value) is int)
    assert again == value
    if is_float(declared):  # There an int may stand for a float.
        assert re.sub(r"\.0\b", "", repr(again)) == re.sub(r"\.0\b", "", repr(value))
    else:
        assert repr(again) == repr(value)
