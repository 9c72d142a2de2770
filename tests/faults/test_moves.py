"""Moves of a database by the programs of Postgres, while workflows wait in it (D7, E1, M4)."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from dbos_async import DBOS, DBOSClient, SetWorkflowID
from dbos_async._database import migrations
from tests.support.databases import execute, with_database
from tests.support.eventually import eventually
from tests.support.postgres import SMALL, Server

pytestmark = pytest.mark.usefixtures("quiet")

TABLES = "workflows", "steps", "messages", "delayed_messages", "events", "stream_entries", "executors"

COUNTS = "select " + ", ".join(f"(select count(*) from dbos_async.{table}) as {table}" for table in TABLES)


@DBOS.workflow(name="moves house")
async def resident() -> list[Any]:
    """Says, writes and receives before and after the move."""
    got: list[Any] = []
    while (value := await DBOS.recv(None, None)) != "end":
        got.append(value)
        await DBOS.set_event("last", value)
        await DBOS.write_stream("all", value)
    return got


async def live_there(url: str) -> None:
    """Twenty workflows that have received two messages each, and have two more, which only the first has not seen."""
    async with DBOS(url, executor_id="old"):
        for n in range(20):
            with SetWorkflowID(f"w{n}"):
                await DBOS.start_workflow(resident)
            for value in (1, 2):
                await DBOS.send(f"w{n}", value)
        await eventually(lambda: all_received(url))
    async with DBOSClient(url) as client:
        for n in range(20):
            await client.send(f"w{n}", 3)
        await client.send("w0", 4, delay_seconds=0.1)


async def all_received(url: str) -> bool:
    left = "select count(*) from dbos_async.stream_entries"
    return bool(await execute(url, left) == 40)


async def live_here(url: str, sequences_moved: bool) -> None:
    """They go on, and nothing new counts as older than what came along."""
    behind = await execute(url, "select last_value < 20 from dbos_async.event_seq")
    assert behind is not sequences_moved
    async with DBOS(url, executor_id="new"), DBOSClient(url) as client:
        for n in range(20):
            await client.send(f"w{n}", 5)
        await eventually(lambda: last_is_5(client))
        for n in range(20):
            await client.send(f"w{n}", "end")
            handle = await client.retrieve_workflow(f"w{n}")
            got = await asyncio.wait_for(handle.get_result(), 40)
            assert sorted(got) == ([1, 2, 3, 4, 5] if n == 0 else [1, 2, 3, 5])
            assert [value for value in got if value != 4] == [1, 2, 3, 5]
            assert [value async for value in client.read_stream(f"w{n}", "all")] == got


async def last_is_5(client: DBOSClient) -> bool:
    return {await client.get_event(f"w{n}", "last") for n in range(1, 20)} == {5}


@pytest.fixture
async def server(programs: None) -> Any:
    """A server that can replicate logically."""
    async with Server(*SMALL, "wal_level=logical", tcp=True) as running:
        yield running


async def test_d7_e1_m4_by_logical_replication_which_leaves_the_sequences_behind(server: Server) -> None:
    old, new = (with_database(server.url, name) for name in ("old", "new"))
    await server.execute("create database old")
    await server.execute("create database new")
    for url in (old, new):
        connection = await asyncpg.connect(url)
        await migrations.migrate(connection)
        await connection.close()
    await execute(new, "truncate dbos_async.migrations, dbos_async.retention")
    await execute(old, "create publication moved for tables in schema dbos_async")
    await execute(old, "select pg_create_logical_replication_slot('moved', 'pgoutput')")
    await execute(
        new,
        f"create subscription moved connection 'host=127.0.0.1 port={server.port} user=postgres dbname=old' "
        "publication moved with (create_slot = false, slot_name = 'moved')",
    )
    await live_there(old)

    async def is_there() -> bool:
        there, here = await server_rows(old), await server_rows(new)
        return there == here

    await eventually(is_there)
    await execute(new, "alter subscription moved disable")
    await execute(new, "alter subscription moved set (slot_name = none)")
    await execute(new, "drop subscription moved")
    await execute(old, "select pg_drop_replication_slot('moved')")
    await live_here(new, sequences_moved=False)


async def server_rows(url: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return [list(row) for row in await connection.fetch(COUNTS)]
    finally:
        await connection.close()


async def test_d7_by_a_dump_that_was_taken_while_an_executor_ran(server: Server) -> None:
    """Its row comes along, and nobody is it: what it ran goes on after its lease."""
    old, new = (with_database(server.url, name) for name in ("old", "elsewhere"))
    await server.execute("create database old")
    await server.execute('create database "elsewhere"')
    async with DBOS(old, executor_id="old") as dbos:
        with SetWorkflowID("w"):
            handle = await DBOS.start_workflow(resident)
        await DBOS.send("w", 1)
        await eventually(lambda: received_one(dbos))
        await server.dump(old, new)
        await DBOS.send("w", "end")
        assert await handle.get_result() == [1]
    assert await execute(new, "select count(*) from dbos_async.executors") == 1
    async with DBOS(new, executor_id="new"):
        await DBOS.send("w", 2)
        await DBOS.send("w", "end")
        assert await asyncio.wait_for((await DBOS.retrieve_workflow("w")).get_result(), 40) == [1, 2]
        assert (await (await DBOS.retrieve_workflow("w")).get_status()).recoveries <= 1


async def received_one(dbos: DBOS) -> bool:
    return bool(await dbos.get_event("w", "last", timeout_seconds=0) == 1)
