"""Values and exceptions as JSON and back: promises D1, D2, D3 and D5, without a database."""

from __future__ import annotations

import asyncio
import builtins
import json
import math
import subprocess
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple, Self
from uuid import UUID

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    Json,
    PlainSerializer,
    RootModel,
    SecretStr,
    ValidationError,
    computed_field,
    model_validator,
)
from typing_extensions import TypedDict

from dbos_async import InvalidMessageError, InvalidValueError, RecordedError, WorkflowNotFoundError, errors
from dbos_async._serialization.exceptions import decode_error, encode_error
from dbos_async._serialization.signature import Signature, encode_plain_call
from dbos_async._serialization.values import MAX_DEPTH, adapter, decode, encode

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=5)
    ),
    max_leaves=20,
)


@given(JSON)
def test_d1_any_json_value_comes_back_unchanged(value: Any) -> None:
    again = decode(encode(value))
    assert again == value
    assert repr(again) == repr(value)


class Colour(Enum):
    RED = "red"


class Model(BaseModel):
    n: int
    when: datetime
    tags: list[str] = []


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"


@dataclass
class Point:
    x: float
    y: float


class Pair(NamedTuple):
    a: int
    b: str


NOW = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)

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
    again = decode(encode(value, declared), declared)
    assert again == value
    assert type(again) is type(value)


MISFITS = [
    (int, "7"), (int, 7.5), (str, 7), (bool, 1), (Model, {"n": 1}), (Model, Cat()), (Point, Cat()), (Literal["paid"], "lost"),
    (Annotated[int, Field(gt=0)], -1), (datetime, "tomorrow"), (list[int], ["a"]), (Cat | Dog, Point(1.0, 2.0)),
    (float, float("nan")), (float, float("inf")), (int | None, "x"), (Colour, "blue"),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "value"), MISFITS, ids=[f"{d} {v}" for d, v in MISFITS])
def test_d2_what_does_not_fit_raises_at_the_sender(declared: Any, value: Any) -> None:
    with pytest.raises(InvalidMessageError, match="^The message cannot be used: ") as raised:
        encode(value, declared, what="The message", error=InvalidMessageError)
    assert "\n" not in str(raised.value)


def test_d2_what_does_not_fit_raises_at_the_receiver_with_the_details_of_pydantic() -> None:
    with pytest.raises(InvalidValueError, match="n: Input should be a valid integer") as raised:
        decode('{"n": "x", "when": 3}', Model)
    assert [tuple(detail["loc"]) for detail in raised.value.details] == [("n",)]


class Level(IntEnum):
    LOW = 1


class Unit(StrEnum):
    EUR = "eur"


class Aliased(BaseModel):
    """The names of its fields differ between Python, the JSON that it reads and the JSON that it writes."""

    a: int = Field(alias="A")
    b: int = Field(1, serialization_alias="B")
    c: int = Field(2, validation_alias="C")


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    numbers: Json[list[int]]

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated property; pydantic asks for one
    @property
    def total(self) -> int:
        return sum(self.numbers)


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Numbers(RootModel[list[int]]):
    pass


class Wide(Model):
    more: int = 5


class Bag(BaseModel):
    anything: Any = None
    maybe: float | None = None
    by_number: dict[int, str] = {}


class Options(TypedDict, total=False):
    note: bytes
    retries: int


class Rounded(BaseModel):
    x: Annotated[float, PlainSerializer(lambda x: round(x, 1))]


class Moody(BaseModel):
    n: int

    @model_validator(mode="after")
    def _look(self) -> Moody:
        if self.n == 7:
            raise KeyError("a bug of the validator")
        return self


@dataclass
class Blob:
    data: bytes


@dataclass(eq=False)
class Incomparable:
    n: int


class Texts(BaseModel):
    data: bytes


class NoModel:
    pass


def names(cases: Sequence[tuple[Any, ...]]) -> list[str]:
    """Test ids that are the same in every process."""
    return [f"{place}-{case[0]}-{type(case[1]).__name__}" for place, case in enumerate(cases)]


LOOP: list[Any] = []
LOOP.append(LOOP)
DEEP: list[Any] = []
for _ in range(3000):
    DEEP = [DEEP]

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
        again = decode(encode(sent, kind), kind)
        assert again == sent
        assert type(again) is type(sent)


