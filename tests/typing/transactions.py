"""What a type checker sees of transactions: callers leave the connection or the session out, in classes, too.

As in `surface.py`, each mistake that must be an error stands beside the ignores that expect it.
"""

from __future__ import annotations

from typing import Any, assert_type

import asyncpg
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from dbos_async import DBOS, StepHandle, TransactionError, TransactionFunction


class Ours(AsyncSession): ...


sessions = async_sessionmaker()
our_sessions = async_sessionmaker(class_=Ours)


@DBOS.transaction()
async def reserve(connection: asyncpg.Connection[Any], item: str, *, pieces: int = 1) -> int:
    return len(item) * pieces


@DBOS.transaction(
    isolation="serializable", read_only=True, name="left in the shop", max_attempts=3, timeout_seconds=5.0
)
async def left(connection: asyncpg.Connection[asyncpg.Record], item: str) -> float:
    return float(len(item))


@DBOS.transaction(sessions)
async def order(session: AsyncSession, item: str) -> str:
    return item


@DBOS.transaction(our_sessions, isolation="repeatable read", read_only=False, max_attempts=1, timeout_seconds=None)
async def order_of_ours(session: Ours, item: str) -> str:
    return item


@DBOS.transaction(our_sessions)
async def takes_any_session(session: AsyncSession) -> None: ...


class Shop:
    @DBOS.transaction()
    async def of_object(self, connection: asyncpg.Connection[Any], item: str) -> int:
        return len(item)

    @staticmethod
    @DBOS.transaction()
    async def static(connection: asyncpg.Connection[Any], item: str) -> int:
        return len(item)

    @classmethod
    @DBOS.transaction(sessions)
    async def of_class(cls, session: AsyncSession, item: str) -> str:
        return item


async def use(shop: Shop) -> None:
    assert_type(await reserve("a widget"), int)
    assert_type(await reserve("a widget", pieces=2), int)
    assert_type(await left("a widget"), float)
    assert_type(await order("a widget"), str)
    assert_type(await order_of_ours("a widget"), str)
    assert_type(reserve.name, str)
    assert_type(takes_any_session, TransactionFunction[[], None])
    assert_type(await DBOS.start_step(reserve, "a widget"), StepHandle[int])
    assert_type(await shop.of_object("a widget"), int)
    assert_type(await shop.static("a widget"), int)
    assert_type(await Shop.static("a widget"), int)
    assert_type(await Shop.of_class("a widget"), str)
    assert_type(TransactionError().args, tuple[Any, ...])

    await reserve(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await reserve()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await order("a widget", 1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await shop.of_object(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    DBOS.transaction(isolation="snapshot")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    DBOS(max_transactions="ten")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
