"""Workflows and steps on objects: found by class and name, whichever object stands behind them (D5, W1, W2, W4)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest

from dbos_async import (
    DBOS,
    DBOSClient,
    InvalidArgumentError,
    InvalidCallError,
    RegistrationError,
    SetWorkflowID,
    Start,
)
from dbos_async._executor import claiming
from dbos_async._workflows import owners, registry
from tests.support.eventually import eventually


@contextmanager
def other_process() -> Iterator[None]:
    """Forget which objects are registered, as a process that registers others."""
    objects, names = dict(owners._objects), dict(registry.registered)
    owners._objects.clear()
    for name, found in names.items():
        if isinstance(found, owners.WorkflowOf):
            del registry.registered[name]
    yield
    for kept, before in ((owners._objects, objects), (registry.registered, names)):
        kept.clear()
        kept.update(before)  # type: ignore[arg-type]  # each with its own


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return ["logged", await function(*args, **kwargs)]

    return wrapper


class Counter:
    """Workflows and steps of objects; ``priced`` counts what no record has."""

    def __init__(self, config_name: str, price: int = 1) -> None:
        self.config_name, self.price = config_name, price
        self.priced = 0

    __hash__: ClassVar[None]  # type: ignore[assignment]  # objects that are equal have none

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Counter)  # all are equal

    @DBOS.step(name="price at a counter")
    async def price_of(self, item: str) -> int:
        self.priced += 1
        return self.price * len(item)

    @DBOS.workflow()
    async def checkout(self, item: str, *, count: int = 1) -> list[Any]:
        return [self.config_name, count * await self.price_of(item), await DBOS.recv("paid", 0)]

    @DBOS.workflow()
    async def hold(self, item: str) -> list[Any]:
        return [await self.price_of(item), await DBOS.recv("go", None), self.config_name, await self.price_of("more")]

    @DBOS.workflow(name="a counter asks another")
    async def ask(self, other: str) -> list[Any]:
        return [*await COUNTERS[other].checkout("x"), await DBOS.start_step(self.price_of, "later") is not None]

    @DBOS.workflow()
    @logged
    async def under(self, item: str) -> Any:
        return f"{self.config_name} {item}"

    @logged
    @DBOS.workflow(name="under a decorator")
    async def over(self, item: str) -> str:
        return f"{self.config_name} {item}"

    @DBOS.workflow()
    @classmethod
    async def of_class(cls, item: str) -> str:
        return f"{cls.__name__} {item}"


COUNTERS = {name: DBOS.register_instance(Counter(name, price)) for name, price in (("one", 1), ("two", 2), ("a@b", 3))}


class Quick(Counter):
    """A subclass that overrides a method, and calls what it overrides."""

    @DBOS.workflow()
    async def checkout(self, item: str, *, count: int = 1) -> list[Any]:
        return ["quick", *await super().checkout(item, count=count)]

    @DBOS.workflow()
    @classmethod
    async def of_class(cls, item: str) -> str:
        return f"quick {await super().of_class(item)}"


class Quicker(Quick):
    """A class that inherits all of it."""


QUICK, QUICKER = DBOS.register_instance(Quick("one")), DBOS.register_instance(Quicker("one"))


@pytest.mark.usefixtures("dbos")
async def test_d5_a_workflow_of_an_object_is_started_in_every_way() -> None:
    one, two = COUNTERS["one"], COUNTERS["two"]
    assert await one.checkout("abc") == await Counter.checkout(one, "abc") == ["one", 3, None]
    assert await (await DBOS.start_workflow(two.checkout, "abc", count=2)).get_result() == ["two", 12, None]
    assert await one.ask("two") == ["two", 2, None, True]  # as a child
    await DBOS.send("cart", 17, "paid", start=Start(two.checkout, "x"))
    assert await (await DBOS.retrieve_workflow("cart")).get_result() == ["two", 2, 17]
    for wrong in ((), (1, 2), ("x", "y")):
        with pytest.raises(InvalidCallError, match="Counter.checkout cannot be called with these arguments"):
            await one.checkout(*wrong)
    names = {one.name for one in await DBOS.list_workflows()}
    assert names == {"Counter.checkout@one", "Counter.checkout@two", "a counter asks another@one"}
    assert len(await DBOS.list_workflows(name="Counter.checkout@two")) == 3


async def test_d5_a_client_starts_one_by_its_name_or_by_the_method(database_url: str) -> None:
    async with DBOS(database_url), DBOSClient(database_url) as client:
        handle = await client.start_workflow("Counter.checkout@a@b", "abc", count=2)
        assert await handle.get_result() == ["a@b", 18, None]
        assert await (await client.start_workflow(COUNTERS["a@b"].checkout, "abc")).get_result() == ["a@b", 9, None]
        with SetWorkflowID(handle.workflow_id), pytest.raises(Exception, match="'Counter.checkout@one'"):
            await DBOS.start_workflow(COUNTERS["one"].checkout, "abc")  # another object is another workflow


@pytest.mark.usefixtures("dbos")
async def test_d5_subclasses_are_recorded_and_call_what_they_override() -> None:
    assert await QUICK.checkout("abc") == await QUICKER.checkout("abc") == ["quick", "one", 3, None]
    assert await Quick.of_class("x") == "quick Quick x"
    assert await QUICKER.of_class("x") == await Quicker.of_class("x") == "quick Quicker x"
    assert await (await DBOS.start_workflow(Quicker.of_class, "y")).get_result() == "quick Quicker y"
    assert {one.name for one in await DBOS.list_workflows()} == {
        "Quick.checkout@one", "Counter.checkout[Quick]@one", "Quick.checkout[Quicker]@one", "Counter.checkout[Quicker]@one",
        "Quick.of_class", "Counter.of_class[Quick]", "Quick.of_class[Quicker]", "Counter.of_class[Quicker]",
    }  # fmt: skip


@pytest.mark.usefixtures("dbos")
async def test_d5_decorators_of_others_stand_above_and_below() -> None:
    one = COUNTERS["one"]
    assert await one.under("x") == ["logged", "one x"]
    assert await one.over("x") == ["logged", "one x"]
    assert {each.name: each.output for each in await DBOS.list_workflows()} == {
        "Counter.under@one": ["logged", "one x"], "under a decorator@one": "one x",
    }  # fmt: skip
    with pytest.raises(RegistrationError, match=r"has a decorator over @DBOS.workflow\(\)"):
        await DBOS.start_workflow(one.over, "x")  # type: ignore[call-overload]  # the mistake under test


async def test_w2_w4_another_process_goes_on_with_its_own_object(database_url: str) -> None:
    held = COUNTERS["two"]

    async def waits() -> bool:
        return len(await DBOS.list_workflow_steps("w")) == 2

    async with DBOS(database_url, executor_id="program"):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(held.hold, "abc")
        await eventually(waits)
    with other_process():
        other = DBOS.register_instance(Counter("two", price=5))
        assert other is not held
        async with DBOS(database_url, executor_id="program"):
            await DBOS.send("w", "went", "go")
            assert await (await DBOS.retrieve_workflow("w")).get_result() == [6, "went", "two", 20]
            copy = await DBOS.fork_workflow("w", start_step=2)
            assert await copy.get_result() == [6, "went", "two", 20]
            assert (await copy.get_status()).name == "Counter.hold@two"
        assert other.priced == 2  # "more", in the workflow and in its fork


async def test_w10_an_executor_without_the_object_says_so_once_and_leaves_it(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with other_process():
        DBOS.register_instance(Counter("one"))
        async with DBOS(database_url), DBOSClient(database_url) as client:
            for workflow_id in ("w", "also"):
                with SetWorkflowID(workflow_id):
                    await client.start_workflow("Counter.checkout[Quick]@one", "abc")
            await eventually(lambda: "No live executor has an object" in caplog.text)
            await client.start_workflow("Counter.checkout@one", "abc")  # it looks again
            await eventually(lambda: _has_ended(client, "Counter.checkout@one"))
            assert sorted(one.workflow_id for one in await client.list_workflows(unclaimable=True)) == ["also", "w"]
            await DBOS.cancel_workflow("also")
    assert caplog.text.count("No live executor has an object of Quick that is registered as 'one'") == 1
    async with DBOS(database_url):
        assert await (await DBOS.retrieve_workflow("w")).get_result() == ["one", 3, None]
        await DBOS.resume_workflow("also")
        assert await (await DBOS.retrieve_workflow("also")).get_result() == ["one", 3, None]


async def test_w10_an_executor_of_many_objects_claims_what_waits_for_any_of_them(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "MANY_NAMES", 1)
    monkeypatch.setattr(claiming, "NAMES_AT_A_TIME", 2)
    async with DBOSClient(database_url) as client:
        for name in (*COUNTERS, "unknown", "zzz"):
            for _ in range(2):
                await client.start_workflow(f"Counter.checkout@{name}", "abc")
        async with DBOS(database_url, max_running=2):
            await client.start_workflow("Counter.checkout@one", "abc")
            for name in COUNTERS:
                await eventually(functools.partial(_has_ended, client, f"Counter.checkout@{name}"))
            waiting = [one.name for one in await client.list_workflows(status="PENDING")]
            assert sorted(set(waiting)) == ["Counter.checkout@unknown", "Counter.checkout@zzz"]


async def _has_ended(client: DBOSClient, name: str) -> bool:
    return all(one.status == "SUCCESS" for one in await client.list_workflows(name=name))


@pytest.mark.usefixtures("dbos")
async def test_d5_what_is_not_registered_is_refused_in_one_sentence() -> None:
    stranger = Counter("stranger")
    for call in (
        lambda: stranger.checkout("x"),
        lambda: DBOS.start_workflow(stranger.checkout, "x"),
        lambda: Counter.checkout(stranger, "x"),
        functools.partial(stranger.over, "x"),
    ):
        with pytest.raises(RegistrationError, match=r"this object of Counter is none: write DBOS.register_instance\("):
            await call()
    with pytest.raises(RegistrationError, match="this object of Counter is none"):
        Start(stranger.checkout, "x")
    for on_class in (
        lambda: Counter.checkout("x"),  # type: ignore[call-arg, arg-type]  # the mistake under test
        lambda: Counter.checkout(Counter, "x"),  # type: ignore[arg-type]  # the mistake under test
        lambda: DBOS.start_workflow(Counter.checkout, COUNTERS["one"], "x"),
    ):
        with pytest.raises(
            RegistrationError, match="is a method of the objects of Counter: call it on one that was registered"
        ):
            await on_class()
    assert await DBOS.list_workflows() == []


class _Plain:
    config_name = "plain"

    @DBOS.step(name="step of a plain class")
    async def step(self) -> None: ...


class _Nameless:
    @DBOS.workflow()
    async def run(self) -> None: ...


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "no name": (lambda: DBOS.register_instance(_Nameless()), "This object of _Nameless has no config_name"),
    "a second one": (lambda: DBOS.register_instance(Counter("one")), "Two objects of Counter are registered as 'one' "),
    "the same by name": (
        lambda: DBOS.register_instance(Counter("x"), name="two"), "Two objects of Counter are registered as 'two' ",
    ),
    "another name": (lambda: DBOS.register_instance(QUICK, "two"), "This object of Quick is registered as 'one' "),
    "without workflows": (lambda: DBOS.register_instance(_Plain()), "_Plain has no method that is a workflow"),
    "a class": (lambda: DBOS.register_instance(Counter), "is a class: register its objects"),
    "too long": (lambda: DBOS.register_instance(Counter("x" * 510)), "would have a name of 527 characters here, and may have 512"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", REFUSED)
def test_d5_an_object_that_cannot_be_registered_is_refused_in_one_sentence(wrong: str) -> None:
    register, sentence = REFUSED[wrong]
    names = set(registry.registered)
    with pytest.raises(RegistrationError, match=rf"^[^\n]*{sentence}[^\n]*\.$"):
        register()
    assert set(registry.registered) == names  # none of its workflows


@pytest.mark.parametrize("name", ["", "\0", "\ud800", 5, "x" * 513])
def test_d5_d3_the_name_of_an_object_is_checked(name: Any) -> None:
    for given in ({"instance": Counter(name)}, {"instance": Counter("x"), "name": name}):
        with pytest.raises(InvalidArgumentError, match=r"^[^\n]*name[^\n]*\.$"):
            DBOS.register_instance(**given)


@pytest.mark.usefixtures("dbos")
async def test_d5_an_object_that_comes_after_the_launch_is_refused() -> None:
    with pytest.raises(RegistrationError, match="DBOS is launched, and the object 'late' of Counter comes too late"):
        DBOS.register_instance(Counter("late"))
    assert DBOS.register_instance(QUICK) is QUICK  # the same again is a no-op


def test_d5_a_bound_workflow_looks_like_the_method() -> None:
    one, two = COUNTERS["one"], COUNTERS["two"]
    assert one.checkout == one.checkout != two.checkout
    assert len({one.checkout, one.checkout, one.hold}) == 2
    assert str(inspect.signature(one.checkout)) == "(item: 'str', *, count: 'int' = 1) -> 'list[Any]'"
    assert str(inspect.signature(Counter.checkout)).startswith("(self, item: 'str'")
    assert (one.checkout.__name__, one.checkout.__qualname__) == ("checkout", "Counter.checkout")  # type: ignore[attr-defined]  # as of a function
    for decorate in (DBOS.workflow(name="again"), DBOS.step(name="again")):
        with pytest.raises(RegistrationError, match="'Counter.checkout' is a workflow already"):
            decorate(one.checkout)
    with pytest.raises(RegistrationError, match="Two workflows are named 'Counter.checkout@one'"):
        DBOS.workflow(name="Counter.checkout@one")(_nothing)


async def _nothing() -> None: ...


@pytest.mark.usefixtures("dbos")
async def test_d5_a_method_that_stands_in_no_class_runs_for_nothing() -> None:
    async def check(workflow: Callable[..., Coroutine[Any, Any, Any]]) -> None:
        with pytest.raises(RegistrationError, match="is a method of objects: call it on one that was registered"):
            await workflow("x")

    async def order(self: Any, item: str) -> str:
        return item

    order.__qualname__ = "Nowhere.order"
    await check(DBOS.workflow()(order))
    await check(DBOS.workflow(name="decorated method of nowhere")(logged(order)))
