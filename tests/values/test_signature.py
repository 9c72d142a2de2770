"""Calls as JSON and back by the annotations of a function: promises D1 and D2, without a database."""

from __future__ import annotations

import functools
import inspect
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, NoReturn, ParamSpec, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from dbos_async import InvalidValueError, RegistrationError
from dbos_async._serialization.signature import Signature, encode_plain_call
from dbos_async._serialization.values import MAX_DEPTH

P = ParamSpec("P")
X = TypeVar("X")

Positive = Annotated[int, Field(gt=0)]

NOW = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)


class Order(BaseModel):
    id: str
    price: Decimal = Decimal(0)
    data: bytes = b""


@dataclass
class Line:
    sku: str
    data: bytes


def plain(a, b=2, c=3):  # type: ignore[no-untyped-def]  # only its signature counts
    ...


def everything(a: int, /, b: str = "x", *rest: float, k: bool, **others: list[int]) -> None: ...


def sold(
    order: Order, line: Line, data: bytes, at: datetime | None = None, *more: Decimal, **tags: tuple[int, str]
) -> None: ...


def mixed(a, b: Decimal = Decimal(1), *, c=3, d: Order | None = None):  # type: ignore[no-untyped-def]  # only its signature counts
    ...


def keyword_of_the_same_name(a: int, /, **others: Decimal) -> None: ...


CALLS: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = [
    (plain, (1,), {}), (plain, (1, 5, 6), {}), (plain, (1,), {"c": 9}), (plain, (), {"c": 9, "a": 1}), (plain, (None,), {}),
    (everything, (1,), {"k": True}), (everything, (1, "y", 1.5, 2.5), {"k": False, "z": [1], "a": [2]}),
    (everything, (1,), {"k": True, "b": "y"}),
    (sold, (Order(id="o", price=Decimal("1.10")), Line("s", b"\xff"), b"\xff"), {}),
    (sold, (Order(id="o", data=b"abcd"), Line("s", b"abcd"), b"abcd", NOW, Decimal("1.0"), Decimal("2.50")), {"red": (1, "x")}),
    (sold, (), {"data": b"", "line": Line("s", b""), "order": Order(id="o"), "at": None}), (mixed, ("x",), {"d": Order(id="o")}),
    (mixed, ({"k": [1]}, Decimal(7)), {"c": [None]}), (mixed, (1.5,), {}), (keyword_of_the_same_name, (1,), {"a": Decimal(2)}),
]  # fmt: skip


def bound(function: Callable[..., Any], args: Any, kwargs: Any) -> dict[str, Any]:
    return inspect.signature(function).bind(*args, **kwargs).arguments


