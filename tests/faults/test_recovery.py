"""An executor that dies, and the others: promises W2 and W3 between processes."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from dbos_async import DBOS, SendMessage
from dbos_async._executor import launched
from tests.support.eventually import eventually
from tests.support.processes import holder
from tests.support.programs.hold import held

KNOWN_HERE = held  # importing it registers the workflow that the other process runs

ROOT = Path(__file__).parent.parent.parent


async def test_w2_a_killed_process_is_noticed_and_its_workflows_go_on_elsewhere(
    database_url: str, connection: Any
) -> None:
    process = await holder(database_url, 10)
    async with DBOS(database_url, executor_id="survivor"):
        owners = await connection.fetch("select distinct owner from dbos_async.workflows")
        assert [row["owner"].split(":")[0] for row in owners] == ["holder"], "nobody takes what somebody alive owns"
        process.kill()
        await process.wait()
        ids = [f"{kind}-{n}" for kind in ("waiting", "sleeping", "stepping") for n in range(10)]
        await eventually(lambda: _owned_by(connection, "survivor", 30))
        for workflow_id in ids:
            await DBOS.send(workflow_id, "go", "go")
            await DBOS.send(workflow_id, "the end", "end")
        for workflow_id in ids:
            result = await (await DBOS.retrieve_workflow(workflow_id)).get_result()
            assert result == [workflow_id.split("-")[0], "the end", True]
    assert await connection.fetchval(
        "select bool_and(attempt % 1000000 = 2 and recoveries = 1) from dbos_async.workflows"
    )


async def test_w2_d4_what_was_claimed_by_an_answer_that_got_lost_is_run_all_the_same(
    database_url: str, connection: Any
) -> None:
    async with DBOS(database_url, executor_id="owner"):
        me = await connection.fetchval("select id from dbos_async.executors")
        # As if a claim had been committed, and the connection lost before its answer came.
        await connection.execute(
            "insert into dbos_async.workflows (id, name, input, start_id, owner, attempt, claimed_at) values "
            "('w', 'held', '{\"args\": [\"waiting\"], \"kwargs\": {}}', gen_random_uuid(), $1, 1, now() - interval '1 minute')",
            me,
        )
        await DBOS.send("w", "the end", "end")
        batches = launched.executor().database.batches
        while batches.losses == 0:
            await connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid()"
            )
            await asyncio.gather(*(DBOS.get_all_events("w") for _ in range(10)))
        assert await (await DBOS.retrieve_workflow("w")).get_result() == ["waiting", "the end", True]


async def _owned_by(connection: Any, executor_id: str, count: int) -> bool:
    found = await connection.fetchval(
        "select count(*) from dbos_async.workflows where split_part(owner, ':', 1) = $1", executor_id
    )
    return bool(found == count)


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot be frozen there")
async def test_w3_a_frozen_process_that_wakes_up_changes_nothing(database_url: str, connection: Any) -> None:
    process = await holder(database_url, 2)
    process.send_signal(signal.SIGSTOP)
    try:
        async with DBOS(database_url, executor_id="survivor"):
            # Its lease runs out.
            await connection.execute("update dbos_async.executors set lease_until = now() where executor_id = 'holder'")
            # The server must have been up for a whole lease by now for that to count.
            await eventually(lambda: _owned_by(connection, "survivor", 6), give_up_after_seconds=40)
            await DBOS.send_bulk([hold_message(f"{kind}-{n}") for kind in ("waiting", "sleeping") for n in range(2)])
            for n in range(2):
                await (await DBOS.retrieve_workflow(f"waiting-{n}")).get_result()
                await (await DBOS.retrieve_workflow(f"sleeping-{n}")).get_result()
            process.send_signal(signal.SIGCONT)
            # It renews its lease, and finds at its next step that the workflows are no longer its own.
            await eventually(lambda: connection.fetchval("select count(*) = 2 from dbos_async.executors"))
            for n in range(2):
                await DBOS.send(f"stepping-{n}", "go", "go")
                await DBOS.send(f"stepping-{n}", "the end", "end")
            for n in range(2):
                result = await (await DBOS.retrieve_workflow(f"stepping-{n}")).get_result()
                assert result == ["stepping", "the end", True]
        assert await connection.fetchval("select bool_and(attempt % 1000000 = 2) from dbos_async.workflows")
        doubled = await connection.fetchval(
            "select count(*) from (select workflow_id, output::text from dbos_async.steps where verb = 'step' "
            "group by 1, 2 having count(*) > 1) as d"
        )
        assert doubled == 0
    finally:
        process.kill()
        await process.wait()


def hold_message(workflow_id: str) -> SendMessage:
    return SendMessage(workflow_id, "the end", "end")
