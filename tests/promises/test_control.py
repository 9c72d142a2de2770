"""Cancelling and resuming: promise W6."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any

import pytest

from dbos_async import DBOS, DBOSClient, SetWorkflowID, WorkflowCancelledError, WorkflowHandle, WorkflowNotFoundError
from dbos_async._executor import launched
from tests.support.eventually import eventually
from tests.support.processes import holder
from tests.support.programs.hold import held

CLEANED: list[str] = []
RAN: list[str] = []
GATES: list[asyncio.Event] = []


@DBOS.step()
async def endless() -> None:
    RAN.append("endless")
    try:
        await asyncio.Event().wait()
    finally:
        CLEANED.append("step")


@DBOS.step()
def thread() -> None:
    threading.Event().wait(0.5)


@DBOS.step()
async def count() -> int:
    RAN.append("count")
    return RAN.count("count")


@DBOS.workflow()
async def nothing() -> None:
    await DBOS.recv("never", None)


@DBOS.workflow()
async def stand_at(verb: str) -> Any:
    first = await count()
    if verb == "recv":
        await DBOS.recv("go", None)
    elif verb == "get_event":
        await DBOS.get_event("nobody", "k", None)
    elif verb == "read_stream":
        async for _ in DBOS.read_stream(str(DBOS.workflow_id), "k"):
            pass
    elif verb == "sleep":
        await DBOS.sleep(3600)
    elif verb == "step":
        await endless()
    elif verb == "thread":
        await thread()
        await DBOS.recv("go", None)
    elif verb == "child":
        with SetWorkflowID("child"):
            child: WorkflowHandle[None] = await DBOS.start_workflow(nothing)
        await child.get_result()
    elif verb == "gather":
        await asyncio.gather(DBOS.recv("a", None), DBOS.sleep(3600), endless())
    return [first, await count()]


VERBS = ["recv", "get_event", "read_stream", "sleep", "step", "thread", "child", "gather"]


@pytest.fixture(autouse=True)
def _clean() -> None:
    CLEANED.clear()
    RAN.clear()


@pytest.mark.parametrize("verb", VERBS)
async def test_w6_cancelling_ends_a_workflow_at_whatever_await_it_stands(dbos: DBOS, verb: str) -> None:
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(stand_at, verb)
    waiting = asyncio.create_task(handle.get_result())
    await eventually(lambda: "endless" in RAN if verb == "step" else RAN)
    began = time.monotonic()
    await DBOS.cancel_workflow("w")
    with pytest.raises(WorkflowCancelledError, match="'w' was cancelled"):
        await waiting
    await eventually(lambda: "w" not in launched.executor().runs)
    assert time.monotonic() - began < 1
    if verb == "step":
        assert CLEANED == ["step"]
    status = await handle.get_status()
    assert (status.status, status.executor_id) == ("CANCELLED", launched.executor().id), "who ran it is seen"
    await DBOS.cancel_workflow("w")


async def test_w6_a_cancelled_workflow_can_be_resumed_after_its_last_recorded_step(dbos: DBOS) -> None:
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(stand_at, "recv")
    await eventually(lambda: _has_steps("w", 2))
    await DBOS.cancel_workflow("w")
    await DBOS.send("w", "stored although it is cancelled", "go")
    resumed = await DBOS.resume_workflow("w")
    assert await resumed.get_result() == [1, 2]
    assert await handle.get_result() == [1, 2]
    assert RAN == ["count", "count"]


async def test_w6_cancelling_or_resuming_what_has_ended_changes_nothing(dbos: DBOS) -> None:
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(stand_at, "nothing at all")
    assert await handle.get_result() == [1, 2]
    await DBOS.cancel_workflow("w")
    await DBOS.resume_workflow("w")
    assert (await handle.get_status()).status == "SUCCESS"
    for act in (DBOS.cancel_workflow, DBOS.resume_workflow):
        with pytest.raises(WorkflowNotFoundError, match="'nobody'"):
            await act("nobody")


async def test_w6_cancelling_reaches_a_run_in_another_process(database_url: str, connection: Any) -> None:
    assert held.name == "held"
    process = await holder(database_url, 2)
    try:
        async with DBOSClient(database_url) as client:
            for kind in ("waiting", "sleeping", "stepping"):
                handle = await client.retrieve_workflow(f"{kind}-0")
                waiting = asyncio.create_task(handle.get_result())
                await client.cancel_workflow(f"{kind}-0")
                with pytest.raises(WorkflowCancelledError):
                    async with asyncio.timeout(1):
                        await waiting
            steps = await connection.fetchval("select count(*) from dbos_async.steps where workflow_id = 'stepping-0'")
            others = "select count(*) from dbos_async.steps where workflow_id = 'stepping-1'"
            before = await connection.fetchval(others)
            await eventually(lambda: _more_than(connection, others, before + 5), "the other workflow goes on")
            now = await connection.fetchval("select count(*) from dbos_async.steps where workflow_id = 'stepping-0'")
            assert now <= steps + 1, "only what was on its way when the workflow was cancelled"
    finally:
        process.kill()
        await process.wait()


@DBOS.step()
async def written_in_a_step() -> None:
    await DBOS.write_stream("s", 1)


@DBOS.workflow()
async def late(verb: str) -> None:
    RAN.append("late")
    await GATES[-1].wait()
    if verb == "step":
        await count()
    elif verb == "inside of a step":
        await written_in_a_step()
    elif verb == "start_workflow":
        await DBOS.start_workflow(nothing)
    elif verb == "set_event":
        await DBOS.set_event("k", 1)
    else:
        await DBOS.recv("go", None)


@pytest.mark.parametrize("verb", ["step", "inside of a step", "start_workflow", "set_event", "recv"])
async def test_w6_a_run_that_its_own_verb_tells_of_its_cancellation_stops_without_a_warning(
    verb: str, dbos: DBOS, connection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    GATES.append(asyncio.Event())
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(late, verb)
    await eventually(lambda: RAN)
    # As by another process whose notification is still on its way.
    await connection.execute("update dbos_async.workflows set status = 'CANCELLED', owner = null")
    with caplog.at_level(logging.INFO, "dbos_async"):
        GATES[-1].set()
        await eventually(lambda: not launched.executor().runs)
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", "A run of workflow 'w' stops: it was cancelled.")
    ]
    with pytest.raises(WorkflowCancelledError):
        await handle.get_result()
    assert await connection.fetchval("select count(*) from dbos_async.workflows") == 1
    for table in ("steps", "events", "stream_entries"):
        assert await connection.fetchval(f"select count(*) from dbos_async.{table}") == 0


async def _more_than(connection: Any, count: str, least: int) -> bool:
    return bool(await connection.fetchval(count) > least)


async def test_w6_a_parent_hears_that_its_child_was_cancelled(dbos: DBOS) -> None:
    with SetWorkflowID("parent"):
        parent = await DBOS.start_workflow(stand_at, "child")
    await eventually(lambda: _exists("child"))
    await DBOS.cancel_workflow("child")
    with pytest.raises(WorkflowCancelledError, match="'child' was cancelled"):
        await parent.get_result()


async def test_w6_the_children_of_a_cancelled_parent_go_on(dbos: DBOS) -> None:
    with SetWorkflowID("parent"):
        await DBOS.start_workflow(stand_at, "child")
    await eventually(lambda: _exists("child"))
    await DBOS.cancel_workflow("parent")
    await DBOS.send("child", None, "never")
    assert await (await DBOS.retrieve_workflow("child")).get_result() is None


async def _has_steps(workflow_id: str, count: int) -> bool:
    return len(await DBOS.list_workflow_steps(workflow_id)) >= count


async def _exists(workflow_id: str) -> bool:
    return bool(await DBOS.list_workflows(id_prefix=workflow_id))
