"""The connection of ``connection=`` is checked where it is given: promise D5."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from dbos_async import DBOS, InvalidArgumentError, SendMessage, WrongPlaceError
from tests.support.workflows import echo


async def refused(connection: Any) -> list[str]:
    """The sentences of every verb that takes a connection."""
    said: list[str] = []
    for call in (
        lambda: DBOS.send("w", 1, connection=connection),
        lambda: DBOS.send_bulk([SendMessage("w", 1)], connection=connection),
        lambda: DBOS.send_bulk([], connection=connection),
        lambda: DBOS.start_workflow(echo, 1, connection=connection),
    ):
        with pytest.raises((InvalidArgumentError, WrongPlaceError)) as raised:
            await call()
        said.append(str(raised.value))
    assert all(sentence.isprintable() and sentence.endswith(".") for sentence in said)
    return said


async def test_d5_a_connection_that_is_closed_or_went_back_to_its_pool_is_refused(
    dbos: DBOS, database_url: str, connection: Any
) -> None:
    closed = await asyncpg.connect(database_url)
    await closed.close()
    assert len(await refused(closed)) == 4
    async with asyncpg.create_pool(database_url, min_size=1, max_size=1) as pool:
        async with pool.acquire() as released:
            assert all("No transaction is open" in sentence for sentence in await refused(released))
        assert all("connection cannot be used" in sentence for sentence in await refused(released))
    assert await connection.fetchval("select count(*) from dbos_async.workflows") == 0


async def test_d5_a_connection_of_another_event_loop_is_refused(dbos: DBOS, database_url: str, connection: Any) -> None:
    there: asyncio.Queue[Any] = asyncio.Queue()
    here = asyncio.get_running_loop()
    done = asyncio.Event()

    async def lend() -> None:
        lent = await asyncpg.connect(database_url)
        async with lent.transaction():
            here.call_soon_threadsafe(there.put_nowait, lent)
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(done.wait(), here))
        await lent.close()

    lending = asyncio.create_task(asyncio.to_thread(asyncio.run, lend()))
    try:
        assert all("another event loop" in sentence for sentence in await refused(await there.get()))
    finally:
        done.set()
        await lending
    assert await connection.fetchval("select count(*) from dbos_async.workflows") == 0
