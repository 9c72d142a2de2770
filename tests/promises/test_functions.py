"""Functions of every shape: each works as a step and as a workflow, or is refused when it is decorated (D5, W1, W4)."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import operator
import threading
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from dbos_async import (
    DBOS,
    InvalidArgumentError,
    InvalidValueError,
    RegistrationError,
    SetWorkflowID,
)


async def double(number: int) -> int:
    return 2 * number


def add(one: int, other: int = 1) -> int:
    return one + other


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator as many are: a def around whatever it decorates."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def undeclared(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator without `functools.wraps`."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def awaited(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that makes an async def."""

    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return wrapper


def runs_a_loop(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that makes a def of an async def, with a loop of its own."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return asyncio.run(function(*args, **kwargs))

    return wrapper


def returns_a_coroutine(number: int) -> Coroutine[Any, Any, int]:
    assert asyncio.get_running_loop().is_running()
    return double(number)


def returns_a_task(number: int) -> Awaitable[int]:
    return asyncio.ensure_future(double(number))


class Doubles:
    async def __call__(self, number: int) -> int:
        return 2 * number


class DoublesInAThread:
    def __call__(self, number: int) -> int:
        assert threading.current_thread() is not threading.main_thread()
        return 2 * number


@dataclass
class Multiplier:
    by: int

    async def multiply(self, number: int) -> int:
        return self.by * number

    @classmethod
    async def make(cls, by: int) -> int:
        return cls(by).by * 2


STEPS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "async def": (double, (21,)), "lambda": (lambda number: 2 * number, (21,)), "static": (staticmethod(double), (21,)),
    "partial": (functools.partial(double, 21), ()), "partial of a def": (functools.partial(add, other=21), (21,)),
    "partial of a partial": (functools.partial(functools.partial(double), 21), ()),
    "def over async def": (logged(double), (21,)), "async def over async def": (awaited(double), (21,)),
    "undeclared decorator": (undeclared(double), (21,)), "with a loop of its own": (runs_a_loop(double), (21,)),
    "two decorators": (logged(awaited(double)), (21,)), "partial of decorated": (functools.partial(logged(double), 21), ()),
    "decorated partial": (logged(functools.partial(double, 21)), ()), "a coroutine": (returns_a_coroutine, (21,)),
    "a task": (returns_a_task, (21,)), "lambda of a coroutine": (lambda: double(21), ()),
    "callable": (Doubles(), (21,)), "callable in a thread": (DoublesInAThread(), (21,)),
    "method": (Multiplier(2).multiply, (21,)), "method of a class": (Multiplier.make, (21,)), "builtin": (abs, (-42,)),
    "written in C": (operator.index, (42,)), "no signature": (max, (3, 42)), "cached": (functools.lru_cache(abs), (42,)),
}  # fmt: skip


@pytest.mark.usefixtures("dbos")
@pytest.mark.parametrize("shape", STEPS)
async def test_d5_a_step_of_any_shape_runs_once_and_is_recorded(shape: str) -> None:
    function, args = STEPS[shape]
    step: Any = DBOS.step(name=shape)(function)

    @DBOS.workflow(name=f"calls {shape}")
    async def work() -> int:
        return int(await step(*args))

    with SetWorkflowID("w"):
        assert await work() == 42
    assert [(found.key, found.output) for found in await DBOS.list_workflow_steps("w")] == [(shape, 42)]
    assert await step(*args) == 42  # a plain call


WORKFLOWS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "async def": (double, (21,)), "static": (staticmethod(double), (21,)), "a coroutine": (returns_a_coroutine, (21,)),
    "a task": (returns_a_task, (21,)), "partial": (functools.partial(double, 21), ()),
    "def over async def": (logged(double), (21,)), "async def over async def": (awaited(double), (21,)),
    "two decorators": (logged(awaited(double)), (21,)), "partial of decorated": (functools.partial(logged(double), 21), ()),
    "decorated partial": (logged(functools.partial(double, 21)), ()), "method of a class": (Multiplier.make, (21,)),
}  # fmt: skip


@pytest.mark.usefixtures("dbos")
@pytest.mark.parametrize("shape", WORKFLOWS)
async def test_d5_a_workflow_of_any_shape_runs(shape: str) -> None:
    function, args = WORKFLOWS[shape]
    workflow: Any = DBOS.workflow(name=f"is {shape}")(function)
    assert await workflow(*args) == 42
    handle = await DBOS.start_workflow(workflow, *args)
    assert await handle.get_result() == 42
    with pytest.raises(TypeError):
        await workflow(1, 2, 3, 4)  # the signature is that of the function


def numbers() -> Iterator[int]:
    yield 1


async def numbers_one_by_one() -> AsyncIterator[int]:
    yield 1


class Shop:
    async def order(self, item: str) -> str:
        return item

    async def of_class(cls, item: str) -> str:  # noqa: N805  # the mistake under test
        return item


STEP = DBOS.step(name="decorated once")(double)
WORKFLOW = DBOS.workflow(name="decorated once")(double)

