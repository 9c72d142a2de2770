"""Workflows with a deadline, and workflows that no executor can run."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from dbos_async import (
    DBOS,
    DBOSClient,
    InvalidArgumentError,
    SetApplicationVersion,
    SetWorkflowID,
    SetWorkflowTimeout,
    WorkflowCancelledError,
    WorkflowStatus,
)
from dbos_async._database import wakeups
from dbos_async._lifecycle import periodic
from tests.support.eventually import eventually


@DBOS.workflow(name="waits for ever")
async def waits() -> Any:
    return await DBOS.recv("go", None)


@DBOS.workflow(name="starts another")
async def parent() -> None:
    with SetWorkflowID("child"):
        await DBOS.start_workflow(waits)
    with SetWorkflowID("hurried child"), SetWorkflowTimeout(0.1):
        await DBOS.start_workflow(waits)
    await DBOS.recv("go", None)


async def test_w6_at_its_deadline_a_workflow_is_cancelled(dbos: DBOS) -> None:
    with SetWorkflowTimeout(0.2):
        handle = await DBOS.start_workflow(waits)
        with SetWorkflowTimeout(None):
            unhurried = await DBOS.start_workflow(waits)
        other = await DBOS.start_workflow(waits)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for late in (handle, other):
        with pytest.raises(WorkflowCancelledError):
            await late.get_result()
    assert 0.1 < loop.time() - began < 1.2
    status = await handle.get_status()
    assert status.deadline is not None
    assert status.ended_at is not None
    assert status.status == "CANCELLED"
    assert status.ended_at >= status.deadline
    assert (await unhurried.get_status()).deadline is None
    # Resumed, it has all the time there is.
    await DBOS.resume_workflow(handle.workflow_id)
    await DBOS.send(handle.workflow_id, "gone", "go")
    assert await handle.get_result() == "gone"


async def test_w6_tasks_may_share_a_block_and_leave_it_in_any_order(dbos: DBOS) -> None:
    an_hour, version, may_leave = (
        SetWorkflowTimeout(3600),
        SetApplicationVersion("2"),
        [asyncio.Event() for _ in range(3)],
    )

    async def start(number: int) -> WorkflowStatus:
        with an_hour, version:
            handle = await DBOS.start_workflow(waits)
            with an_hour:
                await may_leave[number].wait()
        outside = await DBOS.start_workflow(waits)
        assert (await outside.get_status()).deadline is None
        return await handle.get_status()

    tasks = [asyncio.create_task(start(number)) for number in range(3)]
    for number in (1, 0, 2):
        await eventually(lambda: _are_started(3))
        may_leave[number].set()
        status = await tasks[number]
        assert status.deadline is not None
        assert status.application_version == "2"


async def _are_started(count: int) -> bool:
    return len(await DBOS.list_workflows(application_version="2")) == count


async def test_w6_a_deadline_outlasts_restarts_and_needs_no_owner(database_url: str) -> None:
    async with DBOS(database_url), DBOSClient(database_url) as client:
        with SetWorkflowTimeout(0.5):
            handle = await DBOS.start_workflow(waits)
            unknown = await client.start_workflow("nobody knows it")
    async with DBOS(database_url), DBOSClient(database_url) as client:
        for workflow_id in (handle.workflow_id, unknown.workflow_id):
            with pytest.raises(WorkflowCancelledError):
                await (await client.retrieve_workflow(workflow_id)).get_result()


async def test_w6_a_deadline_does_not_reach_children(dbos: DBOS) -> None:
    with SetWorkflowTimeout(1):
        handle = await DBOS.start_workflow(parent)
    for workflow_id in (handle.workflow_id, "hurried child"):
        with pytest.raises(WorkflowCancelledError):
            await (await DBOS.retrieve_workflow(workflow_id)).get_result()
    child = await DBOS.retrieve_workflow("child")
    assert (await child.get_status()).deadline is None
    await DBOS.send("child", 1, "go")
    assert await child.get_result() == 1


async def test_w6_a_workflow_that_ended_in_time_stays_as_it_is(dbos: DBOS, connection: Any) -> None:
    with SetWorkflowTimeout(60):
        handle = await DBOS.start_workflow(waits)
    await DBOS.send(handle.workflow_id, "in time", "go")
    assert await handle.get_result() == "in time"
    await connection.execute("update dbos_async.workflows set deadline = now() - interval '1 minute'")
    due = await connection.fetch(periodic.DUE.sql.one_row, 0, 100, None)
    assert due == []


@pytest.mark.parametrize("seconds", [-1, "1", float("nan"), True])
def test_d5_a_timeout_that_is_none_is_refused(seconds: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="seconds must be a number of seconds"):
        SetWorkflowTimeout(seconds)


async def test_w2_what_no_live_executor_can_run_is_counted_listed_and_moved(
    database_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, connection: Any
) -> None:
    monkeypatch.setattr(periodic, "REPORT_EVERY_SECONDS", 0.05)
    async with DBOS(database_url, application_version="old"):
        with SetWorkflowID("old"):
            handle = await DBOS.start_workflow(waits)
    async with DBOS(database_url, application_version="new"), DBOSClient(database_url) as client:
        with SetWorkflowID("unknown"):
            await client.start_workflow("nobody knows it")
        with SetWorkflowID("claimed"):
            await client.start_workflow(waits)
        with SetWorkflowID("own"):
            await DBOS.start_workflow(waits)
        claimed = "select count(*) from dbos_async.workflows where id = 'claimed' and owner is not null"
        await eventually(lambda: connection.fetchval(claimed))
        assert [s.workflow_id for s in await client.list_workflows(unclaimable=True)] == ["old", "unknown"]
        assert [s.workflow_id for s in await DBOS.list_workflows(unclaimable=False)] == ["claimed", "own"]
        with caplog.at_level(logging.WARNING, "dbos_async"):
            await connection.execute("update dbos_async.workflows set created_at = created_at - interval '2 minutes'")
            await eventually(lambda: "No live executor can run 1 workflow named 'nobody knows it':" in caplog.text)
            assert "No live executor can run 1 workflow named 'waits for ever' of version 'old':" in caplog.text
        await client.resume_workflow("old", application_version="new")
        await DBOS.send("old", "moved", "go")
        assert await (await DBOS.retrieve_workflow("old")).get_result() == "moved"
        assert [s.workflow_id for s in await DBOS.list_workflows(unclaimable=True)] == ["unknown"]
    assert handle.workflow_id == "old"


async def test_w6_a_workflow_that_is_moved_to_another_version_keeps_its_deadline(database_url: str) -> None:
    async with DBOS(database_url, application_version="old"):
        with SetWorkflowTimeout(3600):
            moved = await DBOS.start_workflow(waits)
    async with DBOSClient(database_url) as client:
        deadline = (await (await client.retrieve_workflow(moved.workflow_id)).get_status()).deadline
        assert deadline is not None
        status = await (await client.resume_workflow(moved.workflow_id, application_version="new")).get_status()
        assert (status.application_version, status.deadline) == ("new", deadline)


async def test_m6_a_sleep_outlasts_the_slow_interval(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sleep longer than the interval at which every waiter polls again was never woken."""
    monkeypatch.setattr(wakeups, "RECHECK_SECONDS", 0.05)
    monkeypatch.setattr(wakeups, "RECHECK_TICK_SECONDS", 0.025)

    @DBOS.workflow()
    async def sleeper() -> str:
        await DBOS.sleep(0.3)
        return "awake"

    async with asyncio.timeout(10), DBOS(database_url):
        assert await sleeper() == "awake"
