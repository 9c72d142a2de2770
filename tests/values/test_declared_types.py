"""What is declared arrives as its type, and what is not as plain JSON: promises D1 and D2, without a database."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from pydantic import (
    Field,
)

from dbos_async import InvalidMessageError, InvalidValueError
from dbos_async._serialization.values import decode_value, encode_value
from tests.support.models import (
    JSON,
    NOW,
    Aliased,
    Bag,
    Blob,
    Cat,
    Closed,
    Colour,
    Dog,
    Incomparable,
    Level,
    Model,
    Numbers,
    Open,
    Options,
    Pair,
    Point,
    Rounded,
    Texts,
    Unit,
    names,
)


@given(JSON)
def test_d1_any_json_value_comes_back_unchanged(value: Any) -> None:
    again = decode_value(encode_value(value))
    assert again == value
    assert repr(again) == repr(value)


TYPED = [
    (int, 7), (int, 2**200), (float, 1.5), (str, "\0 😀"), (bool, True), (type(None), None), (bytes, b"\xff\0"),
    (datetime, NOW), (date, NOW.date()), (timedelta, timedelta(days=3, microseconds=5)), (Decimal, Decimal("1.10")),
    (UUID, UUID(int=7)), (Colour, Colour.RED), (Model, Model(n=1, when=NOW)), (Point, Point(1.0, 2.0)), (Pair, Pair(1, "b")),
    (list[Model], [Model(n=1, when=NOW)]), (dict[str, Decimal], {"a": Decimal(1)}), (dict[int, str], {1: "a"}),
    (tuple[int, str], (1, "a")), (set[int], {1, 2}), (Cat | Dog, Dog()), (int | str, "1"), (int | None, None),
    (Annotated[int, Field(gt=0)], 5), (Literal["paid", "lost"], "paid"), (PurePosixPath, PurePosixPath("a/b")),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "value"), TYPED, ids=[str(declared) for declared, _ in TYPED])
def test_d1_a_declared_type_is_restored(declared: Any, value: Any) -> None:
    again = decode_value(encode_value(value, declared), declared)
    assert again == value
    assert type(again) is type(value)


DO_NOT_FIT = [
    (int, "7"), (int, 7.5), (str, 7), (bool, 1), (Model, {"n": 1}), (Model, Cat()), (Point, Cat()), (Literal["paid"], "lost"),
    (Annotated[int, Field(gt=0)], -1), (datetime, "tomorrow"), (list[int], ["a"]), (Cat | Dog, Point(1.0, 2.0)),
    (float, float("nan")), (float, float("inf")), (int | None, "x"), (Colour, "blue"),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "value"), DO_NOT_FIT, ids=[f"{d} {v}" for d, v in DO_NOT_FIT])
def test_d2_what_does_not_fit_raises_at_the_sender(declared: Any, value: Any) -> None:
    with pytest.raises(InvalidMessageError, match="^The message cannot be used: ") as raised:
        encode_value(value, declared, what="The message", error=InvalidMessageError)
    assert "\n" not in str(raised.value)


def test_d2_what_does_not_fit_raises_at_the_receiver_with_the_details_of_pydantic() -> None:
    with pytest.raises(InvalidValueError, match="n: Input should be a valid integer") as raised:
        decode_value('{"n": "x", "when": 3}', Model)
    assert [tuple(detail["loc"]) for detail in raised.value.details] == [("n",)]


MORE_TYPED: list[tuple[Any, Any]] = [
    (Aliased, Aliased.model_validate({"A": 1, "C": 3})), (Closed, Closed.model_validate({"numbers": "[1, 2]"})),
    (Numbers, Numbers([1])), (Open, Open.model_validate({"x": 1})), (Options, {"retries": 1, "note": b"\xff"}),
    (Blob, Blob(b"\xff")), (Texts, Texts(data=b"ok")), (OrderedDict[str, int], OrderedDict(b=1, a=2)), (deque[int], deque([1])),
    (frozenset[str], frozenset("a")), (time, time(1, 2)), (dict[Colour, Level], {Colour.RED: Level.LOW}), (Level, Level.LOW),
    (Decimal, Decimal("1e400")), (Sequence[int], [1]), (Mapping[str, int], {"a": 1}), (int | float, 1.0), (float | int, 1),
    (str | int, "1"), (bool | int, 1), (int | bool, True), (bytes | str, "x"), (datetime | str, "soon"), (float, -0.0),
    (Annotated[int, ["unhashable"]], 3), (bytes, bytes(range(256))), (Bag, Bag(maybe=1.5)), (int, -(10**4000)), (None, None),
    (Bag, Bag(anything=[1, {"a": None}], by_number={1: "x"})), (datetime, NOW.replace(tzinfo=None)), (dict[str, Any], {"a": "\0"}),
    (object, {"a": [1.5]}),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "value"), MORE_TYPED, ids=names(MORE_TYPED))
def test_d1_a_declared_type_is_restored_wherever_it_stands(declared: Any, value: Any) -> None:
    for kind, sent in ((declared, value), (list[declared], [value])):
        again = decode_value(encode_value(sent, kind), kind)
        assert again == sent
        assert type(again) is type(sent)


ARRIVES_AS: list[tuple[Any, Any, Any]] = [
    (float, 1, 1.0),
    (dict[str, Any], {"a": (1, NOW)}, {"a": [1, "2026-11-23T12:00:00.123456Z"]}), (Any, Colour.RED, "red"),
    (Bag, Bag(anything=Colour.RED), Bag(anything="red")),
    (Any, b"\xff", "_w=="), (Any, [UUID(int=7)], [f"{UUID(int=7)}"]), (Any, Point(1.0, 2.0), {"x": 1.0, "y": 2.0}),
    (Any, {Unit.EUR: 1}, {"eur": 1}), (Any, iter([1]), [1]), (Any, timedelta(days=1), "P1D"), (Any, (1, {2}), [1, [2]]),
    (Any, Bag(by_number={1: "x"}), {"anything": None, "maybe": None, "by_number": {"1": "x"}}),
    (Any, Closed.model_validate({"numbers": "[1, 2]"}), {"numbers": "[1,2]"}), (Rounded, Rounded(x=1.23), Rounded(x=1.2)),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "value", "again"), ARRIVES_AS, ids=names(ARRIVES_AS))
def test_d1_what_is_undeclared_arrives_as_plain_json(declared: Any, value: Any, again: Any) -> None:
    arrived = decode_value(encode_value(value, declared), declared)
    assert arrived == again
    assert type(arrived) is type(again)


TYPED_HERE_ONLY: list[tuple[Any, Any]] = [
    *(case for case in MORE_TYPED if case[0] not in (dict[Colour, Level], deque[int])),
    (bytes, b"abcd"), (Blob, Blob(b"abcd")), (Options, {"note": b"abcd"}), (list[bytes], [b"abcd"]), (Texts, Texts(data=b"abcd")),
    (Model, Model(n=1, when=NOW)), (Decimal, Decimal("1.10")), (tuple[int, bytes], (1, b"\xff")), (Pair, Pair(1, "b")),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "value"), TYPED_HERE_ONLY, ids=names(TYPED_HERE_ONLY))
def test_d1_what_is_sent_undeclared_can_be_received_as_its_type(declared: Any, value: Any) -> None:
    assert decode_value(encode_value(value), declared) == value


def test_d1_objects_without_a_comparison_are_taken_as_they_are() -> None:
    again = decode_value(encode_value([Incomparable(1)], list[Incomparable]), list[Incomparable])
    assert [(type(one), one.n) for one in again] == [(Incomparable, 1)]
