"""What a type checker sees of workflows and steps on objects and of class methods that are inherited.

As in `surface.py`, each mistake that must be an error stands beside the ignores that expect it.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar, assert_type

from dbos_async import DBOS, DBOSClient, Start, WorkflowHandle

T = TypeVar("T")


class Shop:
    def __init__(self, config_name: str) -> None:
        self.config_name = config_name

    @DBOS.step()
    async def price(self, item: str) -> int:
        return len(item)

    @DBOS.workflow()
    async def checkout(self, item: str, *, cents: int = 1) -> int:
        return cents * await self.price(item)

    @DBOS.workflow(name="open the shop", max_recovery_attempts=3)
    async def open(self) -> str:
        return self.config_name

    @DBOS.workflow()
    @classmethod
    async def make(cls, city: str) -> str:
        return city


class Bakery(Shop):
    @DBOS.workflow()
    async def bake(self, item: str) -> int:
        return await super().checkout(item) + await self.checkout(item)


class Shelf(Generic[T]):
    @DBOS.workflow()
    async def put(self, item: T) -> T:
        return item


async def objects(client: DBOSClient) -> None:
    shop = DBOS.register_instance(Shop("berlin"))
    assert_type(shop, Shop)
    bakery = DBOS.register_instance(Bakery("rome"), name="bakery")
    assert_type(bakery, Bakery)
    assert_type(await shop.checkout("a widget", cents=2), int)
    assert_type(await bakery.checkout("bread"), int)
    assert_type(await bakery.bake("bread"), int)
    assert_type(await shop.open(), str)
    assert_type(await Shop.checkout(shop, "a widget"), int)
    assert_type(await Shelf[str]().put("x"), str)
    assert_type(await DBOS.start_workflow(shop.checkout, "a widget", cents=2), WorkflowHandle[int])
    assert_type(await DBOS.start_workflow(bakery.open), WorkflowHandle[str])
    assert_type(await client.start_workflow(shop.checkout, item="a widget"), WorkflowHandle[int])
    assert_type(await client.start_workflow("Shop.checkout@berlin", "a widget"), WorkflowHandle[Any])
    await DBOS.send("cart", 1, start=Start(shop.checkout, "a widget"))
    await shop.checkout(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # an item is a str
    await shop.checkout()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # no item
    await shop.checkout(shop, "a widget")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    await shop.checkout("a widget", 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # cents by name
    await DBOS.start_workflow(shop.checkout, 1)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await client.start_workflow(shop.checkout, 1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    Start(shop.checkout, 1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]  # an item is a str
    DBOS.register_instance(shop, name=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a str


async def inherited(bakery: Bakery) -> None:
    assert_type(await Bakery.make("rome"), str)
    assert_type(await bakery.make("rome"), str)
    assert_type(await DBOS.start_workflow(Bakery.make, "rome"), WorkflowHandle[str])
    await Bakery.make(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a city is a str
