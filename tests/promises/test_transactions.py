"""Sends and starts inside the user's own transaction."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
import sqlalchemy
import sqlalchemy.ext.asyncio as engines

from dbos_async import (
    DBOS,
    DBOSClient,
    InvalidArgumentError,
    SendMessage,
    SetWorkflowID,
    WorkflowConflictError,
    WorkflowNotFoundError,
    WrongPlaceError,
)
from tests.support.eventually import eventually


@DBOS.workflow(name="receives three")
async def receives(count: int = 3) -> list[Any]:
    return [await DBOS.recv(timeout_seconds=None) for _ in range(count)]


@DBOS.workflow(name="takes a connection")
async def takes_connection(connection: str) -> str:
    return connection


@pytest.fixture
async def orders(connection: Any) -> Any:
    await connection.execute("create table orders (id text primary key)")
    return connection


async def test_m1_sends_and_starts_come_with_the_commit_and_not_before(
    dbos: DBOS, orders: Any, database_url: str
) -> None:
    other = await asyncpg.connect(database_url)
    async with DBOSClient(database_url) as client:
        with SetWorkflowID("w"):
            handle = await DBOS.start_workflow(receives)
        async with orders.transaction():
            await orders.execute("insert into orders values ('17')")
            await DBOS.send("w", 1, connection=orders)
            await client.send_bulk([SendMessage("w", 2), SendMessage("w", 3)], connection=orders)
            with SetWorkflowID("here"):
                here = await DBOS.start_workflow(receives, 1, connection=orders)
            with SetWorkflowID("by name"):
                named = await client.start_workflow("receives three", 1, connection=orders)
            # A send sees the workflow that was started in the same transaction.
            for started in (here, named):
                await DBOS.send(started.workflow_id, "hello", connection=orders)
            assert await other.fetchval("select count(*) from dbos_async.messages") == 0
            assert await other.fetchval("select count(*) from dbos_async.workflows") == 1
        assert await handle.get_result() == [1, 2, 3]
        assert await here.get_result() == await named.get_result() == ["hello"]
    await other.close()


async def test_m1_a_rollback_leaves_nothing(dbos: DBOS, orders: Any) -> None:
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(receives, 1)
    transaction = orders.transaction()
    await transaction.start()
    await DBOS.send("w", "never", connection=orders, idempotency_key="k")
    with SetWorkflowID("another"):
        await DBOS.start_workflow(receives, connection=orders)
    await transaction.rollback()
    assert [s.workflow_id for s in await DBOS.list_workflows()] == ["w"]
    await DBOS.send("w", "now", idempotency_key="k")
    assert await handle.get_result() == ["now"]


async def test_m7_an_error_of_ours_leaves_the_transaction_alone(dbos: DBOS, orders: Any) -> None:
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(receives, 1)
    async with orders.transaction():
        await orders.execute("insert into orders values ('17')")
        with pytest.raises(WorkflowNotFoundError):
            await DBOS.send("nobody", 1, connection=orders)
        with SetWorkflowID("w"), pytest.raises(WorkflowConflictError):
            await DBOS.start_workflow(takes_connection, "x", connection=orders)
        await DBOS.send("w", "after the errors", connection=orders)
    assert await orders.fetchval("select count(*) from orders") == 1
    assert await handle.get_result() == ["after the errors"]


async def test_m3_keys_and_ids_count_in_a_transaction_too(dbos: DBOS, orders: Any) -> None:
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(receives, 2)
    await DBOS.send("w", "first", idempotency_key="k")
    async with orders.transaction():
        await DBOS.send("w", "again", idempotency_key="k", connection=orders)
        with SetWorkflowID("w"):
            assert (await DBOS.start_workflow(receives, 2, connection=orders)).workflow_id == "w"
        await DBOS.send("w", "second", connection=orders)
    assert await handle.get_result() == ["first", "second"]


async def test_m8_a_step_sends_in_its_own_transaction_and_a_workflow_does_not(
    dbos: DBOS, orders: Any, database_url: str
) -> None:
    @DBOS.step(name="ships")
    async def ships() -> None:
        own = await asyncpg.connect(database_url)
        async with own.transaction():
            await own.execute("insert into orders values ('shipped')")
            await DBOS.send("w", "shipped", connection=own)
        await own.close()

    @DBOS.workflow(name="ships and asks")
    async def ships_and_asks() -> str:
        await ships()
        try:
            async with orders.transaction():
                await DBOS.send("w", 1, connection=orders)
        except WrongPlaceError as error:
            return str(error)
        return ""

    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(receives, 1)
    asked = await DBOS.start_workflow(ships_and_asks)
    assert "works outside of workflows and in steps" in await asked.get_result()
    assert await handle.get_result() == ["shipped"]
    messages = await DBOS.list_messages("w")
    assert [m.sender_id for m in messages] == [asked.workflow_id]


async def test_a_connection_of_a_pool_works(dbos: DBOS, database_url: str) -> None:
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(receives, 1)
    pool = await asyncpg.create_pool(database_url, min_size=1, max_size=1)
    async with pool.acquire() as connection, connection.transaction():
        await DBOS.send("w", 1, connection=connection)
    await pool.close()
    assert await handle.get_result() == [1]


async def test_the_driver_connection_of_a_sqlalchemy_session_works(dbos: DBOS, database_url: str, orders: Any) -> None:
    async def connect() -> Any:
        return await asyncpg.connect(database_url)

    engine = engines.create_async_engine("postgresql+asyncpg://", async_creator=connect)
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(receives, 2)
    for commits in (False, True):
        async with engines.AsyncSession(engine) as session:
            driver: Any = (await (await session.connection()).get_raw_connection()).driver_connection
            with pytest.raises(InvalidArgumentError, match="opens one with its first statement"):
                await DBOS.send("w", commits, connection=driver)
            await session.execute(sqlalchemy.text("insert into orders values ('17')"))
            await DBOS.send("w", commits, connection=driver)
            await (session.commit() if commits else session.rollback())
    await DBOS.send("w", "end")
    assert await handle.get_result() == [True, "end"]
    await engine.dispose()
    assert await orders.fetchval("select count(*) from orders") == 1


async def test_a_workflow_may_have_an_argument_of_that_name(dbos: DBOS, orders: Any) -> None:
    assert await (await DBOS.start_workflow(takes_connection, connection="mine")).get_result() == "mine"
    async with orders.transaction():
        handle = await DBOS.start_workflow(takes_connection, "mine", connection=orders)
    assert await handle.get_result() == "mine"


async def test_d5_what_is_no_connection_is_refused(dbos: DBOS, server_url: str, empty_database_url: str) -> None:
    with pytest.raises(InvalidArgumentError, match="must be an asyncpg connection and is of type str"):
        await DBOS.send("w", 1, connection="postgresql://")  # type: ignore[call-overload]  # the mistake under test
    with pytest.raises(InvalidArgumentError, match="must be an asyncpg connection"):
        await DBOS.start_workflow(receives, 1, connection=17)  # type: ignore[call-arg]  # the mistake under test
    elsewhere = await asyncpg.connect(empty_database_url)
    with pytest.raises(InvalidArgumentError, match="No transaction is open on the connection"):
        await DBOS.send("w", 1, connection=elsewhere)
    async with elsewhere.transaction():
        with pytest.raises(InvalidArgumentError, match="has no tables of dbos_async"):
            await DBOS.send("w", 1, connection=elsewhere)
        assert await elsewhere.fetchval("select 1") == 1
    await elsewhere.close()


async def test_w1_two_transactions_that_start_one_id_start_it_once(dbos: DBOS, connect: Any) -> None:
    one, two, three = await connect(), await connect(), await connect()
    first = one.transaction()
    await first.start()
    with SetWorkflowID("w"):
        await DBOS.start_workflow(takes_connection, "first", connection=one)

    async def start_second() -> None:
        async with two.transaction():
            with SetWorkflowID("w"):
                await DBOS.start_workflow(takes_connection, "second", connection=two)

    second = asyncio.create_task(start_second())
    waits = "select wait_event_type = 'Lock' from pg_stat_activity where pid = $1"
    await eventually(lambda: three.fetchval(waits, two.get_server_pid()))
    await first.commit()
    await second
    assert await (await DBOS.retrieve_workflow("w")).get_result() == "first"


@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
@pytest.mark.parametrize("bulk", [False, True])
async def test_m7_a_send_in_a_transaction_that_is_older_than_a_deletion_raises_and_stores_nothing(
    isolation: Any, bulk: bool, dbos: DBOS, orders: Any
) -> None:
    for workflow_id in ("gone", "there"):
        with SetWorkflowID(workflow_id):
            await DBOS.start_workflow(receives, 1)
    await eventually(lambda: _all_wait(orders))
    async with orders.transaction(isolation=isolation):
        await orders.fetchval("select count(*) from orders")  # from now on it sees nothing new
        await DBOS.cancel_workflow("gone")
        await DBOS.delete_workflow("gone")
        with pytest.raises(asyncpg.SerializationError):
            if bulk:
                await DBOS.send_bulk([SendMessage("there", 1), SendMessage("gone", 1)], connection=orders)
            else:
                await DBOS.send("gone", 1, connection=orders)
        await DBOS.send("there", "stored", connection=orders)
    messages = await orders.fetch("select destination_id, payload from dbos_async.messages")
    assert [tuple(row) for row in messages] == [("there", '"stored"')]


async def _all_wait(connection: Any) -> bool:
    return bool(await connection.fetchval("select count(*) = 2 from dbos_async.steps where verb = 'recv'"))
