"""Kills at every boundary of a generation, and while messages arrive: nothing is lost or doubled (T2, M1, M2, M4)."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from dbos_async import DBOSClient, SendMessage, SetWorkflowID
from tests.support.lasting import INBOX, last
from tests.support.processes import running

PER_GENERATION, LAST = 2, 5
BOUNDARIES = 16
"""Steps and ends of generations until the workflow has ended: two for each message, two events and two streams, and two ends."""


@pytest.mark.parametrize("at", range(1, BOUNDARIES + 1))
@pytest.mark.parametrize("mode", ["before", "after"])
async def test_t2_a_kill_at_any_boundary_loses_and_doubles_nothing(
    mode: str, at: int, database_url: str, connection: Any
) -> None:
    async with DBOSClient(database_url, migrate=True) as client:
        with SetWorkflowID("w"):
            handle = await client.start_workflow("agent", 1, PER_GENERATION, LAST)
        await client.send_bulk([SendMessage("w", number, INBOX) for number in range(1, LAST + 1)])
        async with running("agent", database_url, mode, at) as program:
            assert await program.code() == -signal.SIGKILL
        async with running("agent", database_url) as program:
            await program.says("ready")
            assert await handle.get_result(timeout_seconds=30) == f"all {LAST} came"
        assert (await handle.get_status()).generation == 3
        assert [value async for value in client.read_stream("w", "log")] == [2, 4]
        assert await client.get_event("w", "done") == 4
    rows = await connection.fetchrow(
        "select (select count(*) from dbos_async.steps) as steps, (select count(*) from dbos_async.messages) as messages"
    )
    assert tuple(rows) == (2, 1)


async def test_t2_a_workflow_lasts_while_its_executor_is_killed(database_url: str) -> None:
    found = await last(
        database_url, messages=2000, per_generation=20, kills=4, seconds_between_kills=(0.2, 0.6), most_waiting=200
    )
    assert found.result == "all 2000 came"
    assert found.generation == 100
    assert found.kills >= 1
    assert found.most_rows["steps"] <= 2 * 20 + 5
    assert found.most_rows["messages"] <= 20
    assert found.most_rows["events"] <= 2  # between an event and the end of its generation
