"""Many at once: long queues, wide bulks, processes that repeat each other, lost listeners."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dbos_async import DBOS, DBOSClient, SendMessage, SetWorkflowID
from dbos_async._executor import launched
from tests.conftest import Connect
from tests.support.eventually import eventually

ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.usefixtures("dbos")


@DBOS.workflow()
async def take_many(count: int) -> list[Any]:
    return [await DBOS.recv("t", None) for _ in range(count)]


async def in_order(workflow_id: str) -> None:
    with SetWorkflowID(workflow_id):
        handle = await DBOS.start_workflow(take_many, 1000)
    await DBOS.send_bulk([SendMessage(workflow_id, n, "t") for n in range(1000)])
    assert await handle.get_result() == list(range(1000))


async def test_m4_a_thousand_messages_of_one_bulk_keep_their_order() -> None:
    await in_order("w")


async def test_m4_they_keep_it_on_an_old_table_full_of_holes(connection: Any) -> None:
    await connection.execute(
        "insert into dbos_async.messages (id, seq, destination_id, topic, payload) "
        "select gen_random_uuid(), nextval('dbos_async.message_seq'), 'old ' || n % 100, 't', to_json(repeat('x', n % 900)) "
        "from generate_series(1, 30000) as n"
    )
    for _ in range(5):
        await connection.execute("delete from dbos_async.messages where random() < 0.3 and destination_id <> 'w'")
        await connection.execute("vacuum dbos_async.messages")
        await connection.execute(
            "insert into dbos_async.messages (id, seq, destination_id, topic, payload) "
            "select gen_random_uuid(), nextval('dbos_async.message_seq'), 'old ' || n % 100, 't', to_json(repeat('y', n % 900)) "
            "from generate_series(1, 3000) as n"
        )
    await in_order("w")


async def test_m2_one_bulk_to_two_thousand_workflows() -> None:
    handles = await asyncio.gather(*(DBOS.start_workflow(take_many, 1) for _ in range(2000)))
    await DBOS.send_bulk([SendMessage(handle.workflow_id, n, "t") for n, handle in enumerate(handles)])
    assert await asyncio.gather(*(handle.get_result() for handle in handles)) == [[n] for n in range(2000)]


async def test_m3_sixteen_processes_repeat_the_same_keys_in_random_order(database_url: str, connection: Any) -> None:
    with SetWorkflowID("w"):
        await DBOS.start_workflow(take_many, 0)
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.support.programs.repeat_keys",
            database_url,
            cwd=ROOT,
            stderr=asyncio.subprocess.PIPE,
        )
        for _ in range(16)
    ]
    errors = await asyncio.gather(*(process.communicate() for process in processes))
    assert [process.returncode for process in processes] == [0] * 16, errors
    assert [error for _, error in errors if error] == []
    stored = await connection.fetch("select payload::text::int as n from dbos_async.messages order by 1")
    assert [row["n"] for row in stored] == list(range(400))


@pytest.mark.listens("its listener is terminated")
async def test_a_listener_that_is_terminated_is_replaced_and_everybody_looks_again(
    database_url: str, connect: Connect
) -> None:
    connection = await connect()
    handle = await DBOS.start_workflow(take_many, 1)
    await eventually(lambda: launched.executor().free_slots == 1000, "the receiver waits")
    async with DBOSClient(database_url) as client:
        terminated = await connection.fetch(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and query ilike any (array['listen%', 'select 1'])"
        )
        assert len(terminated) >= 2, "the listeners of the executor and of the client"
        began = time.monotonic()
        await client.send(handle.workflow_id, "sent meanwhile", "t")
        assert await handle.get_result() == ["sent meanwhile"]
        assert time.monotonic() - began < 2


async def test_d4_calls_outlast_the_loss_of_every_connection(connect: Connect) -> None:
    connection = await connect()
    handle = await DBOS.start_workflow(take_many, 200)

    async def send_all() -> None:
        for n in range(200):
            await DBOS.send(handle.workflow_id, n, "t")

    sending = asyncio.create_task(send_all())
    while not sending.done():
        await connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )
        await asyncio.sleep(0.05)
    await sending
    assert await handle.get_result() == list(range(200))


async def test_w5_a_clean_shutdown_gives_the_workflows_back(database_url: str, connection: Any) -> None:
    with SetWorkflowID("w"):
        await DBOS.start_workflow(take_many, 2)
    await DBOS.send("w", "before", "t")
    await eventually(lambda: _steps_of("w", 2))
    await DBOS.shutdown()
    row = await connection.fetchrow("select owner, status, recoveries from dbos_async.workflows where id = 'w'")
    assert tuple(row) == (None, "PENDING", 0)
    assert await connection.fetchval("select count(*) from dbos_async.executors") == 0
    async with DBOS(database_url):
        await DBOS.send("w", "after", "t")
        assert await (await DBOS.retrieve_workflow("w")).get_result() == ["before", "after"]


async def _steps_of(workflow_id: str, count: int) -> bool:
    return len(await DBOS.list_workflow_steps(workflow_id)) >= count


async def test_a_history_is_replayed_in_pages(database_url: str, connection: Any) -> None:
    with SetWorkflowID("w"):
        await DBOS.start_workflow(take_many, 2501)
    await DBOS.send_bulk([SendMessage("w", n, "t") for n in range(2500)])
    await eventually(lambda: _waits_at(connection, 2501))
    await DBOS.shutdown()
    async with DBOS(database_url):
        await DBOS.send("w", 2500, "t")
        result = await (await DBOS.retrieve_workflow("w")).get_result()
    assert result == list(range(2501))


async def _waits_at(connection: Any, step: int) -> bool:
    return bool(await connection.fetchval("select true from dbos_async.steps where number = $1", step))


async def test_claims_respect_max_running_and_leave_nobody_behind(database_url: str) -> None:
    await DBOS.shutdown()
    running: list[int] = []

    @DBOS.step()
    async def work() -> int:
        running.append(1)
        most = len(running)
        await asyncio.sleep(0.01)
        running.pop()
        return most

    @DBOS.workflow()
    async def short() -> int:
        return await work()

    async with DBOSClient(database_url) as client, DBOS(database_url, max_running=3):
        handles = [await client.start_workflow(short) for _ in range(40)]
        mine = await asyncio.gather(*(DBOS.start_workflow(short) for _ in range(20)))
        assert max(await asyncio.gather(*(handle.get_result() for handle in [*handles, *mine]))) <= 3
