"""Waiting for results: time limits, and workflows that are parked (W4, W8, D4, D5, M6)."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from dbos_async import (
    DBOS,
    DBOSClient,
    DBOSError,
    InvalidArgumentError,
    ResultTimeoutError,
    SetWorkflowID,
    StepTimeoutError,
    WorkflowParkedError,
)
from tests.support.eventually import eventually

CODE = {"is": "old"}
CALLED: list[str] = []


@pytest.fixture(autouse=True)
def _clean() -> None:
    CODE["is"] = "old"
    CALLED.clear()


@DBOS.workflow(name="changes its code")
async def changes() -> str:
    if CODE["is"] == "old":
        await DBOS.set_event("k", 1)
    else:
        await DBOS.write_stream("k", 1)
    await DBOS.recv("go", None)
    return "done"


@DBOS.workflow(name="waits for it")
async def waits_for(workflow_id: str, timeout_seconds: float | None = None, wait_if_parked: bool = False) -> Any:
    handle = await DBOS.retrieve_workflow(workflow_id)
    try:
        return await handle.get_result(timeout_seconds=timeout_seconds, wait_if_parked=wait_if_parked)
    except DBOSError as error:
        CALLED.append(repr(error))
        await DBOS.recv("on", None)
        return repr(error)


@DBOS.workflow(name="calls it")
async def calls_child() -> str:
    with SetWorkflowID("w"):
        return await changes()


async def waiting(url: str, workflow: Any = changes, workflow_id: str = "w") -> None:
    """Start it, and let its program end while it waits."""
    async with DBOS(url, executor_id="program"):
        with SetWorkflowID(workflow_id):
            await DBOS.start_workflow(workflow)
        await eventually(lambda: _stands_at("w", "recv"))
    CODE["is"] = "new"


async def _stands_at(workflow_id: str, verb: str) -> bool:
    return any(step.verb == verb for step in await DBOS.list_workflow_steps(workflow_id))


async def test_w8_who_waits_for_a_parked_workflow_hears_it_at_once(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await waiting(database_url)
    async with DBOSClient(database_url) as client:
        handle = await client.retrieve_workflow("w")
        early = asyncio.create_task(handle.get_result())
        patient = asyncio.create_task(handle.get_result(wait_if_parked=True))
        await asyncio.sleep(0)
        with caplog.at_level(logging.WARNING, "dbos_async"):
            async with DBOS(database_url, executor_id="program"), asyncio.timeout(5):
                for wait in (early, handle.get_result(), handle.get_result(timeout_seconds=60)):
                    with pytest.raises(WorkflowParkedError, match=r"'w' is parked \(REPLAY_MISMATCH\)"):
                        await wait
                named = "Workflow 'w' is parked (REPLAY_MISMATCH), and its result is awaited"
                await eventually(lambda: caplog.text.count(named) == 1)
        assert not patient.done()
        CODE["is"] = "old"
        async with DBOS(database_url, executor_id="program"):
            await DBOS.resume_workflow("w")
            await DBOS.send("w", None, "go")
            assert await patient == "done"
        assert caplog.text.count(named) == 1


async def test_w8_a_handle_of_the_same_process_hears_it_too(database_url: str) -> None:
    await waiting(database_url)
    async with DBOS(database_url, executor_id="program"), asyncio.timeout(5):
        with SetWorkflowID("w"), pytest.raises(WorkflowParkedError):
            await changes()
        with SetWorkflowID("w"), pytest.raises(WorkflowParkedError):
            await (await DBOS.start_workflow(changes)).get_result()


async def test_w4_a_workflow_records_that_the_awaited_one_is_parked(database_url: str) -> None:
    await waiting(database_url)
    for _ in range(2):  # the second time it is replayed, and the other one is not parked any more
        async with DBOS(database_url, executor_id="program"):
            with SetWorkflowID("parent"):
                await DBOS.start_workflow(waits_for, "w")
            await eventually(lambda: _stands_at("parent", "recv"))
            CODE["is"] = "old"
            await eventually(lambda: CALLED)
            await DBOS.resume_workflow("w")
    async with DBOS(database_url, executor_id="program"):
        await DBOS.send("parent", None, "on")
        result = await (await DBOS.retrieve_workflow("parent")).get_result()
    assert result == "WorkflowParkedError('w', 'REPLAY_MISMATCH')"
    assert set(CALLED) == {result}


@pytest.mark.parametrize("parent", ["waits for it", "calls it"])
async def test_w8_a_workflow_may_wait_for_a_parked_one(
    parent: str, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    if parent == "calls it":
        await waiting(database_url, calls_child, "parent")
    else:
        await waiting(database_url)
    async with DBOS(database_url, executor_id="program"):
        if parent != "calls it":
            with SetWorkflowID("parent"):
                await DBOS.start_workflow(waits_for, "w", None, True)
        await eventually(lambda: "Workflow 'w' is parked (REPLAY_MISMATCH), and its result is awaited" in caplog.text)
        assert (await (await DBOS.retrieve_workflow("parent")).get_status()).status == "PENDING"
    CODE["is"] = "old"
    async with DBOS(database_url, executor_id="program"):
        await DBOS.resume_workflow("w")
        await DBOS.send("w", None, "go")
        assert await (await DBOS.retrieve_workflow("parent")).get_result() == "done"


async def test_d5_get_result_has_a_time_limit_by_the_clock_of_the_caller(database_url: str, dbos: DBOS) -> None:
    with SetWorkflowID("w"):
        local = await DBOS.start_workflow(changes)
    async with DBOSClient(database_url) as client:
        loop = asyncio.get_running_loop()
        for handle in (local, await DBOS.retrieve_workflow("w"), await client.retrieve_workflow("w")):
            for seconds in (0, 0.2):
                began = loop.time()
                with pytest.raises(ResultTimeoutError, match=f"'w' did not end within {seconds} seconds") as raised:
                    await handle.get_result(timeout_seconds=seconds)
                assert seconds <= loop.time() - began < seconds + 2
                assert isinstance(raised.value, TimeoutError)
            with pytest.raises(TimeoutError) as its_own:
                async with asyncio.timeout(0.05):
                    await handle.get_result(timeout_seconds=60)
            assert not isinstance(its_own.value, ResultTimeoutError)
        await DBOS.send("w", None, "go")
        for handle in (local, await client.retrieve_workflow("w")):
            assert await handle.get_result(timeout_seconds=10) == "done"
            assert await handle.get_result(timeout_seconds=0) == "done", "a result that is there comes without a wait"


@pytest.mark.parametrize("arguments", [{"timeout_seconds": -1}, {"timeout_seconds": "1"}, {"wait_if_parked": 1}])
async def test_d5_arguments_of_get_result_are_checked(arguments: Any, dbos: DBOS) -> None:
    handle = await DBOS.start_workflow(changes)
    with pytest.raises(InvalidArgumentError):
        await handle.get_result(**arguments)


async def test_m6_in_a_workflow_the_time_limit_is_recorded_and_outlasts_restarts(
    database_url: str, connection: Any
) -> None:
    async with DBOS(database_url, executor_id="program"):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(changes)
        for workflow_id, seconds in (("short", 0.3), ("long", 3600.0)):
            with SetWorkflowID(workflow_id):
                await DBOS.start_workflow(waits_for, "w", seconds)
            await eventually(lambda workflow_id=workflow_id: _stands_at(workflow_id, "get_result"))  # type: ignore[misc]  # mypy takes no defaults in lambdas
    deadlines = "select workflow_id, deadline from dbos_async.steps where verb = 'get_result' order by 1"
    before = await connection.fetch(deadlines)
    assert all(row["deadline"] is not None for row in before)
    async with DBOS(database_url, executor_id="program"):
        await eventually(lambda: CALLED)
        assert await connection.fetch(deadlines) == before
        await DBOS.send("w", None, "go")
        assert await (await DBOS.retrieve_workflow("long")).get_result() == "done"
        await eventually(lambda: _stands_at("short", "recv"))
    async with DBOS(
        database_url, executor_id="program"
    ):  # a recorded timeout replays as a timeout, though there is a result now
        await DBOS.send("short", None, "on")
        result = await (await DBOS.retrieve_workflow("short")).get_result()
    assert result == "ResultTimeoutError('w', 0.3)"
    assert set(CALLED) == {result}


@pytest.mark.parametrize(("first", "then"), [(3600.0, None), (None, 3600.0)])
async def test_m6_code_that_has_another_time_limit_now_goes_on_with_the_wait(
    first: float | None, then: float | None, database_url: str
) -> None:
    limit = [first]

    @DBOS.workflow(name="limited")
    async def limited() -> Any:
        return await (await DBOS.retrieve_workflow("w")).get_result(timeout_seconds=limit[0])

    async with DBOS(database_url, executor_id="program"):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(changes)
        with SetWorkflowID("parent"):
            await DBOS.start_workflow(limited)
        await eventually(lambda: _stands_at("parent", "get_status"))
        if first is not None:
            await eventually(lambda: _stands_at("parent", "get_result"))
    limit[0] = then
    async with DBOS(database_url, executor_id="program"):
        await eventually(lambda: _stands_at("w", "recv"))
        await DBOS.send("w", None, "go")
        assert await (await DBOS.retrieve_workflow("parent")).get_result() == "done"


@DBOS.step(timeout_seconds=0.1)
async def answers_late() -> str:
    CALLED.append("late")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return "late"
    return "never"


@DBOS.step(timeout_seconds=0.1)
async def fails_late() -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        raise ValueError("the cleaning failed") from None


@DBOS.step(timeout_seconds=0.1, retries_allowed=True, max_attempts=2, interval_seconds=0)
async def answers_late_once() -> str:
    return await answers_late() if "late" not in CALLED else "in time"


@DBOS.step(timeout_seconds=60)
async def has_a_limit_of_its_own() -> str:
    try:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()
    except TimeoutError:
        return "its own"
    return "never"


@DBOS.workflow(name="late steps")
async def late_steps() -> list[str]:
    found = []
    for step in (answers_late_once, answers_late, fails_late, has_a_limit_of_its_own):
        try:
            found.append(str(await step()))
        except StepTimeoutError as error:
            found.append(f"{error.args} {error.__cause__!r}")
    await DBOS.sleep(0)
    return found


async def test_d5_a_step_that_swallows_its_cancellation_has_timed_out_all_the_same(dbos: DBOS) -> None:
    assert await late_steps() == [
        "in time",
        "('answers_late', 0.1) None",
        "('fails_late', 0.1) ValueError('the cleaning failed')",
        "its own",
    ]
