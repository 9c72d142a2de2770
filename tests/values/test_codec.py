"""What a sender refuses, and what stored text may be: promises D1 and D2, without a database."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    SecretStr,
)

from dbos_async import InvalidValueError
from dbos_async._serialization.values import MAX_DEPTH, decode_value, encode_value, type_adapter
from tests.support.models import (
    ANYTHING,
    DEEP,
    JSON,
    LOOP,
    NOW,
    Bag,
    Model,
    Moody,
    NoModel,
    Options,
    Texts,
    Wide,
    names,
    there_and_back,
)

CHANGED: list[tuple[Any, Any, str]] = [
    (Model, Wide(n=1, when=NOW), "has Wide, which would arrive as Model"),
    (list[Model], [Wide(n=1, when=NOW)], "has Wide, which would arrive as Model"),
    (datetime | str, NOW.isoformat(), "has str, which would arrive as datetime"),
    (str | datetime, NOW, "has datetime, which would arrive as str"),
    (list[str | bytes], [b"x"], "has bytes, which would arrive as str"),
    (float, 2**60 + 1, "has int, which would arrive as float"),
    (Bag, Bag(maybe=math.nan), "a NaN, an infinity"),
    (Iterator[int], iter([1]), "Iterator.*, which has no JSON"),
    (Options, {"retries": 1, "nots": b""}, "its key 'nots' would be lost"),
    (dict[str, Any], {"a": {1: 2}}, "its key 1 is of type int"),
    (dict[str, Any], {"a": ({1: 2},)}, "its key 1 is of type int"),
    (Bag, Bag(anything={1: 2}), "its key 1 is of type int"),
    (Bag, Bag(anything=[math.inf]), "a NaN, an infinity"),
    (Bag, Bag(anything=Bag(maybe=math.nan)), "a NaN, an infinity"),
    (Any, Bag(maybe=math.inf), "a NaN, an infinity"),
    (Any, [{"a": Bag(maybe=math.nan)}], "a NaN, an infinity"),
    (dict[str, list[float]], {"a": [math.nan]}, "a NaN, an infinity"),
    (Decimal, Decimal("NaN"), "finite number"),
    (SecretStr, SecretStr("x"), "a secret, of which JSON shows only stars"),
    (Any, [SecretStr("x")], "a secret, of which JSON shows only stars"),
    (Texts, Texts(data=b"\xff"), "bytes that are not UTF-8"),
    (int, 10**5000, "an integer of more than 4300 digits"),
    (Any, 10**5000, "an integer of more than 4300 digits"),
    (Any, [10**5000], "an integer of more than 4300 digits"),
    (Any, LOOP, "it contains itself"),
    (Any, DEEP, "nested deeper than 180 levels"),
    (list[Any], DEEP, "nested deeper than 180 levels|itself"),
    (Moody, Moody.model_construct(n=7), "KeyError"),
    (list[int], {1}, "valid list"),
    (Model, Model.model_construct(n="x", when=NOW), "Expected `int`"),
    (NoModel, NoModel(), "NoModel'>, which has no JSON"),
    (object, NoModel(), "NoModel, which has no JSON"),
    (Any, [NoModel()], "NoModel, which has no JSON"),
    (Any, lambda: 1, "function, which has no JSON"),
    (Callable[[], None], print, "which has no JSON"),
    (str, "\ud800", "a lone surrogate"),
    (Any, "\ud800", "a lone surrogate"),
    (dict[str, str], {"\ud800": "x"}, r"its key '\\ud800' would be lost"),
]


@pytest.mark.parametrize(("declared", "value", "why"), CHANGED, ids=names(CHANGED))
def test_d2_what_would_arrive_changed_raises_at_the_sender(declared: Any, value: Any, why: str) -> None:
    with pytest.raises(InvalidValueError, match=f"^The value cannot be used: .*({why})") as raised:
        encode_value(value, declared)
    assert "\n" not in str(raised.value)
    again = there_and_back(raised.value)
    assert type(again) is InvalidValueError
    assert (again.args, str(again)) == (raised.value.args, str(raised.value))


NUMBERS = ["1e400", "-1E+400", "1" + "0" * 320 + ".5", "1" + "0" * 250 + "e99", "[1e0400]", '{"maybe": 1e999}']


@pytest.mark.parametrize("declared", [Any, float, list[float], Bag, Decimal], ids=str)
@pytest.mark.parametrize("number", NUMBERS)
def test_d2_a_stored_number_beyond_the_floats_does_not_become_an_infinity(number: str, declared: Any) -> None:
    with pytest.raises(InvalidValueError):
        decode_value(number, declared)


def test_d2_digits_that_are_no_float_are_left_alone() -> None:
    for value in ("1e400", "9" * 1000, {"id": "5e4000"}, [10**320, "1E+999"], 10**320):
        assert decode_value(encode_value(value)) == value


NO_JSON = ["NaN", "-Infinity", "", "{", '"\\ud800"', "[" * 300 + "]" * 300, "1" * 5000, "[1,]", "nul"]


@pytest.mark.parametrize("text", NO_JSON, ids=lambda text: repr(text[:10]))
def test_d2_stored_text_that_cannot_be_read_raises_one_sentence(text: str) -> None:
    for declared in (Any, list[Any]):
        with pytest.raises(InvalidValueError, match=r"^The value cannot be used: [^\n]+\.$"):
            decode_value(text, declared)


def test_d1_the_deepest_value_can_be_read_inside_of_what_is_put_around_it() -> None:
    deepest: Any = 1
    for _ in range(MAX_DEPTH):
        deepest = [deepest]
    for declared in (Any, list[Any]):
        text = encode_value(deepest, declared)
        assert decode_value(text, declared) == deepest
        assert decode_value('{"call":{"args":[' * 6 + text + "]}}" * 6)
        with pytest.raises(InvalidValueError, match=f"nested deeper than {MAX_DEPTH} levels"):
            encode_value([deepest], declared)
    error = ValueError(deepest)
    for _ in range(20):
        outer = ExceptionGroup("outer", [error])
        outer.__cause__, error = error, outer  # type: ignore[assignment]  # any exception can be grouped again
    assert isinstance(there_and_back(error), ExceptionGroup)


def test_d2_the_details_are_those_of_pydantic_and_stay_small() -> None:
    text = json.dumps([{"n": "x" * 10_000}] * 50)
    with pytest.raises(
        InvalidValueError, match=r"0\.n: Input should be a valid integer.* \(and 99 more\)\.$"
    ) as raised:
        decode_value(text, list[Model])
    assert (raised.value.details[0]["type"], raised.value.details[0]["loc"]) == ("int_parsing", [0, "n"])
    assert len(encode_value(raised.value.args)) < 20_000
    with pytest.raises(InvalidValueError) as sent:
        encode_value("7", int)
    assert [detail["type"] for detail in sent.value.details] == ["int_type"]


def test_d2_a_bug_in_a_validator_is_named_and_kept_as_the_cause() -> None:
    with pytest.raises(InvalidValueError, match="KeyError") as raised:
        decode_value('{"n": 7}', Moody)
    assert isinstance(raised.value.__cause__, KeyError)


def test_sql_null_is_none_and_none_is_null() -> None:
    assert encode_value(None) == encode_value(None, int | None) == "null"
    for text, declared in ((None, Any), (None, int), ("null", Any), ("null", int | None)):
        assert decode_value(text, declared) is None


def test_types_that_are_equal_and_are_not_checked_alike_have_checkers_of_their_own() -> None:
    assert type_adapter(int | str) is type_adapter(int | str)
    assert type_adapter(int | str) is not type_adapter(str | int)
    unhashable = Annotated[int, ["unhashable"]]
    assert type_adapter(unhashable) is type_adapter(unhashable)


def some_typed(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, Any]]:
    """Pairs of a declared type and a value that may fit it."""
    texts = st.text(max_size=20)
    bags = st.builds(
        Bag, anything=inner, maybe=st.none() | st.floats(), by_number=st.dictionaries(st.integers(), texts)
    )
    return st.one_of(
        st.tuples(st.just(Bag), bags),
        st.tuples(st.just(list[int | str]), st.lists(st.integers() | texts)),
        st.tuples(st.just(dict[str, Decimal | None]), st.dictionaries(texts, st.none() | st.decimals())),
        st.tuples(st.just(datetime | None), st.none() | st.datetimes(timezones=st.just(UTC))),
        st.tuples(st.just(tuple[bytes, UUID, timedelta]), st.tuples(st.binary(), st.uuids(), st.timedeltas())),
        st.tuples(st.just(float | str | bytes | datetime), st.floats() | texts | st.binary() | st.datetimes()),
        st.tuples(st.just(Any), inner | st.floats() | st.dictionaries(texts | st.integers() | st.floats(), inner)),
    )


@given(some_typed(JSON))
def test_d2_a_value_arrives_equal_or_raises_at_the_sender(case: tuple[Any, Any]) -> None:
    declared, value = case
    try:
        text = encode_value(value, declared)
    except InvalidValueError as error:
        str(error).encode()
        return
    again = decode_value(text, declared)
    assert again == value
    assert type(again) is type(value)


@given(ANYTHING)
def test_d1_what_is_encoded_is_json_for_everybody(value: Any) -> None:
    try:
        text = encode_value(value)
    except InvalidValueError as error:
        str(error).encode()
        return

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads(text, parse_constant=refuse) == decode_value(text)


async def test_d1_what_is_encoded_is_json_for_postgres_and_comes_back_as_it_was(connection: Any) -> None:
    deepest: Any = 1
    for _ in range(MAX_DEPTH):
        deepest = {"a": deepest}
    texts = ["\0", {"\0": "\0 😀 \x7f \u2028"}, "\\u0000", ""]
    values = [None, *texts, 10**4000, -0.0, 5e-324, 1.7976931348623157e308, deepest, [], {}]
    await connection.execute("create temporary table kept (place int, value json not null)")
    await connection.executemany("insert into kept values ($1, $2)", list(enumerate(map(encode_value, values))))
    rows = await connection.fetch("select value::text from kept order by place")
    assert [repr(decode_value(row["value"])) for row in rows] == [repr(value) for value in values]


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        [float("inf")],
        "\ud800",
        {"\ud800": 1},
        object(),
        lambda: 1,
        LOOP,
        DEEP,
        {1: 2},
        {(1, 2): 3},
        [{"a": ({None: 1},)}],
    ],
    ids=lambda value: type(value).__name__,
)
def test_d1_what_json_cannot_say_raises_one_sentence(value: Any) -> None:
    with pytest.raises(InvalidValueError) as raised:
        encode_value(value)
    assert "\n" not in str(raised.value)
    str(raised.value).encode()


def test_words_that_look_like_numbers_which_json_cannot_say_are_words() -> None:
    assert decode_value(encode_value(["NaN", "Infinity", {"NaN": "-Infinity"}])) == [
        "NaN",
        "Infinity",
        {"NaN": "-Infinity"},
    ]
