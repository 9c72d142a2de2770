"""Calls that were set aside: they take turns, they end with their client, and they keep nobody's time (W10, D4, D5)."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from dbos_async import DBOS, DatabaseUnavailableError, DBOSClient, DBOSError, LaunchError, SetWorkflowID
from tests.support.eventually import eventually
from tests.support.troubles import holding, lock_row, trigger

pytestmark = pytest.mark.usefixtures("quiet")


@DBOS.workflow(name="is set aside")
async def wait() -> Any:
    return await DBOS.recv("go", timeout_seconds=None)


async def begin(client: DBOSClient, workflow_id: str) -> None:
    with SetWorkflowID(workflow_id):
        await client.start_workflow("is set aside")


async def test_w10_d4_a_flood_for_one_blocked_id_keeps_no_other_call_from_its_turn(
    database_url: str, connection: Any
) -> None:
    async with DBOS(database_url), DBOSClient(database_url, connect_timeout_seconds=20) as client:
        with SetWorkflowID("destination"):
            await DBOS.start_workflow(wait)
        insert = (
            "insert into dbos_async.workflows (id, name, input, start_id, attempt) "
            "values ('{}', 'is set aside', '{{\"args\": [], \"kwargs\": {{}}}}', gen_random_uuid(), 0)"
        )
        flood: list[asyncio.Task[None]] = []
        async with holding(database_url, insert.format("blocked")):
            async with holding(database_url, insert.format("free soon")):
                other = asyncio.create_task(begin(client, "free soon"))
                await asyncio.sleep(1)  # it is set aside
                for _ in range(40):
                    flood.append(asyncio.create_task(begin(client, "blocked")))
                    await asyncio.sleep(0.02)
            began = time.monotonic()
            for _ in range(40):
                flood.append(asyncio.create_task(begin(client, "blocked")))
                await asyncio.sleep(0.02)
            await other
            assert time.monotonic() - began < 8
            assert not any(task.done() for task in flood)
        await asyncio.gather(*flood)


async def test_w10_d4_many_blocked_calls_cost_the_calls_beside_them_some_seconds(database_url: str) -> None:
    ids = [f"blocked {n}" for n in range(60)]
    values = ", ".join(
        f"('{one}', 'is set aside', '{{\"args\": [], \"kwargs\": {{}}}}', gen_random_uuid(), 0)" for one in ids
    )
    insert = f"insert into dbos_async.workflows (id, name, input, start_id, attempt) values {values}"
    async with DBOS(database_url), DBOSClient(database_url, connect_timeout_seconds=60) as client:
        async with holding(database_url, insert):
            blocked = [asyncio.create_task(begin(client, one)) for one in ids]
            others = [asyncio.create_task(begin(client, f"other {n}")) for n in range(180)]
            began = time.monotonic()
            await asyncio.gather(*others)
            assert time.monotonic() - began < 15
            assert not any(task.done() for task in blocked)
        await asyncio.gather(*blocked)


async def test_d4_d5_what_was_set_aside_ends_with_its_client(database_url: str, connection: Any) -> None:
    async with DBOS(database_url):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(wait)
        async with trigger(connection, "messages", "53100") as refusing:
            async with DBOSClient(database_url) as client:
                sends = [asyncio.create_task(client.send("w", n)) for n in range(24)]
                await refusing.met(40)
            outcomes = await asyncio.gather(*sends, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {LaunchError}
        await asyncio.sleep(1)
        assert await connection.fetchval("select count(*) from dbos_async.messages") == 0


async def test_d4_the_reason_of_an_error_is_that_of_its_own_call(database_url: str, connection: Any) -> None:
    async with DBOS(database_url), DBOSClient(database_url, connect_timeout_seconds=1) as client:
        for workflow_id in ("locked", "slow"):
            with SetWorkflowID(workflow_id):
                await DBOS.start_workflow(wait)
        async with holding(database_url, lock_row("workflows", "id", "locked")):
            with pytest.raises(DatabaseUnavailableError, match="lock"):
                await client.cancel_workflow("locked")
        async with trigger(connection, "messages", seconds=3.0):
            with pytest.raises(DatabaseUnavailableError, match="still at work") as raised:
                await client.send("slow", 1)
            assert raised.value.may_have_committed


async def test_d6_health_is_asked_for_in_the_loop_of_the_launch(database_url: str) -> None:
    told: list[type[BaseException]] = []

    async def ask() -> None:
        for error in await asyncio.gather(*(DBOS.health() for _ in range(12)), return_exceptions=True):
            assert isinstance(error, DBOSError)
            told.append(type(error))

    async with DBOS(database_url):
        thread = threading.Thread(target=lambda: asyncio.run(ask()))
        thread.start()
        await asyncio.to_thread(thread.join)
        assert len(told) == 12
        assert (await DBOS.health()).ok, "the connections are as they were"
        await asyncio.gather(*(DBOS.get_all_events(str(n)) for n in range(100)))


async def test_w10_health_of_an_executor_that_shuts_down_names_nothing_else(database_url: str) -> None:
    @DBOS.step()
    async def hold() -> None:
        begun.set()
        await let_go.wait()

    @DBOS.workflow(name="is held in a drain")
    async def held() -> None:
        await hold()

    begun, let_go = asyncio.Event(), asyncio.Event()
    dbos = await DBOS.launch(database_url)
    await DBOS.start_workflow(held)
    await begun.wait()
    closing = asyncio.create_task(DBOS.shutdown())
    await eventually(_is_ill)
    health = await DBOS.health()
    assert health.reasons == ["DBOS shuts down."]
    assert set(health.services.values()) == {"ok"}
    let_go.set()
    await closing
    assert dbos is not None


async def _is_ill() -> bool:
    return not (await DBOS.health()).ok


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.01, 0.03, 0.1])
async def test_d5_a_launch_that_is_cancelled_leaves_nothing(database_url: str, connection: Any, seconds: float) -> None:
    before = threading.active_count()
    launch = asyncio.create_task(DBOS.launch(database_url))
    await asyncio.sleep(seconds)
    launch.cancel()
    async with asyncio.timeout(20):
        outcome = (await asyncio.gather(launch, return_exceptions=True))[0]
    if isinstance(outcome, DBOS):
        await DBOS.shutdown()
    await eventually(lambda: threading.active_count() <= before, "no thread more")
    assert await connection.fetchval("select count(*) from dbos_async.executors") == 0
    async with asyncio.timeout(20), DBOS(database_url):
        assert (await DBOS.health()).lease
