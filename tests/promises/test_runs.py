"""Runs: promises W7 to W9, and what a run records besides its steps."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
from typing import Any

import anyio
import pytest

from dbos_async import (
    DBOS,
    InvalidArgumentError,
    SetWorkflowID,
    StepTimeoutError,
    WorkflowEndedError,
    WorkflowStep,
    WrongPlaceError,
)
from dbos_async._executor import launched
from tests.support.eventually import eventually
from tests.support.workflows import echo, wait_for_ever

pytestmark = pytest.mark.usefixtures("dbos")


async def test_w7_waiting_workflows_hold_no_thread_and_no_connection() -> None:
    threads, backends = threading.active_count(), len(launched.executor().database.postgres.backends)
    handles = await asyncio.gather(*(DBOS.start_workflow(wait_for_ever) for _ in range(300)))
    await eventually(lambda: launched.executor().free_slots == 1000, "all runs wait and none counts as running")
    assert threading.active_count() == threads
    assert len(launched.executor().database.postgres.backends) <= max(backends, 9)
    await asyncio.gather(*(DBOS.send(handle.workflow_id, None, "the end") for handle in handles))
    await asyncio.gather(*(handle.get_result() for handle in handles))


async def test_what_has_ended_is_freed_at_once_and_leaves_the_garbage_collector_nothing() -> None:
    def runs() -> int:
        return sum(type(known).__name__ == "Run" for known in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = runs()
        waiting = await DBOS.start_workflow(wait_for_ever)
        for _ in range(10):
            assert await echo(1) == 1
        await eventually(lambda: runs() == before + 1, "only the one that waits is left")
        await DBOS.send(waiting.workflow_id, "go", "the end")
        await waiting.get_result()
        del waiting
        await eventually(lambda: runs() == before)
    finally:
        gc.enable()


async def test_w8_a_task_that_outlived_its_workflow_raises_and_writes_nothing() -> None:
    outcomes: list[str] = []
    tasks: list[asyncio.Task[None]] = []
    go_on = asyncio.Event()

    async def outlive(verb: str) -> None:
        try:
            if verb == "recv":
                await DBOS.recv("t", None)
            else:
                await go_on.wait()
                await DBOS.write_stream("k", "too late")
        except WorkflowEndedError as error:
            outcomes.append(error.verb)

    @DBOS.workflow()
    async def workflow() -> None:
        tasks.extend(asyncio.create_task(outlive(verb)) for verb in ("recv", "write_stream"))
        await DBOS.sleep(0.01)

    handle = await DBOS.start_workflow(workflow)
    await handle.get_result()
    go_on.set()
    await asyncio.gather(*tasks)
    assert sorted(outcomes) == ["recv", "write_stream"]
    assert [value async for value in DBOS.read_stream(handle.workflow_id, "k")] == []


async def test_w8_a_thread_that_outlived_its_step_raises() -> None:
    outcomes: list[str] = []
    go_on, over = threading.Event(), threading.Event()

    @DBOS.step(timeout_seconds=0.05)
    def abandoned() -> None:
        go_on.wait(20)
        try:
            anyio.from_thread.run(DBOS.set_event, "k", "too late")
        except WorkflowEndedError as error:
            outcomes.append(error.verb)
        finally:
            over.set()

    @DBOS.workflow()
    async def workflow() -> str:
        try:
            await abandoned()
        except StepTimeoutError:
            go_on.set()
            await DBOS.recv("the end", None)
        return "done"

    handle = await DBOS.start_workflow(workflow)
    await eventually(over.is_set)
    await DBOS.send(handle.workflow_id, None, "the end")
    assert await handle.get_result() == "done"
    assert outcomes == ["set_event"]
    assert await DBOS.get_all_events(handle.workflow_id) == {}


async def test_w9_a_run_starts_in_a_fresh_context() -> None:
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="nothing")

    @DBOS.workflow()
    async def inner() -> str:
        return request.get()

    @DBOS.workflow()
    async def outer() -> list[str]:
        request.set("the outer run")
        return [request.get(), await inner()]

    request.set("a request")
    assert await outer() == ["the outer run", "nothing"]
    with SetWorkflowID("outer"):
        assert await outer() == ["the outer run", "nothing"]


async def test_w9_the_trace_parent_is_stored_and_restored(connection: Any) -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    tracer = TracerProvider().get_tracer("test")

    @DBOS.workflow()
    async def traced() -> int:
        return trace.get_current_span().get_span_context().trace_id % 2**31

    with tracer.start_as_current_span("request") as span:
        assert await traced() == span.get_span_context().trace_id % 2**31
    parent = await connection.fetchval("select trace_parent from dbos_async.workflows")
    assert f"{span.get_span_context().trace_id:032x}" in parent


async def test_sleep_is_durable_and_for_workflows_only() -> None:
    @DBOS.workflow()
    async def nap(seconds: float) -> float:
        began = time.monotonic()
        await DBOS.sleep(seconds)
        return time.monotonic() - began

    with SetWorkflowID("nap"):
        handle = await DBOS.start_workflow(nap, 0.2)
    await eventually(lambda: _steps("nap"))
    (step,) = await _steps("nap")
    assert step.completed_at is None
    assert 0.2 <= await handle.get_result() < 5
    (step,) = await _steps("nap")
    assert step.completed_at is not None
    assert 0.19 <= (step.completed_at - step.started_at).total_seconds() < 0.3
    assert await nap(0) < 5
    with pytest.raises(WrongPlaceError):
        await DBOS.sleep(1)
    with pytest.raises(InvalidArgumentError):
        await nap(-1)


async def _steps(workflow_id: str) -> list[WorkflowStep]:
    return await DBOS.list_workflow_steps(workflow_id)


async def test_reads_in_a_workflow_are_recorded() -> None:
    with SetWorkflowID("other"):
        other = await DBOS.start_workflow(wait_for_ever)

    @DBOS.workflow()
    async def look() -> list[str]:
        statuses = await DBOS.list_workflows(id_prefix="other")
        return [statuses[0].status, (await (await DBOS.retrieve_workflow("other")).get_status()).status]

    with SetWorkflowID("look"):
        assert await look() == ["PENDING", "PENDING"]
    verbs = [step.verb for step in await DBOS.list_workflow_steps("look")]
    assert verbs == ["list_workflows", "get_status", "get_status"]
    await DBOS.send(other.workflow_id, None, "the end")
