"""Values and exceptions as JSON and back: promises D1, D2, D3 and D5, without a database."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple, Self
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

from dbos_async import InvalidMessageError, InvalidValueError, RecordedError, WorkflowNotFoundError, errors
from dbos_async._codec import decode, decode_error, encode, encode_error
from dbos_async._signature import Signature, encode_plain_call

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


LOOP: list[Any] = []
LOOP.append(LOOP)
DEEP: list[Any] = []
for _ in range(3000):
    DEEP = [DEEP]


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
        b"\xff",
        {1: 2},
        {(1, 2): 3},
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


def example(a: int, /, b: datetime, *rest: Decimal, c: Colour = Colour.RED, **more: bytes) -> None: ...


def untyped(a, b=2, *rest, c, **more):  # type: ignore[no-untyped-def]
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