@pytest.mark.parametrize(
    ("function", "args", "kwargs"), CALLS, ids=[f"{n} {call[0].__name__}" for n, call in enumerate(CALLS)]
)
def test_d1_a_call_arrives_as_it_was_made(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    signature = Signature(function)
    sent = bound(function, args, kwargs)
    for text in (signature.encode_call(args, kwargs), encode_plain_call(args, kwargs)):
        json.loads(text)
        again_args, again_kwargs = signature.decode_call(text)
        again = bound(function, again_args, again_kwargs)
        assert again == sent
        assert {name: type(value) for name, value in again.items()} == {
            name: type(value) for name, value in sent.items()
        }


@given(st.lists(st.sampled_from("bcd"), unique=True), st.integers(0, 3), st.data())
def test_d1_arguments_never_change_places(names: list[str], count: int, data: st.DataObject) -> None:
    def function(a: Any, b: Any = 0, c: Any = 0, *, d: Any = 0) -> Any:
        return a, b, c, d

    args = tuple(data.draw(st.integers()) for _ in range(count))
    kwargs = {name: data.draw(st.integers()) for name in names}
    signature = Signature(function)
    try:
        expected = function(*args, **kwargs)
    except TypeError:
        with pytest.raises(TypeError):
            signature.encode_call(args, kwargs)
        return
    again_args, again_kwargs = signature.decode_call(signature.encode_call(args, kwargs))
    assert function(*again_args, **again_kwargs) == expected


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "missing a required argument: 'a'"),
        ((1,), {}, "missing a required .*argument: 'k'"),
        ((1, "x"), {"k": True, "b": "y"}, "multiple values for argument 'b'"),
    ],
)
def test_a_call_that_does_not_bind_raises_as_python_does(args: Any, kwargs: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Signature(everything).encode_call(args, kwargs)
    with pytest.raises(TypeError, match="too many positional arguments"):
        Signature(plain).encode_call((1, 2, 3, 4), {})
    with pytest.raises(TypeError, match="unexpected keyword argument 'x'"):
        Signature(plain).encode_call((1,), {"x": 1})


@pytest.mark.parametrize(
    ("args", "kwargs", "name"),
    [
        (("1",), {"k": True}, "a"), ((1, 2), {"k": True}, "b"), ((1, "x", "y"), {"k": True}, "rest"), ((1,), {"k": 1}, "k"),
        ((1,), {"k": True, "z": [1.5]}, "others"), ((1, "x", math.nan), {"k": True}, "rest"),
    ],
)  # fmt: skip
def test_d2_an_argument_that_does_not_fit_raises_at_the_caller_and_is_named(args: Any, kwargs: Any, name: str) -> None:
    with pytest.raises(InvalidValueError, match=f"^The argument '{name}' of everything cannot be used: "):
        Signature(everything).encode_call(args, kwargs)


@pytest.mark.parametrize("value", [math.nan, object(), {1: 2}, "\ud800"], ids=lambda value: type(value).__name__)
def test_d2_an_undeclared_argument_that_is_no_json_raises_and_is_named(value: Any) -> None:
    with pytest.raises(InvalidValueError, match="^The argument 'b' of plain cannot be used: "):
        Signature(plain).encode_call((1, value), {})
    with pytest.raises(InvalidValueError, match="^The arguments of the workflow cannot be used: "):
        encode_plain_call((1, value), {})


def test_d2_a_stored_argument_that_does_not_fit_raises_at_the_function_and_is_named() -> None:
    text = encode_plain_call(({"id": 7}, {}, ""), {})
    with pytest.raises(InvalidValueError, match="^The stored argument 'order' of sold cannot be used: id: ") as raised:
        Signature(sold).decode_call(text)
    assert raised.value.details[0]["loc"] == ["id"]


@pytest.mark.parametrize(
    "text", ["null", "[]", "7", "{}", '{"args": {}, "kwargs": {}}', '{"args": [], "kwargs": []}', '{"args": []}', "no"]
)
def test_d2_a_stored_call_that_is_none_raises_one_sentence(text: str) -> None:
    with pytest.raises(InvalidValueError, match=r"^The stored call of plain cannot be used: [^\n]*$"):
        Signature(plain).decode_call(text)


def test_a_stored_call_that_no_longer_binds_is_left_to_the_call() -> None:
    args, kwargs = Signature(everything).decode_call('{"args":[],"kwargs":{"odd":[1],"k":true}}')
    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'a'"):
        everything(*args, **kwargs)
    assert Signature(plain).decode_call('{"args":[1,2,3,4],"kwargs":{"x":5}}') == ([1, 2, 3, 4], {"x": 5})


def test_d1_the_deepest_argument_can_be_called_with() -> None:
    deepest: Any = 1
    for _ in range(MAX_DEPTH):
        deepest = [deepest]
    signature = Signature(plain)
    assert signature.decode_call(signature.encode_call((deepest,), {"c": deepest})) == ([deepest], {"c": deepest})


class NoModel:
    pass


class Wrong:
    """Functions that cannot be registered."""

    @staticmethod
    def unknown(one: NoModel) -> None: ...
    @staticmethod
    def in_a_list(orders: list[NoModel]) -> None: ...
    @staticmethod
    def call(back: Callable[[int], int]) -> None: ...
    @staticmethod
    def call_or_not(back: Callable[[int], int] | None = None) -> None: ...
    @staticmethod
    def kind(kind: type[int]) -> None: ...
    @staticmethod
    def once(numbers: Iterable[int]) -> None: ...
    @staticmethod
    def rest(*numbers: NoModel) -> None: ...
    @staticmethod
    def no_type(number: 3) -> None: ...  # type: ignore[valid-type]  # the mistake under test
    @staticmethod
    def result(number: int) -> NoModel: ...  # type: ignore[empty-body]  # nobody calls it


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("unknown", "parameter 'one'"), ("in_a_list", "parameter 'orders'"), ("call", "parameter 'back'"),
        ("call_or_not", "parameter 'back'"), ("kind", "parameter 'kind'"), ("once", "parameter 'numbers'"),
        ("rest", "parameter 'numbers'"), ("no_type", "parameter 'number'"), ("result", "result"),
    ],
)  # fmt: skip
def test_an_annotation_without_json_raises_at_decoration(name: str, place: str) -> None:
    with pytest.raises(
        RegistrationError, match=f"^The {place} of Wrong.{name} is annotated as .*: annotate it with"
    ) as raised:
        Signature(getattr(Wrong, name))
    assert "\n" not in str(raised.value)
    if place != "result":
        assert Signature(getattr(Wrong, name), takes_stored_arguments=False).result_type is type(None)


