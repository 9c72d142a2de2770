"""`DBOS.run_step`: a step without a decorator. Promises W2, W4, D1, D2, D5 and D6 as far as they are about it."""

from __future__ import annotations

import asyncio
import functools
import threading
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from dbos_async import (
    DBOS,
    DBOSError,
    InvalidArgumentError,
    InvalidValueError,
    RegistrationError,
    SetWorkflowID,
    WorkflowParkedError,
)
from tests.support.eventually import eventually

CALLS: list[Any] = []


class Paid(BaseModel):
    cents: int


@dataclass
class Shop:
    name: str

    async def price(self, item: str, *, discount: int = 0) -> Paid:
        CALLS.append((self.name, item))
        return Paid(cents=10 - discount)

    def count(self) -> tuple[int, bool]:
        CALLS.append(threading.current_thread() is threading.main_thread())
        return 3, True

    def __call__(self, name: str) -> str:
        return f"{self.name} and {name}"


@pytest.fixture(autouse=True)
def nothing_called() -> None:
    CALLS.clear()


@pytest.mark.usefixtures("dbos")
async def test_w2_d1_functions_of_every_shape_are_recorded_and_come_back_as_their_types() -> None:
    shop = Shop("a shop")

    async def add(one: int, *, other: int) -> int:
        CALLS.append("add")
        return one + other

    def awaitable(n: int) -> Any:
        return add(n, other=n)

    @DBOS.workflow(name="runs steps of every shape")
    async def workflow() -> list[Any]:
        found: list[Any] = [
            await DBOS.run_step("price", shop.price, "a widget", discount=3),
            await DBOS.run_step("count", shop.count),
            await DBOS.run_step("add", add, 1, other=2),
            await DBOS.run_step("later", awaitable, 4),
            await DBOS.run_step("lambda", lambda: add(5, other=6)),
            await DBOS.run_step("partial", functools.partial(add, 7, other=8)),
            await DBOS.run_step("object", shop, "you"),
            await DBOS.run_step("built-in", abs, -17),
            await DBOS.run_step("class", Paid, cents=4),
            await DBOS.run_step("name", len, "name"),
        ]
        return [type(each).__name__ for each in found] + found

    expected = [
        "Paid", "tuple", "int", "int", "int", "int", "str", "int", "Paid", "int",
        {"cents": 7}, [3, True], 3, 8, 11, 15, "a shop and you", 17, {"cents": 4}, 4,
    ]  # fmt: skip
    with SetWorkflowID("w"):
        assert await workflow() == expected
    assert CALLS == [("a shop", "a widget"), False, "add", "add", "add", "add"]
    steps = await DBOS.list_workflow_steps("w")
    assert [(step.verb, step.key) for step in steps] == [
        ("step", name)
        for name in ("price", "count", "add", "later", "lambda", "partial", "object", "built-in", "class", "name")
    ]
    CALLS.clear()
    copy = await DBOS.fork_workflow("w", 11)
    assert await copy.get_result() == expected
    assert CALLS == [], "what is recorded is not called again"


@pytest.mark.usefixtures("dbos")
async def test_w2_an_error_is_recorded_as_the_outcome() -> None:
    def fail(why: str) -> None:
        CALLS.append(why)
        raise ValueError(why)

    @DBOS.workflow(name="runs a step that fails")
    async def workflow() -> list[str]:
        found: list[str] = []
        untyped: Any = fail
        for name, args in (("fail", ["no"]), ("no argument", [])):
            try:
                await DBOS.run_step(name, untyped, *args)
            except (ValueError, TypeError) as error:
                found.append(f"{type(error).__name__} {error}")
        return found

    with SetWorkflowID("w"):
        first = await workflow()
    assert first[0] == "ValueError no"
    assert "missing 1 required positional argument: 'why'" in first[1]
    copy = await DBOS.fork_workflow("w", 3)
    assert await copy.get_result() == first
    assert CALLS == ["no"]


@pytest.mark.usefixtures("dbos")
async def test_d2_a_result_that_cannot_be_stored_is_the_error_of_the_step() -> None:
    async def odd() -> Any:
        CALLS.append("odd")
        return object()

    def numbers() -> Any:
        yield 1

    def wrong() -> int:
        text: Any = "text"
        return text  # type: ignore[no-any-return]  # it is the point

    @DBOS.workflow(name="runs steps whose results are none")
    async def workflow() -> list[str]:
        found: list[str] = []
        for function in (odd, numbers, wrong):
            try:
                await DBOS.run_step("odd one", function)
            except InvalidValueError as error:
                found.append(str(error))
        return found

    found = await workflow()
    assert len(found) == 3
    assert all(each.startswith("The result of step 'odd one'") for each in found)
    assert CALLS == ["odd"]