REFUSED: dict[str, tuple[Any, str, str]] = {
    "generator": (numbers, "both", "numbers is a generator: return a list"),
    "async generator": (numbers_one_by_one, "both", "numbers_one_by_one is a generator: return a list"),
    "partial of a generator": (functools.partial(numbers), "both", "is a generator: return a list"),
    "context manager": (contextlib.contextmanager(numbers), "both", "numbers is a context manager: use it inside"),
    "async one": (contextlib.asynccontextmanager(numbers_one_by_one), "both", "numbers_one_by_one is a context manager"),
    "class": (Multiplier, "both", "Multiplier'> is none"), "no function": (5, "both", "5 is none"),
    "property": (property(double), "both", "is none"), "partialmethod": (functools.partialmethod(double), "both", "is none"),
    "single dispatch": (functools.singledispatchmethod(add), "both", "is none"),
    "step": (STEP, "both", "'decorated once' is a step already"),
    "workflow": (WORKFLOW, "both", "'decorated once' is a workflow already"),
    "bound step": (types.MethodType(STEP, 1), "both", "'decorated once' is a step already"),
    "def": (add, "workflow", "decorates async functions"), "lambda": (lambda: double(1), "workflow", "decorates async functions"),
    "builtin": (abs, "workflow", "decorates async functions"),
    "bound method": (Shop().order, "workflow", "Shop.order belongs to an object"),
    "callable": (Doubles(), "workflow", "belongs to an object"),
    "class before classmethod": (Shop.of_class, "workflow", "write @DBOS.workflow\\(\\) above @classmethod"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["step", "workflow"])
@pytest.mark.parametrize("shape", REFUSED)
def test_d5_what_cannot_work_is_refused_when_it_is_decorated_in_one_sentence(shape: str, kind: str) -> None:
    function, refused_by, sentence = REFUSED[shape]
    decorator: Any = getattr(DBOS, kind)(name=f"refused {shape}")
    if refused_by not in ("both", kind):
        assert decorator(function)
        return
    with pytest.raises(RegistrationError, match=rf"^[^\n]*{sentence}[^\n]*\.$"):
        decorator(function)


@pytest.mark.parametrize(
    "function", [lambda: 1, functools.partial(double, 1), Doubles()], ids=["lambda", "partial", "callable"]
)
def test_d5_what_has_no_name_is_given_one(function: Any) -> None:
    with pytest.raises(RegistrationError, match=r"has no name .*: write DBOS.step\(name=…\)\.$"):
        DBOS.step()(function)
    with pytest.raises(InvalidArgumentError, match="^name must not be empty"):
        DBOS.step(name="")(function)


@pytest.mark.usefixtures("dbos")
async def test_d5_decorators_over_ours_run_outside_and_are_no_workflows() -> None:
    over_step, over_workflow = awaited(DBOS.step(name="under one")(double)), logged(WORKFLOW)

    @DBOS.workflow(name="calls what is over a step")
    async def work() -> int:
        return int(await over_step(21))

    with SetWorkflowID("w"):
        assert await work() == 42
    assert [step.key for step in await DBOS.list_workflow_steps("w")] == ["under one"]
    assert await over_workflow(21) == 42
    with pytest.raises(RegistrationError, match=r"has a decorator over @DBOS.workflow\(\)"):
        await DBOS.start_workflow(over_workflow, 21)  # type: ignore[call-overload]  # the mistake under test


@pytest.mark.usefixtures("dbos")
async def test_d2_a_generator_that_a_step_returns_is_its_error_and_no_code_of_it_runs() -> None:
    ran: list[int] = []

    def lazily() -> Any:
        return (append(number) for append in (ran.append,) for number in (1, 2))

    step = DBOS.step(name="lazy")(lazily)

    @DBOS.workflow(name="reads lazily")
    async def work() -> str:
        try:
            return str(await step())
        except InvalidValueError as error:
            return str(error)

    assert "it is a generator, whose code would run outside of the step" in await work()
    assert ran == []


@DBOS.step(name="names like those of methods")
async def named_like_methods(self: int, cls: int, function: int = 3, args: int = 4) -> list[int]:
    return [self, cls, function, args]


@DBOS.workflow(name="workflow with such names")
async def workflow_named_like_methods(self: int, fn: int, name: int, kwargs: int = 4) -> list[int]:
    return [self, fn, name, kwargs, *await named_like_methods(self=self, cls=fn, args=7)]


@pytest.mark.usefixtures("dbos")
async def test_d5_a_parameter_may_have_any_name() -> None:
    handle = await DBOS.start_workflow(workflow_named_like_methods, self=1, fn=2, name=3)
    expected = [1, 2, 3, 4, 1, 2, 3, 7]
    assert await handle.get_result() == await workflow_named_like_methods(self=1, fn=2, name=3) == expected
    assert await named_like_methods(self=1, cls=2) == [1, 2, 3, 4]


def test_d5_an_annotation_may_raise_anything_and_is_refused_in_one_sentence() -> None:
    def divided() -> Any: ...

    async def schemed(x: Any) -> None: ...

    class Schemed:
        @classmethod
        def __get_pydantic_core_schema__(cls, *_: Any) -> Any:
            raise KeyError("no schema")

    divided.__annotations__["return"] = "1 / 0"
    schemed.__annotations__["x"] = Schemed
    for decorate, function, what in (
        (DBOS.step(), divided, r"The result of .*divided is annotated as '1 / 0', .* \(division by zero\)"),
        (DBOS.workflow(), schemed, r"The parameter 'x' of .*schemed .* \('no schema'\)"),
    ):
        with pytest.raises(RegistrationError, match=what):
            decorate(function)
