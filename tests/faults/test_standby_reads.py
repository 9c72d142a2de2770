"""Reads on a standby: they may lag, and nothing that waits misses a change; without the standby the primary is asked (D4, D7)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from dbos_async import DBOS, DatabaseUnavailableError, DBOSClient, SetWorkflowID, StreamValue, WorkflowNotFoundError
from dbos_async._database.outages import Meaning, meaning_of
from tests.support.eventually import eventually
from tests.support.postgres import Server
from tests.support.standbys import caught_up, primary_and_standby

pytestmark = pytest.mark.usefixtures("quiet")

PAUSE = "select pg_wal_replay_pause()"
IS_PAUSED = "select pg_get_wal_replay_pause_state() = 'paused'"


@DBOS.workflow(name="followed by readers")
async def teller(values: list[int]) -> str:
    """Says and writes these, and what it is sent."""
    for value in values:
        await DBOS.set_event("value", value)
        await DBOS.write_stream("values", value)
    while (value := await DBOS.recv(None, None)) is not None:
        await DBOS.set_event("value", value)
        await DBOS.write_stream("values", value)
    return "told"


@pytest.fixture
async def pair(programs: None) -> AsyncIterator[tuple[Server, Server]]:
    """A primary, and a standby that it does not wait for. Replay does not wait for reads."""
    async with primary_and_standby("max_standby_streaming_delay=0", is_synchronous=False) as servers:
        yield servers


async def pause(primary: Server, standby: Server) -> None:
    """From now on the standby does not move."""
    await caught_up(primary, standby)
    await standby.execute(PAUSE)
    await eventually(lambda: standby.execute(IS_PAUSED))


async def start(client: DBOSClient, workflow_id: str, values: list[int]) -> Any:
    with SetWorkflowID(workflow_id):
        handle = await client.start_workflow("followed by readers", values)
    await eventually(lambda: is_at(client, workflow_id, len(values)))
    return handle


async def is_at(client: DBOSClient, workflow_id: str, count: int) -> bool:
    steps = await client.list_workflow_steps(workflow_id)
    return [step.verb for step in steps].count("write_stream") == count


async def first_values(client: DBOSClient, workflow_id: str, count: int) -> list[Any]:
    found: list[Any] = []
    async for value in client.read_stream(workflow_id, "values"):
        found.append(value)
        if len(found) == count:
            break
    return found


async def test_d7_reads_may_lag_and_what_a_standby_does_not_have_is_found(pair: tuple[Server, Server]) -> None:
    primary, standby = pair
    async with (
        DBOS(primary.url),
        DBOSClient(primary.url) as sure,
        DBOSClient(primary.url, read_url=standby.url) as client,
    ):
        await start(sure, "old", [1, 2])
        await pause(primary, standby)
        await sure.send("old", 3)
        await eventually(lambda: is_at(sure, "old", 3))
        assert await client.get_event("old", "value") == 2, "what the standby has"
        assert await client.get_all_events("old") == {"value": 2}
        assert await first_values(client, "old", 3) == [1, 2, 3], "what it does not have is read at the primary"
        handle = await start(sure, "new", [7])
        counted = await client.count_workflows()
        assert [one.count for one in counted] == [1], "the standby knows one"
        assert await client.get_event("new", "value") == 7, "what is not there is looked for at the primary"
        assert await client.get_all_events("new") == {"value": 7}
        assert await first_values(client, "new", 1) == [7]
        assert (await client.retrieve_workflow("new")).workflow_id == "new"
        assert len(await client.list_workflow_steps("new")) == 3
        assert [one.workflow_id for one in await client.list_workflows()] == ["old", "new"], "lists do not lag"
        with pytest.raises(WorkflowNotFoundError):
            await client.retrieve_workflow("none")
        with pytest.raises(WorkflowNotFoundError):
            await first_values(client, "none", 1)
        await sure.send("new", None)
        assert await (await client.retrieve_workflow("new")).get_result() == "told"
        assert await handle.get_result() == "told"


async def test_d4_who_waits_misses_nothing_that_the_standby_does_not_have_yet(pair: tuple[Server, Server]) -> None:
    """The notification of the primary comes while the standby stands still."""
    primary, standby = pair
    async with (
        DBOS(primary.url),
        DBOSClient(primary.url) as sure,
        DBOSClient(primary.url, read_url=standby.url) as client,
    ):
        await start(sure, "w", [])
        await pause(primary, standby)
        event = asyncio.create_task(client.get_event("w", "value"))
        stream = asyncio.create_task(first_values(client, "w", 2))
        result = asyncio.create_task((await client.retrieve_workflow("w")).get_result())
        await sure.send("w", 1)
        assert await asyncio.wait_for(event, 5) == 1
        await sure.send("w", 2)
        assert await asyncio.wait_for(stream, 5) == [1, 2]
        await sure.send("w", None)
        assert await asyncio.wait_for(result, 5) == "told"
        assert [value async for value in client.read_stream("w", "values")] == [1, 2]


async def test_d4_a_standby_serves_reads_while_the_primary_is_away(pair: tuple[Server, Server]) -> None:
    """So none of them takes a lock, draws a number, or asks the primary."""
    primary, standby = pair
    async with DBOSClient(primary.url, read_url=standby.url, connect_timeout_seconds=2, migrate=True) as client:
        async with DBOS(primary.url, drain_seconds=1), DBOSClient(primary.url) as sure:
            handle = await start(sure, "w", list(range(600)))
            await sure.send("w", None)
            assert await handle.get_result() == "told"
        await caught_up(primary, standby)
        await primary.stop("immediate")
        assert [value async for value in client.read_stream("w", "values")] == list(range(600))
        entries = [entry async for entry in client.read_stream_entries("w", "values", offset=590)]
        assert [entry.value for entry in entries if isinstance(entry, StreamValue)] == list(range(590, 600))
        assert await client.get_event("w", "value") == 599
        assert await client.get_all_events("w") == {"value": 599}
        again = await client.retrieve_workflow("w")
        assert await again.get_result() == "told"
        assert (await again.get_status()).status == "SUCCESS"
        assert len(await client.list_workflow_steps("w")) == 1201
        assert [one.count for one in await client.count_workflows()] == [1]
        assert await client.count_messages() == []


async def test_d4_without_the_standby_the_primary_is_asked(
    pair: tuple[Server, Server], caplog: pytest.LogCaptureFixture
) -> None:
    primary, standby = pair
    with caplog.at_level(logging.INFO, "dbos_async"):
        async with (
            DBOS(primary.url), DBOSClient(primary.url) as sure, DBOSClient(primary.url, read_url=standby.url) as client,
        ):  # fmt: skip
            await start(sure, "w", [1])
            await caught_up(primary, standby)
            assert await client.get_event("w", "value") == 1
            await standby.stop("immediate")
            for _ in range(3):
                assert await asyncio.wait_for(client.get_event("w", "value"), 8) == 1
            assert await first_values(client, "w", 1) == [1]
            await standby.start()
            assert client._opened is not None
            reads = client._opened[0].standby
            assert reads is not None

            async def is_back() -> bool:
                await client.get_event("w", "value")
                return any("read_url answers again" in record.getMessage() for record in caplog.records)

            await eventually(is_back)
    told = [record.getMessage() for record in caplog.records if "read_url does not answer" in record.getMessage()]
    assert len(told) == 1


async def test_d4_a_read_that_replication_cancels_is_repeated(pair: tuple[Server, Server]) -> None:
    primary, standby = pair
    await primary.execute("create table t as select n from generate_series(1, 1000) as n")
    await caught_up(primary, standby)
    reader = await asyncpg.connect(standby.url)
    try:
        reading = asyncio.create_task(reader.fetchval("select count(*), pg_sleep(60) from t"))
        await eventually(
            lambda: standby.execute("select count(*) = 1 from pg_stat_activity where wait_event = 'PgSleep'")
        )
        await primary.execute("delete from t", "vacuum t")
        with pytest.raises(asyncpg.PostgresError, match="conflict with recovery") as raised:
            await reading
        assert meaning_of(raised.value) is Meaning.CONFLICT
    finally:
        await reader.close()


async def test_d4_a_client_with_nothing_but_a_standby_reads_and_waits_there(pair: tuple[Server, Server]) -> None:
    """Without LISTEN, which no standby has. What writes is refused in time, and nothing is stored."""
    primary, standby = pair
    async with DBOS(primary.url), DBOSClient(primary.url) as sure:
        await start(sure, "w", [1])
        await caught_up(primary, standby)
        async with DBOSClient(standby.url, listen=False, connect_timeout_seconds=2) as client:
            assert await client.get_event("w", "value") == 1
            stream = asyncio.create_task(first_values(client, "w", 3))
            result = asyncio.create_task((await client.retrieve_workflow("w")).get_result())
            for value in (2, 3, None):
                await sure.send("w", value)
            assert await asyncio.wait_for(stream, 5) == [1, 2, 3]
            assert await asyncio.wait_for(result, 5) == "told"
            assert [one.workflow_id for one in await client.list_workflows()] == ["w"]
            assert len(await client.list_messages("w")) == 3
            assert (await client.describe_workflow("w")).status.status == "SUCCESS"
            assert [one.executor_id for one in await client.list_executors()]
            with pytest.raises(DatabaseUnavailableError, match="read-only"):
                await client.send("w", 4)
        named = f"{standby.url}?target_session_attrs=standby"
        async with DBOSClient(named, listen=False) as client:
            assert await client.get_event("w", "value") == 3
        assert len(await sure.list_messages("w")) == 3