ARRIVES_AS: list[tuple[Any, Any, Any]] = [
    (float, 1, 1.0), (int, True, 1), (int, Level.LOW, 1), (str, Unit.EUR, "eur"), (Sequence[int], (1, 2), [1, 2]),
    (dict[str, Any], {"a": (1, NOW)}, {"a": [1, "2026-11-23T12:00:00.123456Z"]}), (Any, Colour.RED, "red"),
    (Bag, Bag(anything=Colour.RED), Bag(anything="red")),
    (Any, b"\xff", "_w=="), (Any, [UUID(int=7)], [f"{UUID(int=7)}"]), (Any, Point(1.0, 2.0), {"x": 1.0, "y": 2.0}),
    (Any, {Unit.EUR: 1}, {"eur": 1}), (Any, iter([1]), [1]), (Any, timedelta(days=1), "P1D"), (Any, (1, {2}), [1, [2]]),
    (Any, Bag(by_number={1: "x"}), {"anything": None, "maybe": None, "by_number": {"1": "x"}}),
    (Any, Closed.model_validate({"numbers": "[1, 2]"}), {"numbers": "[1,2]"}), (Rounded, Rounded(x=1.23), Rounded(x=1.2)),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "value", "again"), ARRIVES_AS, ids=names(ARRIVES_AS))
def test_d1_what_is_undeclared_arrives_as_plain_json(declared: Any, value: Any, again: Any) -> None:
    arrived = decode(encode(value, declared), declared)
    assert arrived == again
    assert type(arrived) is type(again)


TYPED_HERE_ONLY: list[tuple[Any, Any]] = [
    *(case for case in MORE_TYPED if case[0] not in (dict[Colour, Level], deque[int])),
    (bytes, b"abcd"), (Blob, Blob(b"abcd")), (Options, {"note": b"abcd"}), (list[bytes], [b"abcd"]), (Texts, Texts(data=b"abcd")),
    (Model, Model(n=1, when=NOW)), (Decimal, Decimal("1.10")), (tuple[int, bytes], (1, b"\xff")), (Pair, Pair(1, "b")),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "value"), TYPED_HERE_ONLY, ids=names(TYPED_HERE_ONLY))
def test_d1_what_is_sent_undeclared_can_be_received_as_its_type(declared: Any, value: Any) -> None:
    assert decode(encode(value), declared) == value


def test_d1_objects_without_a_comparison_are_taken_as_they_are() -> None:
    again = decode(encode([Incomparable(1)], list[Incomparable]), list[Incomparable])
    assert [(type(one), one.n) for one in again] == [(Incomparable, 1)]


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
        encode(value, declared)
    assert "\n" not in str(raised.value)
    again = there_and_back(raised.value)
    assert type(again) is InvalidValueError
    assert (again.args, str(again)) == (raised.value.args, str(raised.value))


NUMBERS = ["1e400", "-1E+400", "1" + "0" * 320 + ".5", "1" + "0" * 250 + "e99", "[1e0400]", '{"maybe": 1e999}']


@pytest.mark.parametrize("declared", [Any, float, list[float], Bag, Decimal], ids=str)
@pytest.mark.parametrize("number", NUMBERS)
def test_d2_a_stored_number_beyond_the_floats_does_not_become_an_infinity(number: str, declared: Any) -> None:
    with pytest.raises(InvalidValueError):
        decode(number, declared)


def test_d2_digits_that_are_no_float_are_left_alone() -> None:
    for value in ("1e400", "9" * 1000, {"id": "5e4000"}, [10**320, "1E+999"], 10**320):
        assert decode(encode(value)) == value


NO_JSON = ["NaN", "-Infinity", "", "{", '"\\ud800"', "[" * 300 + "]" * 300, "1" * 5000, "[1,]", "nul"]


@pytest.mark.parametrize("text", NO_JSON, ids=lambda text: repr(text[:10]))
def test_d2_stored_text_that_cannot_be_read_raises_one_sentence(text: str) -> None:
    for declared in (Any, list[Any]):
        with pytest.raises(InvalidValueError, match=r"^The value cannot be used: [^\n]+\.$"):
            decode(text, declared)