async def test_outside_of_workflows_and_in_steps_it_is_a_plain_call(database_url: str) -> None:
    async def seen() -> tuple[str | None, int | None]:
        return DBOS.step_id, DBOS.attempt

    assert await DBOS.run_step("not launched", seen) == (None, None)

    @DBOS.step(name="runs a step inside")
    async def outer() -> Any:
        return await DBOS.run_step("inner", seen)

    @DBOS.workflow(name="runs a step that runs a step")
    async def workflow() -> Any:
        return await outer()

    async with DBOS(database_url):
        assert await DBOS.run_step("launched", seen) == (None, None)
        with SetWorkflowID("w"):
            assert await workflow() == ["1", 1]
        assert [step.key for step in await DBOS.list_workflow_steps("w")] == ["runs a step inside"]


async def test_w4_a_replay_compares_the_name_and_nothing_else(database_url: str) -> None:
    names = ["charge", "ship"]
    functions: list[Any] = [abs]

    @DBOS.workflow(name="runs what changes")
    async def workflow() -> list[Any]:
        found: list[Any] = [await DBOS.run_step(names[0], functions[0], -1)]
        await DBOS.recv("go on", None)
        return [*found, await DBOS.run_step(names[1], lambda: 2)]

    async with DBOS(database_url):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(workflow)
        await _until_it_waits("w")
    functions[0] = repr  # another function under the same name
    async with DBOS(database_url):
        await DBOS.send("w", None, "go on")
        assert await (await DBOS.retrieve_workflow("w")).get_result() == [1, 2]
        with SetWorkflowID("v"):
            await DBOS.start_workflow(workflow)
        await _until_it_waits("v")
    names[0] = "refund"
    async with DBOS(database_url):
        await DBOS.send("v", None, "go on")
        with pytest.raises(WorkflowParkedError, match="REPLAY_MISMATCH"):
            await (await DBOS.retrieve_workflow("v")).get_result()


async def _until_it_waits(workflow_id: str) -> None:
    async def waits() -> bool:
        return any(step.verb == "recv" for step in await DBOS.list_workflow_steps(workflow_id))

    await eventually(waits)


@pytest.mark.usefixtures("dbos")
async def test_w4_in_tasks_each_has_its_own_path() -> None:
    @DBOS.workflow(name="runs steps side by side")
    async def workflow() -> list[Any]:
        return [*await asyncio.gather(*[DBOS.run_step("where", lambda: DBOS.step_id) for _ in range(3)])]

    assert await workflow() == ["0.1.1", "0.2.1", "0.3.1"]


@DBOS.step(name="is a step already")
async def decorated() -> None: ...


@DBOS.transaction(name="is a transaction already")
async def a_transaction(connection: Any) -> None: ...


@DBOS.workflow(name="is a workflow already")
async def a_workflow() -> None: ...


@pytest.mark.usefixtures("dbos")
@pytest.mark.parametrize("place", ["outside", "workflow"])
async def test_d5_wrong_arguments_get_one_sentence_and_no_step(place: str) -> None:
    def callback() -> threading.Thread:
        return threading.current_thread()

    wrong: list[tuple[Any, Any, type[DBOSError], str]] = [
        ("", abs, InvalidArgumentError, "name must not be empty"),
        (5, abs, InvalidArgumentError, "name must be a str"),
        (abs, -5, InvalidArgumentError, "name must be a str"),
        ("x" * 513, abs, InvalidArgumentError, "name must have at most 512 characters"),
        ("x", "abs", InvalidArgumentError, "function must be a function and is of type str"),
        ("x", decorated, InvalidArgumentError, "'is a step already' is a step already: call it without run_step"),
        ("x", a_transaction, InvalidArgumentError, "is a transaction already: call it without run_step"),
        ("x", a_workflow, InvalidArgumentError, "is a workflow already: start it with DBOS.start_workflow, or call it"),
        ("x", callback, RegistrationError, "has no JSON"),
    ]

    async def call_all() -> None:
        for name, function, kind, words in wrong:
            with pytest.raises(kind, match=words):
                await DBOS.run_step(name, function)

    @DBOS.workflow(name="runs what is no step")
    async def workflow() -> None:
        await call_all()

    with SetWorkflowID("w"):
        await (call_all() if place == "outside" else workflow())
    if place == "workflow":
        assert await DBOS.list_workflow_steps("w") == []


@pytest.mark.usefixtures("dbos")
async def test_a_function_that_is_not_yours_is_retried_by_the_decorator_called() -> None:
    async def flaky(n: int) -> int:
        CALLS.append(DBOS.attempt)
        if len(CALLS) < 3:
            raise OSError("not yet")
        return n

    @DBOS.workflow(name="makes a step of a function")
    async def workflow() -> int:
        return await DBOS.step(name="flaky, made a step", retries_allowed=True, interval_seconds=0)(flaky)(17)

    assert await workflow() == 17
    assert CALLS == [1, 2, 3]
