"""Each line of the tables in docs/guide/values.md, in their order: promises D1, D2, D3 and W2."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict, deque, namedtuple
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from asyncpg.pgproto import pgproto
from pydantic import AfterValidator, BaseModel, SecretStr, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from dbos_async import DBOS, InvalidArgumentError, InvalidValueError, RecordedError
from dbos_async._checks import check_key
from dbos_async._serialization.exceptions import decode_error, encode_error
from dbos_async._serialization.values import decode_value, encode_value, size_error
from tests.support.failing import Client, Kind, ServiceError, local_error
from tests.support.models import (
    DEEP,
    LOOP,
    NOW,
    Cat,
    Colour,
    Counted,
    Level,
    Point,
    Rounded,
    Unit,
    counted,
    there_and_back,
)

PAGE = Path(__file__).parent.parent.parent / "docs" / "guide" / "values.md"
Pair = namedtuple("Pair", "a b")  # noqa: PYI024  # the class that the page speaks of


def arrives(value: Any, declared: Any = Any) -> Any:
    return decode_value(encode_value(value, declared), declared)


def same(value: Any, *types: Any) -> None:
    for declared in types:
        again = arrives(value, declared)
        assert (again, type(again), repr(again)) == (value, type(value), repr(value))


def refused(value: Any, declared: Any = Any) -> None:
    with pytest.raises(InvalidValueError):
        encode_value(value, declared)


def plain_values() -> None:
    value: Any
    for value in (10**4299, -0.0, 5e-324, {}, "", None, "\0"):
        same(value, Any, type(value))


UNDECLARED = [
    (b"\xff", "_w=="), ((1, 2), [1, 2]), ({1}, [1]), (date(2026, 1, 2), "2026-01-02"), (Decimal("1.10"), "1.10"),
    (UUID(int=7), str(UUID(int=7))), (Colour.RED, "red"), (Cat(), {"kind": "cat", "lives": 9}),
    (Point(1.0, 2.0), asdict(Point(1.0, 2.0))),
]  # fmt: skip


def undeclared() -> None:
    for value, again in UNDECLARED:
        assert arrives(value) == again
        assert arrives([value], list) == [again]


def declared() -> None:
    for value, _ in UNDECLARED:
        same(value, type(value))


def times() -> None:
    minutes = timezone(timedelta(minutes=-91))
    for value in (NOW, NOW.replace(tzinfo=None), NOW.astimezone(minutes)):
        same(value, datetime)
    for moment in (time(1, 2), time(1, 2, tzinfo=UTC), time(1, 2, tzinfo=minutes)):
        same(moment, time)
    of_pydantic = TypeAdapter(datetime).validate_json('"2026-01-02T03:04:05+01:00"')
    assert type(arrives(of_pydantic, datetime).tzinfo) is timezone


def other_times() -> None:
    for zone in (ZoneInfo("Europe/Berlin"), timezone(timedelta(seconds=61)), timezone(timedelta(hours=1), "CET")):
        refused(NOW.astimezone(zone), datetime)
        refused(time(1, 2, tzinfo=zone), time)
        same(NOW.astimezone(zone).astimezone(UTC), datetime)
    refused(time(1, fold=1), time)
    refused(NOW.replace(fold=1), datetime)


def untold_members() -> None:
    untold: Any = Enum(
        "untold", {"PAIR": (1, 2), "DAY": date(2026, 1, 2), "TEXT": "2026-01-02", "BYTES": b"a", "FAIR": 5}
    )
    for member in (untold.PAIR, untold.DAY, untold.BYTES):
        refused(member, untold)
    for member in (untold.TEXT, untold.FAIR):
        same(member, untold)


def ordered() -> None:
    class Options(TypedDict):
        a: int
        b: int

    assert list(arrives({"b": 2, "a": 1}, Options)) == ["a", "b"]


def subclasses() -> None:
    for value, kind in (
        (True, int),
        (Level.LOW, int),
        (Unit.EUR, str),
        (Pair(1, "b"), tuple[int, str]),
        ((1, 2), Sequence[int]),
    ):
        refused(value, kind)
    refused(defaultdict(int, a=1), dict[str, int])


def int_as_float() -> None:
    assert repr(arrives(1, float)) == "1.0"
    refused(2**60 + 1, float)


def lost_settings() -> None:
    refused(deque([1], 3), deque[int])
    refused(counted(seen=3), Counted)


def own_serializer() -> None:
    assert arrives(Rounded(x=1.23), Rounded) == Rounded(x=1.2)


def does_not_travel() -> None:
    class Keeps(BaseModel):
        n: int = 1
        _private: int = 0

    kept = Keeps()
    kept._private = 7
    again = arrives(kept, Keeps)
    assert (again._private, kept.model_fields_set, again.model_fields_set) == (0, set(), {"n"})
    assert arrives(counted(cache=3), Counted).cache == 0


def no_json() -> None:
    for value in (10**4300, float("nan"), float("inf"), "\ud800"):
        refused(value)
        refused(value, type(value))
    with pytest.raises(InvalidValueError):
        decode_value("1e400")


def undeclared_keys() -> None:
    for value in ({1: 2}, SecretStr("x"), LOOP):
        refused(value)


def too_large() -> None:
    assert size_error(encode_value("x" * 100), 101, "The value") is not None
    assert size_error(encode_value("x" * 100), 102, "The value") is None


def of_one_hash() -> None:
    hostile = {n * (2**61 - 1) for n in range(1, 3000)}
    refused(hostile, set[int])
    with pytest.raises(InvalidValueError):
        decode_value(encode_value(list(hostile)), set[int])


def written_by_others() -> None:
    with pytest.raises(InvalidValueError):
        decode_value("1" + "0" * 400 + ".5")


def keys() -> None:
    check_key("😀::'" * 100, "key")
    for key in ("", "x" * 513, "a\0"):
        with pytest.raises(InvalidArgumentError):
            check_key(key, "key")


async def refused_results(url: str) -> None:
    ran = []

    @DBOS.workflow(name="returns what is no JSON")
    async def returns() -> Any:
        ran.append(1)
        return object()

    async with DBOS(url):
        for _ in range(2):
            handle = await DBOS.start_workflow(returns)
            with pytest.raises(InvalidValueError):
                await handle.get_result()
            assert (await handle.get_status()).status == "ERROR"
    assert len(ran) == 2


LINES: list[tuple[str, Callable[..., Any]]] = [
    ("integers of up to", plain_values), ("undeclared `b", undeclared),
    ("the same, declared", declared),
    ("a declared `datetime` or `time`, naive", times),
    ("a declared `datetime` or `time` with a", other_times),
    ("a declared `ZoneInfo`", lambda: same(ZoneInfo("Europe/Berlin"), ZoneInfo)),
    ("a declared `UUID` that asyncpg", lambda: same(arrives(pgproto.UUID(UUID(int=7).bytes), UUID), UUID)),
    ("a declared member of an enum", untold_members),
    ("a declared `TypedDict`", ordered),
    ("a declared `re.Pattern`", lambda: refused(re.compile("a", re.IGNORECASE), re.Pattern[str])),
    ("a value of a subclass", subclasses),
    ("an `int` as `float`", int_as_float), ("a `deque` with", lost_settings),
    ("a value that its own validator", lambda: refused("Ab", Annotated[str, AfterValidator(str.lower)])),
    ("what a type serializes", own_serializer), ("private attributes", does_not_travel), ("longer integers", no_json),
    ("undeclared keys", undeclared_keys), ("more than 180 levels", lambda: refused(DEEP)), ("more than 8 MiB", too_large),
    ("a large set", of_one_hash), ("a result of a step", refused_results), ("a number beyond", written_by_others),
    ("a key that another", lambda: same(decode_value('{"a": 1, "a": 2}'), dict[str, int])), ("keys and ids", keys),
]  # fmt: skip


def imported() -> None:
    error = ServiceError(Kind.BUSY, Client())
    again = there_and_back(error)
    assert isinstance(again, ServiceError)
    assert str(again) == str(error)


def of_pydantic() -> None:
    with pytest.raises(ValidationError) as raised:
        TypeAdapter(list[int]).validate_python(["x"] * 101)
    again = there_and_back(raised.value)
    assert isinstance(again, ValidationError)
    assert again.error_count() == 100


def local() -> None:
    error = local_error("here")
    assert type(there_and_back(error)) is type(error)
    text = re.sub('"local":"[^"]*"', '"local":"of another process"', encode_error(error))
    assert isinstance(decode_error(text), RecordedError)


def not_imported() -> None:
    assert isinstance(decode_error('{"type": "not_imported:OddError"}'), RecordedError)


def cancelled() -> None:
    assert "CancelledError of its own" in str(there_and_back(asyncio.CancelledError()))


ERRORS: list[tuple[str, Callable[..., Any]]] = [
    ("of a class that this process has imported", imported), ("`pydantic.ValidationError`", of_pydantic),
    ("of a class made in", local),
    ("of a class that this process has not", not_imported), ("`CancelledError`", cancelled),
]  # fmt: skip


def lines_of(title: str) -> list[str]:
    part = PAGE.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
    return [line.removeprefix("| ") for line in part.splitlines() if line.startswith("| ")][1:]


@pytest.mark.parametrize(("title", "proofs"), [("What can be sent", LINES), ("Exceptions", ERRORS)])
def test_d1_each_line_of_the_table_has_its_proof(title: str, proofs: list[tuple[str, Any]]) -> None:
    lines = lines_of(title)
    assert len(lines) == len(proofs)
    assert [line for line, (words, _) in zip(lines, proofs, strict=True) if not line.startswith(words)] == []


@pytest.mark.parametrize("words", [words for words, _ in [*LINES, *ERRORS]])
async def test_d1_what_the_table_says_is_true(words: str, database_url: str) -> None:
    prove = dict([*LINES, *ERRORS])[words]
    await prove(database_url) if asyncio.iscoroutinefunction(prove) else prove()
