"""What a type checker sees of workflows and steps in classes: methods keep their types in whichever order the decorators stand.

As in `surface.py`, each mistake that must be an error stands beside the ignores that expect it.
"""

from __future__ import annotations

from typing import assert_type

from dbos_async import DBOS, DBOSClient, WorkflowHandle


class Shop:
    @DBOS.step()
    @staticmethod
    def static(item: str) -> int:
        return len(item)

    @staticmethod
    @DBOS.step()
    async def static_too(item: str) -> int:
        return len(item)

    @DBOS.step()
    @classmethod
    async def of_class(cls, item: str) -> int:
        return len(item)

    @classmethod
    @DBOS.step()
    def of_class_too(cls, item: str) -> int:
        return len(item)

    @DBOS.step()
    async def of_object(self, item: str, *, twice: bool = False) -> int:
        return len(item)

    @DBOS.workflow()
    @staticmethod
    async def sell(item: str) -> int:
        return len(item)

    @staticmethod
    @DBOS.workflow()
    async def sell_too(item: str) -> int:
        return len(item)

    @DBOS.workflow()
    @classmethod
    async def sell_of_class(cls, item: str, *, cents: int = 1) -> int:
        return len(item)


async def methods(shop: Shop, client: DBOSClient) -> None:
    assert_type(await Shop.static("x"), int)
    assert_type(await shop.static("x"), int)
    assert_type(await Shop.static_too("x"), int)
    assert_type(await shop.static_too("x"), int)
    assert_type(await Shop.of_class("x"), int)
    assert_type(await shop.of_class("x"), int)
    assert_type(await Shop.of_class_too("x"), int)
    assert_type(await shop.of_class_too("x"), int)
    assert_type(await shop.of_object("x", twice=True), int)
    assert_type(await Shop.of_object(shop, "x"), int)
    assert_type(await Shop.sell("x"), int)
    assert_type(await shop.sell_too("x"), int)
    assert_type(await Shop.sell_of_class("x", cents=5), int)
    assert_type(await DBOS.start_workflow(Shop.sell, "x"), WorkflowHandle[int])
    assert_type(await DBOS.start_workflow(Shop.sell_too, item="x"), WorkflowHandle[int])
    assert_type(await DBOS.start_workflow(Shop.sell_of_class, "x", cents=5), WorkflowHandle[int])
    assert_type(await client.start_workflow(Shop.sell_of_class, "x"), WorkflowHandle[int])
    await Shop.static(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # an item is a str
    await shop.static_too(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # an item is a str
    await Shop.of_class(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # an item is a str
    await shop.of_class_too(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # an item is a str
    await shop.of_object(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # an item is a str
    await Shop.sell_of_class(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # an item is a str
    await Shop.sell_of_class()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # no item
    await DBOS.start_workflow(Shop.sell_of_class, 1)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