def test_d1_the_deepest_value_can_be_read_inside_of_what_is_put_around_it() -> None:
    deepest: Any = 1
    for _ in range(MAX_DEPTH):
        deepest = [deepest]
    for declared in (Any, list[Any]):
        text = encode(deepest, declared)
        assert decode(text, declared) == deepest
        assert decode('{"call":{"args":[' * 6 + text + "]}}" * 6)
        with pytest.raises(InvalidValueError, match=f"nested deeper than {MAX_DEPTH} levels"):
            encode([deepest], declared)
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
        decode(text, list[Model])
    assert (raised.value.details[0]["type"], raised.value.details[0]["loc"]) == ("int_parsing", [0, "n"])
    assert len(encode(raised.value.args)) < 20_000
    with pytest.raises(InvalidValueError) as sent:
        encode("7", int)
    assert [detail["type"] for detail in sent.value.details] == ["int_type"]


def test_d2_a_bug_in_a_validator_is_named_and_kept_as_the_cause() -> None:
    with pytest.raises(InvalidValueError, match="KeyError") as raised:
        decode('{"n": 7}', Moody)
    assert isinstance(raised.value.__cause__, KeyError)


def test_sql_null_is_none_and_none_is_null() -> None:
    assert encode(None) == encode(None, int | None) == "null"
    for text, declared in ((None, Any), (None, int), ("null", Any), ("null", int | None)):
        assert decode(text, declared) is None


def test_types_that_are_equal_and_are_not_checked_alike_have_checkers_of_their_own() -> None:
    assert adapter(int | str) is adapter(int | str)
    assert adapter(int | str) is not adapter(str | int)
    unhashable = Annotated[int, ["unhashable"]]
    assert adapter(unhashable) is adapter(unhashable)


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
        text = encode(value, declared)
    except InvalidValueError as error:
        str(error).encode()
        return
    again = decode(text, declared)
    assert again == value
    assert type(again) is type(value)


ANYTHING = st.recursive(
    st.none() | st.floats() | st.text(st.characters()) | st.binary() | st.builds(NoModel) | st.datetimes(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(st.characters()) | st.integers(), inner)
        | st.builds(Bag, anything=inner)
        | st.tuples(inner)
    ),
    max_leaves=10,
)


@given(ANYTHING)
def test_d1_what_is_encoded_is_json_for_everybody(value: Any) -> None:
    try:
        text = encode(value)
    except InvalidValueError as error:
        str(error).encode()
        return

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads(text, parse_constant=refuse) == decode(text)


async def test_d1_what_is_encoded_is_json_for_postgres_and_comes_back_as_it_was(connection: Any) -> None:
    deepest: Any = 1
    for _ in range(MAX_DEPTH):
        deepest = {"a": deepest}
    texts = ["\0", {"\0": "\0 😀 \x7f \u2028"}, "\\u0000", ""]
    values = [None, *texts, 10**4000, -0.0, 5e-324, 1.7976931348623157e308, deepest, [], {}]
    await connection.execute("create temporary table kept (place int, value json not null)")
    await connection.executemany("insert into kept values ($1, $2)", list(enumerate(map(encode, values))))
    rows = await connection.fetch("select value::text from kept order by place")
    assert [repr(decode(row["value"])) for row in rows] == [repr(value) for value in values]


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
        encode(value)
    assert "\n" not in str(raised.value)
    str(raised.value).encode()


def test_words_that_look_like_numbers_which_json_cannot_say_are_words() -> None:
    assert decode(encode(["NaN", "Infinity", {"NaN": "-Infinity"}])) == ["NaN", "Infinity", {"NaN": "-Infinity"}]


class PlainError(Exception):
    pass


