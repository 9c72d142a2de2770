"""A transaction of the user that is older than a deletion: nothing is done about a workflow that is gone (M7, W1, T1, T3)."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from dbos_async import DBOS, SendMessage, SetStartDelay, SetWorkflowID, Start
from tests.support.eventually import eventually

pytestmark = pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])


@DBOS.workflow(name="older snapshot")
async def short(result: str) -> str:
    """Ends at once."""
    return result


async def ended(workflow_id: str) -> None:
    with SetWorkflowID(workflow_id):
        assert await (await DBOS.start_workflow(short, "first")).get_result() == "first"


async def remove(how: str, workflow_id: str) -> None:
    if how == "deleted":
        await DBOS.delete_workflow(workflow_id)
    else:
        assert (await DBOS.purge(older_than=0)).count == 1


@pytest.mark.parametrize("how", ["deleted", "purged"])
@pytest.mark.parametrize("late", [False, True])
async def test_w1_t3_a_start_of_an_id_that_was_removed_meanwhile_raises_and_can_be_repeated(
    isolation: Any, how: str, late: bool, dbos: DBOS, connection: Any
) -> None:
    await ended("id")
    async with connection.transaction(isolation=isolation):
        await connection.fetchval("select 1 from pg_class limit 1")  # from now on it sees nothing new
        await remove(how, "id")
        with pytest.raises(asyncpg.SerializationError), SetWorkflowID("id"):
            await start(connection, late)
    assert await DBOS.list_workflows() == []
    async with connection.transaction(isolation=isolation):
        with SetWorkflowID("id"):
            handle = await start(connection, late)
    assert await handle.get_result() == "second"


async def start(connection: Any, late: bool) -> Any:
    if late:
        with SetStartDelay(0.05):
            return await DBOS.start_workflow(short, "second", connection=connection)
    return await DBOS.start_workflow(short, "second", connection=connection)


async def test_w1_m3_what_others_have_stored_since_raises_and_a_new_transaction_sees_it(
    isolation: Any, dbos: DBOS, connection: Any
) -> None:
    async with connection.transaction(isolation=isolation):
        await connection.fetchval("select 1 from pg_class limit 1")
        await ended("id")
        with pytest.raises(asyncpg.SerializationError), SetWorkflowID("id"):
            await start(connection, late=False)
    async with connection.transaction(isolation=isolation):
        await connection.fetchval("select 1 from pg_class limit 1")
        await DBOS.send("id", 1, idempotency_key="key")
        with pytest.raises(asyncpg.SerializationError):
            await DBOS.send("id", 2, idempotency_key="key", connection=connection)
    async with connection.transaction(isolation=isolation):
        await DBOS.send("id", 2, idempotency_key="key", connection=connection)
        with SetWorkflowID("id"):
            handle = await start(connection, late=False)
    assert await handle.get_result() == "first"
    assert [one.payload for one in await DBOS.list_messages("id")] == [1]


@pytest.mark.parametrize("how", ["deleted", "purged"])
async def test_m7_t3_a_send_that_starts_its_destination_raises_when_it_was_removed_meanwhile(
    isolation: Any, how: str, dbos: DBOS, connection: Any
) -> None:
    await ended("id")
    async with connection.transaction(isolation=isolation):
        await connection.fetchval("select 1 from pg_class limit 1")
        await remove(how, "id")
        messages: list[dict[str, Any]] = [
            {},
            {"delay_seconds": 60.0},
            {"start": Start(short, "third")},
            {"idempotency_key": "k"},
        ]
        for message in messages:
            with pytest.raises(asyncpg.SerializationError):
                await DBOS.send("id", 1, connection=connection, **message)
        with pytest.raises(asyncpg.SerializationError):
            await DBOS.send_bulk([SendMessage("id", 1, delay_seconds=60)], connection=connection)
    assert await connection.fetchval("select count(*) from dbos_async.messages") == 0
    assert await connection.fetchval("select count(*) from dbos_async.delayed_messages") == 0
    assert await connection.fetchval("select count(*) from dbos_async.workflows") == 0


async def test_t1_a_step_of_a_workflow_that_was_removed_meanwhile_says_and_writes_nothing(
    isolation: Any, dbos: DBOS, connection: Any
) -> None:
    begun: list[int] = []
    goes_on = False

    @DBOS.transaction(name=f"older {isolation}", isolation=isolation.replace("_", " "))
    async def write(mine: Any) -> None:
        await mine.fetchval("select 1 from pg_class limit 1")
        begun.append(1)
        await eventually(lambda: goes_on)
        await DBOS.set_event("key", 1)
        await DBOS.write_stream("stream", 1)

    @DBOS.workflow(name=f"older writer {isolation}")
    async def writer() -> None:
        await write()

    with SetWorkflowID("w"):
        await DBOS.start_workflow(writer)
    await eventually(lambda: begun)
    await connection.execute("update dbos_async.workflows set status = 'CANCELLED', ended_at = now() - interval '1 day', "
                             "attempt = attempt + 1")  # fmt: skip
    await connection.execute("select dbos_async.delete_workflow(id, attempt) from dbos_async.workflows")
    goes_on = True
    await eventually(lambda: no_transaction(connection))
    for table in ("workflows", "steps", "events", "stream_entries"):
        assert await connection.fetchval(f"select count(*) from dbos_async.{table}") == 0, table


async def no_transaction(connection: Any) -> bool:
    count = "select count(*) = 0 from pg_stat_activity where application_name = 'dbos_async transaction' and xact_start is not null"
    return bool(await connection.fetchval(count))
