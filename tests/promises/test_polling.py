"""Without LISTEN (``listen=False``) every promise holds as with it; what others commit is only noticed a little later."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from dbos_async import DBOS, DBOSClient, EventOf, Question, SetWorkflowID, StreamOf, WorkflowHandle
from dbos_async._database import watched
from dbos_async._executor import launched
from dbos_async._workflows.control import CANCEL
from tests.support.databases import execute as execute_sql
from tests.support.eventually import eventually
from tests.support.proxy import Proxy
from tests.support.statements import execute

PRICE: Final = Question("price", str, int)

SOON_SECONDS: Final = 5.0
"""A wait that is missed by the polls would last 15 s at least."""


@DBOS.workflow()
async def polled_echo() -> None:
    """Answers each message by an event and a value of a stream, until there is an empty one."""
    while (text := await DBOS.recv("say", timeout_seconds=None)) != "":
        await DBOS.set_event("said", text)
        await DBOS.write_stream("all", text)


@DBOS.workflow()
async def polled_shop() -> None:
    asked = await DBOS.recv_envelope(PRICE, timeout_seconds=None)
    assert asked is not None
    await asked.answer(len(asked.payload))


@DBOS.workflow()
async def polled_reader(echo_id: str) -> list[Any]:
    """Waits for everything that a workflow can wait for."""
    first = await DBOS.wait_first("never", EventOf(echo_id, "said"), timeout_seconds=60)
    second = await DBOS.wait_first("never", StreamOf(echo_id, "all"), timeout_seconds=60)
    values = [value async for value in DBOS.read_stream(echo_id, "all")]
    handle = await DBOS.retrieve_workflow(echo_id)
    return [first.value, second.value, values, await handle.get_result(), await DBOS.get_event(echo_id, "said")]


@DBOS.workflow()
async def polled_sleeper() -> None:
    await asyncio.sleep(300)


@DBOS.workflow()
async def polled_durable_sleeper() -> None:
    await DBOS.sleep(300)


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[DBOSClient]:
    """What hears of nothing that the executor commits but by polls, as if it were in another process."""
    async with DBOS(database_url, executor_id="test", listen=False), DBOSClient(database_url, listen=False) as client:
        yield client


async def started(workflow: Any, workflow_id: str, *args: Any) -> WorkflowHandle[Any]:
    with SetWorkflowID(workflow_id):
        return await DBOS.start_workflow(workflow, *args)


async def is_over(workflow_id: str) -> None:
    """Return when this process has no run of the workflow any more."""
    await eventually(lambda: workflow_id not in launched.executor().runs)


async def test_m1_e3_s3_what_others_commit_is_received_and_read(other: DBOSClient) -> None:
    await started(polled_echo, "echo")
    reader = await started(polled_reader, "reader", "echo")
    values: list[Any] = []

    async def read() -> None:
        values.extend([value async for value in other.read_stream("echo", "all")])

    reading = asyncio.create_task(read())
    async with asyncio.timeout(SOON_SECONDS):
        for n in range(10):
            version = (await other.get_all_events("echo")).get("said")
            await other.send("echo", f"{n}", "say")
            async for each in other.watch_event("echo", "said"):
                if each.value != version:
                    break
        await other.send("echo", "", "say")
        await (await other.retrieve_workflow("echo")).get_result()
        await reading
        found = await reader.get_result()
    all_values = [f"{n}" for n in range(10)]
    assert values == all_values
    assert found[2:] == [all_values, None, "9"]
    assert found[0] in all_values
    assert found[1] == "0"


async def test_c2_an_answer_reaches_the_one_who_asked(other: DBOSClient) -> None:
    await started(polled_shop, "shop")
    async with asyncio.timeout(SOON_SECONDS):
        assert await other.ask("shop", PRICE, "a lamp") == 6


async def test_w2_what_a_client_starts_is_claimed(other: DBOSClient, connection: Any) -> None:
    """Also behind many that no executor knows."""
    await connection.execute(
        "insert into dbos_async.workflows (id, name, input, start_id, attempt) "
        "select 'u' || n, 'a name that nobody knows', '{}', gen_random_uuid(), 0 from generate_series(1, 300) as n"
    )
    for n in range(3):
        with SetWorkflowID(f"shop {n}"):
            await other.start_workflow(polled_shop)
        async with asyncio.timeout(SOON_SECONDS):
            assert await other.ask(f"shop {n}", PRICE, "a lamp") == 6
        await asyncio.sleep(1)  # Until the executor polls seldom.


@pytest.mark.parametrize("runs", [1, 60])
async def test_w6_a_run_is_cancelled_within_a_second_from_another_process(
    runs: int, other: DBOSClient, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also among others that begin and end meanwhile, and where not all are asked for in one poll."""
    monkeypatch.setattr(watched, "MOST", 20)
    for n in range(runs):
        await started(polled_sleeper, f"sleeper {n}")
    took: list[float] = []
    for n in range(0, runs, max(runs // 6, 1)):
        handle = await started(polled_sleeper, f"late {n}")
        for cancelled in (f"sleeper {n}", f"late {n}"):
            began = time.monotonic()
            await execute(connection, CANCEL, (cancelled, None, b"12345678"))  # its notification is heard by nobody
            handle = await DBOS.retrieve_workflow(cancelled)
            assert (await handle.get_status()).status == "CANCELLED"
            await is_over(cancelled)
            took.append(time.monotonic() - began)
    assert max(took) < 2.0
    assert sorted(took)[len(took) // 2] < 1.0


async def test_w6_a_run_that_is_asked_to_clean_up_hears_of_it(other: DBOSClient, connection: Any) -> None:
    handle = await started(polled_durable_sleeper, "sleeper")
    await asyncio.sleep(0.7)  # Until the executor polls seldom.
    began = time.monotonic()
    await execute(connection, CANCEL, ("sleeper", 30.0, b"12345678"))
    await is_over("sleeper")
    assert time.monotonic() - began < 2.0
    assert (await handle.get_status()).status == "CANCELLED"


async def test_d4_after_an_outage_everything_is_looked_at_at_once(database_url: str) -> None:
    async with Proxy(database_url) as proxy, DBOS(proxy.url, executor_id="test", listen=False):
        handle = await started(polled_shop, "shop")
        await eventually(lambda: launched.executor().runs["shop"].tasks_waiting)
        proxy.refuse()
        proxy.cut()
        await eventually(lambda: not (listener := launched.executor().database.listener) or not listener.is_listening)
        health = await DBOS.health()
        assert not health.listener
        assert any(each.startswith("The polls for changes have no answer: ") for each in health.reasons)
        async with DBOSClient(database_url, listen=False) as client:
            asked = asyncio.create_task(client.ask("shop", PRICE, "a lamp"))
            await eventually(lambda: execute_sql(database_url, "select true from dbos_async.messages"))
            await proxy.heal()
            async with asyncio.timeout(SOON_SECONDS):
                assert await asked == 6
                await handle.get_result()
        await eventually(_is_well, "the lease is renewed, too")


async def _is_well() -> bool:
    return (await DBOS.health()).ok


async def test_health_is_well_without_a_listener(other: DBOSClient) -> None:
    health = await DBOS.health()
    assert (health.ok, health.listener, health.reasons) == (True, True, [])


async def test_nothing_listens(other: DBOSClient, connection: Any) -> None:
    await started(polled_shop, "shop")
    listening = """
        select query from pg_stat_activity
        where datname = current_database() and query ilike '%listen%' and pid <> pg_backend_pid()
    """
    assert await connection.fetch(listening) == []
