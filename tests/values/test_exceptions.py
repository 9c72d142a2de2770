"""Exceptions as JSON and back: promise W2, without a database."""

from __future__ import annotations

import asyncio
import copy
import inspect
import json
import math
import pickle
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    ValidationError,
)

from dbos_async import InvalidValueError, RecordedError, WorkflowNotFoundError, errors
from dbos_async._serialization.exceptions import decode_error, encode_error
from dbos_async._serialization.values import encode_value
from tests.support.models import (
    ANYTHING,
    DEEP,
    LOOP,
    NOW,
    Colour,
    Model,
    NoModel,
    there_and_back,
)


class PlainError(Exception):
    pass


class KeywordError(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class PickyError(Exception):
    def __new__(cls, must: str) -> Self:
        return super().__new__(cls, must)


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


KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", KINDS)
def test_d5_an_error_made_by_keywords_equals_one_made_by_position_and_survives_pickling(kind: type[Exception]) -> None:
    numbers = {"float": 1.5, "float | timedelta": 1.5, "bool": True, "int": 2}
    fields = {
        name: numbers.get(parameter.annotation, "x")
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.default is parameter.empty and name != "self"
    }
    error, by_position = kind(**fields), kind(*fields.values())
    for again in (by_position, pickle.loads(pickle.dumps(error)), copy.copy(error), there_and_back(error)):
        assert type(again) is kind
        assert (again.args, vars(again), str(again)) == (error.args, vars(error), str(error))
    if fields:
        with pytest.raises(TypeError, match="missing"):
            kind()


def test_d2_an_error_is_not_a_value() -> None:
    for declared in (Any, list[Any], list[WorkflowNotFoundError]):
        with pytest.raises(InvalidValueError, match="WorkflowNotFoundError('>)?, which has no JSON"):
            encode_value([WorkflowNotFoundError("w")], declared)
    again = there_and_back(PlainError(WorkflowNotFoundError("w")))
    assert again.args == (str(WorkflowNotFoundError("w")),)


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
    for error in (asyncio.CancelledError("x"), BaseExceptionGroup("x", [KeyboardInterrupt()])):
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
    """Its message is made of its attributes."""

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
    assert vars(again) == {"order": "order-17", "cents": 7, "due": NOW}
    assert str(again) == str(error) == "order-17: 7 cents due 2026-11-23 12:00:00.123456+00:00"


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