class KeywordError(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class PickyError(Exception):
    def __new__(cls, must: str) -> Self:
        return super().__new__(cls, must)


def there_and_back(error: BaseException) -> Exception:
    return decode_error(encode_error(error))


@pytest.mark.parametrize(
    "error",
    [
        PlainError(), PlainError("a", 1, [2]), KeywordError(code=7), ValueError("x"), KeyError("k"), OSError(2, "gone"),
        FileNotFoundError(2, "gone", "file"), ZeroDivisionError("division by zero"), TimeoutError(), PickyError("x"),
        WorkflowNotFoundError("w"), errors.StreamTimeoutError("w", "k", 3, 1.5), errors.InvalidArgumentError("x"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"), StopAsyncIteration(), RuntimeError("\ud800"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_an_exception_keeps_type_arguments_and_attributes(error: Exception) -> None:
    again = there_and_back(error)
    if isinstance(error, (UnicodeDecodeError, FileNotFoundError)):
        assert type(again) in (type(error), RecordedError)
        return
    assert type(again) is type(error)
    if "\ud800" not in error.args:
        assert again.args == error.args
    assert vars(again) == vars(error)
    str(again)


def test_causes_notes_and_groups_are_kept() -> None:
    error = PlainError("outer")
    error.__cause__ = KeyError("inner")
    error.add_note("a note")
    again = there_and_back(error)
    assert isinstance(again.__cause__, KeyError)
    assert again.__notes__ == ["a note"]
    group = there_and_back(ExceptionGroup("several", [PlainError(1), ValueError(2)]))
    assert isinstance(group, ExceptionGroup)
    assert [type(member) for member in group.exceptions] == [PlainError, ValueError]
    assert group.message == "several"


def test_what_cannot_be_rebuilt_is_named() -> None:
    class LocalError(Exception):
        pass

    for error in (LocalError("x"), asyncio.CancelledError("x"), BaseExceptionGroup("x", [KeyboardInterrupt()])):
        again = there_and_back(error)
        assert isinstance(again, RecordedError)
        assert type(error).__name__ in str(again)


def test_errors_with_arguments_that_are_no_json_survive() -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise OSError("no")

        __repr__ = __str__

    for argument in (object(), Unprintable(), float("nan"), LOOP, DEEP, {1: 2}, b"\xff"):
        assert isinstance(there_and_back(PlainError(argument)), PlainError)
    try:
        Model(n="x", when=NOW)  # type: ignore[arg-type]  # the mistake under test
    except ValidationError as error:
        assert "Model" in str(there_and_back(error))


HOSTILE = [
    "null", "[]", "{}", "7", '"x"', '{"type": 7}', '{"type": "os:system", "args": ["exit 1"]}', "not json",
    '{"type": "builtins:eval", "args": ["1/0"]}', '{"type": "builtins:SystemExit"}', '{"type": "subprocess:Popen"}',
    '{"type": "this_module_is_not_there:Error"}', '{"type": "builtins:ValueError", "args": "abc", "notes": [1, {}]}',
    '{"type": "builtins:ValueError", "attributes": {"__class__": 1, "args": 5}}', '{"type": "builtins:ValueError.__new__"}',
    '{"type": "builtins:ExceptionGroup", "exceptions": []}', '{"type": "builtins:ValueError", "cause": {"type": []}}',
    '{"type": "builtins:ValueError", "notes": 7}', '{"type": "builtins:ExceptionGroup", "exceptions": 7}',
    '{"type": "dbos_async.errors:StreamClosedError", "args": []}', '{"type": "dbos_async.errors:annotations"}',
    '{"type": "antigravity:x"}',
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_d1_nothing_received_runs_code_or_triggers_an_import(text: str) -> None:
    modules = set(sys.modules)
    error = decode_error(text)
    assert isinstance(error, Exception)
    str(error)
    assert set(sys.modules) == modules


def test_every_error_of_ours_comes_back_as_itself() -> None:
    for error in (
        errors.WorkflowConflictError("w", "a", "b"),
        errors.ReplayMismatchError("w", "1", "a", "b"),
        errors.DatabaseUnavailableError(30.0, True, "gone"),
        errors.InvalidValueError("The value", "is odd", [{"loc": ["x"]}]),
        errors.NoDatabaseError(),
    ):
        again = there_and_back(error)
        assert type(again) is type(error)
        assert (again.args, str(again)) == (error.args, str(error))


class OrderError(Exception):
    """An error that makes its message of its attributes."""

    def __init__(self, order: str, *, cents: int, due: datetime, reply: object = None) -> None:
        super().__init__()
        self.order, self.cents, self.due, self.reply = order, cents, due, reply

    def __str__(self) -> str:
        return f"{self.order}: {self.cents} cents due {self.due}"


class GatewayError(OSError):
    def __init__(self, code: int) -> None:
        super().__init__(code, "the gateway is away")
        self.code = code


class CrowdError(ExceptionGroup[Exception]):
    partition = 0


class CannotBeReadError(Exception):
    @property
    def args(self) -> Any:
        raise OSError("no")

    @args.setter
    def args(self, value: object) -> None:
        raise OSError("no")


class HidesItsCauseError(Exception):
    @property
    def __cause__(self) -> Any:  # type: ignore[override]  # nobody can keep a program from it
        raise OSError("no")


class Outer:
    class InnerError(Exception):
        pass


def test_w2_an_exception_keeps_what_its_message_is_made_of() -> None:
    error = OrderError("order-17", cents=7, due=NOW, reply=NoModel())
    again = there_and_back(error)
    assert type(again) is OrderError
    assert vars(again) == {"order": "order-17", "cents": 7, "due": "2026-11-23T12:00:00.123456Z"}
    assert str(again) == "order-17: 7 cents due 2026-11-23T12:00:00.123456Z"


FIELDS = ("errno", "strerror", "filename", "filename2", "name", "path", "object", "start", "end", "lineno", "code")
BUILT_IN: list[Exception] = [
    OSError(2, "gone"), OSError(2, "gone", "a file", None, "another"), BlockingIOError(11, "busy"), GatewayError(7),
    UnicodeDecodeError("utf-8", b"a\xff", 1, 2, "bad"), UnicodeEncodeError("utf-8", "a\ud800", 1, 2, "surrogates not allowed"),
    UnicodeTranslateError("añ", 1, 2, "bad"), ModuleNotFoundError("No module", name="m", path="p"), KeyError("k"), KeyError(7),
    SyntaxError("bad", ("f.py", 1, 2, "text", 1, 3)), Outer.InnerError("x", None, 1.5, [1], {"a": None}), StopIteration(3),
    subprocess.CalledProcessError(1, ["a", "b"], "out"), AttributeError("a"), ValueError((1, 2)), ValueError(b"\xff"),
    ValueError(Colour.RED), ValueError(math.nan), ValueError(NOW), ValueError({1: 2}), ValueError(UUID(int=7)), ValueError("\0"),
    asyncpg.UniqueViolationError("twice"), asyncpg.InterfaceError("closed"), TimeoutError("late"), MemoryError(), ValueError(None),
]  # fmt: skip
try:
    json.loads("{")
except json.JSONDecodeError as found:
    BUILT_IN.append(found)
try:
    Path("/nowhere/at/all").read_text()
except FileNotFoundError as found:
    BUILT_IN.append(found)


@pytest.mark.parametrize("error", BUILT_IN, ids=repr)
def test_w2_an_exception_keeps_its_type_and_its_message(error: Exception) -> None:
    again = there_and_back(error)
    assert type(again) is type(error)
    assert str(again) == str(error)
    for field in FIELDS:
        assert getattr(again, field, None) == getattr(error, field, None)
    assert str(there_and_back(again)) == str(error)


def test_w2_a_group_keeps_its_type_attributes_notes_and_the_causes_of_its_members() -> None:
    member = ValueError("member")
    member.__cause__ = KeyError("cause")
    group = CrowdError("several", [member, CrowdError("inner", [OrderError("o", cents=1, due=NOW)])])
    group.partition = 7
    group.add_note("a note")
    again = there_and_back(group)
    assert isinstance(again, CrowdError)
    assert (again.message, again.partition, again.__notes__) == ("several", 7, ["a note"])
    first, second = again.exceptions
    assert (type(first), first.args, type(first.__cause__)) == (ValueError, ("member",), KeyError)
    assert isinstance(second, CrowdError)
    assert [type(one) for one in second.exceptions] == [OrderError]


def test_what_is_recorded_of_causes_and_members_is_bounded_and_says_so() -> None:
    crowd: Exception = ValueError("one and the same")
    for _ in range(6):
        crowd = ExceptionGroup("many", [crowd] * 20)
    text = encode_error(crowd)
    assert len(text) < 20_000
    again = decode_error(text)
    assert isinstance(again, ExceptionGroup)
    assert "more errors of this group are not recorded" in text
    circle = ValueError("round")
    circle.__cause__ = circle
    seen: BaseException | None = there_and_back(circle)
    depth = 0
    while seen is not None:
        seen, depth = seen.__cause__, depth + 1
    assert depth == 9


def test_to_record_an_exception_uses_nothing_up() -> None:
    error = ValueError(iter([1, 2]))
    error.left = (one for one in [1, 2])  # type: ignore[attr-defined]  # any attribute can be set
    there_and_back(error)
    assert list(error.args[0]) == list(error.left) == [1, 2]  # type: ignore[attr-defined]  # as above


def test_exceptions_that_cannot_be_looked_at_are_recorded_by_their_names() -> None:
    notes = ValueError("x")
    notes.__notes__ = 7  # type: ignore[assignment]  # nobody can keep a program from it
    assert str(there_and_back(notes)) == "x"
    for error in (CannotBeReadError("x"), HidesItsCauseError("x")):
        assert type(error).__name__ in repr(there_and_back(error))
    recorded = there_and_back(there_and_back(asyncio.CancelledError("stop")))
    assert isinstance(recorded, RecordedError)
    assert (recorded.type_name, recorded.message) == ("asyncio.exceptions:CancelledError", "stop")


def test_w2_the_type_is_found_by_name_in_imported_modules_only() -> None:
    error = there_and_back(Outer.InnerError("x"))
    assert type(error) is Outer.InnerError
    unknown = decode_error('{"type": "not_imported_yet:OddError", "message": "gone", "notes": ["a note"], "args": [1]}')
    assert isinstance(unknown, RecordedError)
    assert (unknown.args, unknown.__notes__) == (("not_imported_yet:OddError", "gone"), ["a note"])


def test_errors_of_ours_can_be_written_by_sql() -> None:
    error = decode_error('{"type": "dbos_async.errors:WorkflowNotFoundError", "args": ["order-17"]}')
    assert isinstance(error, WorkflowNotFoundError)
    assert error.workflow_id == "order-17"
    assert str(error) == str(WorkflowNotFoundError("order-17"))


MORE_HOSTILE = [
    '{"type": "builtins:ValueError", "attributes": {"add_note": 1, "with_traceback": 2, "__notes__": 3}, "notes": ["x"]}',
    '{"type": "builtins:ValueError", "attributes": {"__class__": "x", "__dict__": 1, "__cause__": 2, "args": 3}}',
    '{"type": "dbos_async.errors:StreamTimeoutError", "args": ["a", "b", "c", "d"]}',
    '{"type": "dbos_async.errors:DBOSError.__init__"}',
    '{"type": "builtins:UnicodeDecodeError", "args": ["a", "x", -9999999999, -9999999998, "r"], "attributes": {"object": ""}}',
    '{"type": "builtins:UnicodeEncodeError", "args": ["utf-8", "x", 3, 4, "r"], "attributes": {"object": "w7HDsQ=="}}',
    '{"type": "builtins:UnicodeDecodeError"}',
    '{"type": "builtins:UnicodeDecodeError", "args": [1, 2, 3, 4, 5], "attributes": {"object": 7}}',
    '{"type": "builtins:OSError", "args": [[], {}, 7, 8, 9, 10]}',
    '{"type": "builtins:OSError", "attributes": {"errno": {}, "filename": []}}',
    '{"type": "builtins:ImportError", "attributes": {"msg": 5, "name": []}}',
    '{"type": "builtins:SyntaxError", "attributes": {"lineno": "x", "msg": {}}}',
    '{"type": "builtins:ExceptionGroup"}',
    '{"type": "builtins:ExceptionGroup", "args": ["x"], "exceptions": [{"type": "os:system"}]}',
    '{"type": "builtins:BaseExceptionGroup", "args": ["x"], "exceptions": [{"type": "builtins:KeyError"}]}',
    '{"type": ":"}',
    '{"type": ""}',
    '{"type": "pydantic_core:ValidationError", "args": ["x", []]}',
    '{"type": "pydantic_core._pydantic_core:ValidationError", "args": ["x"]}',
    '{"type": "builtins:ValueError", "args": [1e400, "\\u0000"]}',
    '{"type": "builtins:ValueError", "args": ["\\ud800"]}',
    '{"type": "builtins:ValueError", "cause": 7}',
    '{"type": "builtins:ValueError", "attributes": []}',
    '{"type": "builtins:ValueError", "message": {}}',
    '{"type": "builtins:ValueError", "cause": ' * 80 + '{"type": "x:y"}' + "}" * 80,
    "[" * 100_000,
    '{"type": "builtins:ValueError.args"}',
    '{"type": "builtins:Exception.mro"}',
    '{"type": "builtins:GeneratorExit"}',
    '{"type": "tests.test_codec:TRAP"}',
    '{"type": "tests.test_codec:Trap.x"}',
]


class Trap(Exception):  # noqa: N818
    """The test fails if any of its code runs."""

    def __new__(cls, *args: object) -> Self:
        raise AssertionError("__new__ was run")

    def __init__(self, *args: object) -> None:
        raise AssertionError("__init__ was run")

    def __setattr__(self, name: str, value: object) -> None:
        raise AssertionError("__setattr__ was run")

    @property
    def filename(self) -> str:
        raise AssertionError("a property was run")


TRAP = Exception.__new__(Trap)


@pytest.mark.parametrize("text", MORE_HOSTILE, ids=[f"{n} {text[:60]}" for n, text in enumerate(MORE_HOSTILE)])
def test_d1_hostile_records_are_errors_and_nothing_more(text: str) -> None:
    modules = set(sys.modules)
    error = decode_error(text)
    assert isinstance(error, Exception)
    assert str(error) is not None
    assert repr(error)
    assert isinstance(there_and_back(error), Exception)
    error.add_note("a note can be added")
    assert set(sys.modules) == modules


def test_d1_no_code_of_the_exception_runs_when_it_is_rebuilt() -> None:
    error = decode_error('{"type": "tests.test_codec:Trap", "args": [1], "attributes": {"a": 2, "filename": "x"}}')
    assert type(error) is Trap
    assert error.args == (1,)
    assert vars(error) == {"a": 2, "filename": "x"}


EXCEPTION_NAMES = sorted(
    name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)
)


@given(
    st.sampled_from(EXCEPTION_NAMES), st.lists(JSON, max_size=6),
    st.dictionaries(st.sampled_from(["object", "errno", "filename", "msg", "x", "args", "__notes__"]), JSON), JSON,
)  # fmt: skip
def test_d1_any_record_of_a_built_in_exception_is_an_error_and_nothing_more(
    name: str, args: list[Any], attributes: dict[str, Any], other: Any
) -> None:
    record = {"type": f"builtins:{name}", "args": args, "attributes": attributes}
    for text in (
        json.dumps(record),
        json.dumps({**record, "cause": other}),
        json.dumps({**record, "exceptions": [record]}),
    ):
        error = decode_error(text)
        assert isinstance(error, Exception)
        assert str(error) is not None


@given(JSON)
def test_d1_any_json_can_stand_where_an_exception_was_stored(value: Any) -> None:
    assert isinstance(decode_error(json.dumps(value)), RecordedError)
    assert isinstance(decode_error(json.dumps({"type": "builtins:ValueError", "args": value})), Exception)


@given(
    st.sampled_from([PlainError, ValueError, KeyError, CrowdError]),
    st.lists(ANYTHING, max_size=3),
    st.dictionaries(st.text(), ANYTHING),
)
def test_w2_any_exception_survives(kind: type[Exception], arguments: list[Any], attributes: dict[str, Any]) -> None:
    error = CrowdError("many", [ValueError(*arguments)]) if kind is CrowdError else kind(*arguments)
    vars(error).update(attributes)
    again = there_and_back(error)
    assert type(again) is kind
    assert len(again.args) == len(error.args)
    assert encode_error(again) == encode_error(there_and_back(again))


def example(a: int, /, b: datetime, *rest: Decimal, c: Colour = Colour.RED, **more: bytes) -> None: ...


def untyped(a, b=2, *rest, c, **more):  # type: ignore[no-untyped-def]  # what is tested
    ...


def test_d1_calls_travel_by_their_annotations() -> None:
    signature = Signature(example)
    args, kwargs = signature.decode_call(
        signature.encode_call((1, NOW, Decimal("1.10")), {"c": Colour.RED, "x": b"\xff"})
    )
    assert (args, kwargs) == ([1, NOW, Decimal("1.10")], {"c": Colour.RED, "x": b"\xff"})
    assert signature.decode_call(signature.encode_call((1,), {"b": NOW})) == ([1, NOW], {})
    plain = encode_plain_call((1, "2026-11-23T12:00:00.123456Z"), {"c": "red"})
    assert signature.decode_call(plain) == ([1, NOW], {"c": Colour.RED})
    with pytest.raises(TypeError, match="missing a required argument: 'b'"):
        signature.encode_call((1,), {})
    with pytest.raises(InvalidValueError, match="The argument 'b' of example cannot be used"):
        signature.encode_call((1, "tomorrow"), {})


def test_d1_calls_without_annotations_are_plain_json() -> None:
    signature = Signature(untyped)
    assert signature.decode_call(signature.encode_call((1, (2,), 3), {"c": {"k": NOW}})) == (
        [1, [2], 3],
        {"c": {"k": "2026-11-23T12:00:00.123456Z"}},
    )
