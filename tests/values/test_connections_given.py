"""The connection of ``connection=`` is checked where it is given: promise D5."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from dbos_async import DBOS, InvalidArgumentError, SendMessage, WrongPlaceError
from tests.support.workflows import echo

SENT = "select count(*) from dbos_async.messages"


async def refused(connection: Any) -> list[str]:
    """The sentences of every verb that takes a connection."""
    said: list[str] = []
    for call in (
        lambda: DBOS.send("w", 1, connection=connection),
        lambda: DBOS.send_bulk([SendMessage("w", 1)], connection=connection),
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
    with pytest.raises(InvalidArgumentError):
        await DBOS.send_bulk([], connection=closed)
    assert len(await refused(closed)) == 3
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


async def test_d5_a_connection_that_is_busy_is_refused(dbos: DBOS, two: Any, three: Any) -> None:
    before = await three.fetchval(SENT)
    await three.execute("select pg_advisory_lock(17)")
    async with two.transaction():
        busy = asyncio.create_task(two.fetch("select pg_advisory_lock(17)"))
        await asyncio.sleep(0)  # the query is under way
        assert all("another operation is in progress" in sentence for sentence in await refused(two))
        await three.execute("select pg_advisory_unlock(17)")
        await busy
        await DBOS.send("w", 1, connection=two)
    assert await three.fetchval(SENT) == before + 1


async def test_d5_a_transaction_that_has_failed_or_may_not_write_is_refused(dbos: DBOS, one: Any) -> None:
    before = await one.fetchval(SENT)
    async with one.transaction(readonly=True):
        assert all("read-only" in sentence for sentence in await refused(one))
    transaction = one.transaction()
    await transaction.start()
    with pytest.raises(asyncpg.DivisionByZeroError):
        await one.execute("select 1 / 0")
    assert all("current transaction is aborted" in sentence for sentence in await refused(one))
    await transaction.rollback()
    async with one.transaction():
        await one.execute("set local role pg_read_all_settings")
        assert all("permission denied" in sentence for sentence in await refused(one))
        await one.execute("reset role")
        await DBOS.send("w", 1, connection=one)
    assert await one.fetchval(SENT) == before + 1