def later(order: Later, lines: list[Later] | None = None) -> dict[str, Later]: ...  # type: ignore[empty-body]  # only its signature counts


def of_a_model_that_waits(waits: Waits, all_of_them: list[Waits] | None = None) -> None: ...


class Waits(BaseModel):
    for_it: ForIt


SIGNATURES = [Signature(later), Signature(of_a_model_that_waits)]


class Later(BaseModel):
    n: int


class ForIt(BaseModel):
    n: int


def test_d1_what_is_defined_further_down_is_resolved_at_first_use() -> None:
    first, second = SIGNATURES
    assert first.decode_call(first.encode_call((Later(n=1), [Later(n=2)]), {})) == ([Later(n=1), [Later(n=2)]], {})
    assert first.result_type == dict[str, Later]
    waits = Waits(for_it=ForIt(n=1))
    assert second.decode_call(second.encode_call((waits, [waits]), {})) == ([waits, [waits]], {})


def never_resolved(order: NotToBeFound) -> int: ...  # type: ignore[name-defined, empty-body]  # noqa: F821  # the mistake under test


def test_what_is_defined_nowhere_is_named_at_first_use() -> None:
    signature = Signature(never_resolved)
    for use in (
        lambda: signature.encode_call((1,), {}),
        lambda: signature.decode_call('{"args":[1],"kwargs":{}}'),
        lambda: signature.result_type,
    ):
        with pytest.raises(
            RegistrationError,
            match="^The annotation of the parameter 'order' of never_resolved cannot be resolved .*NotToBe",
        ):
            use()
    assert Signature(never_resolved, takes_stored_arguments=False).result_type is int


def test_the_type_of_the_result() -> None:
    async def coroutine() -> list[Order]: ...  # type: ignore[empty-body]  # only its signature counts

    async def nothing() -> None: ...

    async def for_ever() -> NoReturn:
        raise AssertionError

    async def positive() -> Positive: ...  # type: ignore[empty-body]  # only its signature counts

    assert Signature(coroutine).result_type == list[Order]
    assert Signature(nothing).result_type is type(None)
    assert Signature(for_ever).result_type is Any
    assert Signature(positive).result_type is Positive
    assert Signature(plain).result_type is Any


def test_d1_wrapped_functions_travel_by_the_annotations_of_what_they_wrap() -> None:
    @functools.wraps(sold)
    def wrapper(*args: Any, **kwargs: Any) -> None: ...

    def passes_on(one: X, *args: P.args, **kwargs: P.kwargs) -> X: ...  # type: ignore[empty-body, valid-type]  # only its signature counts

    call = (Order(id="o"), Line("s", b"\xff"), b"\xff")
    signature = Signature(wrapper)
    assert signature.decode_call(signature.encode_call(call, {})) == (list(call), {})
    signature = Signature(passes_on)
    assert signature.decode_call(signature.encode_call(({"a": 1}, 2), {"b": 3})) == ([{"a": 1}, 2], {"b": 3})
