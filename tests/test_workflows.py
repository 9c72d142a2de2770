"""Workflows and steps: promises W1, W2, W4, W7 to W9, and D1, D5, D6 as far as they are about them."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from dbos_async import (
    DBOS,
    DBOSClient,
    DBOSError,
    InvalidArgumentError,
    InvalidValueError,
    LaunchError,
    RecordedError,
    RegistrationError,
    SetWorkflowID,
    StepTimeoutError,
    WorkflowConflictError,
    WorkflowEndedError,
    WorkflowNotFoundError,
    WorkflowStep,
    WrongPlaceError,
)
from dbos_async._executor import launched
from tests.eventually import eventually


class Order(BaseModel):
    id: str
    total: Decimal
    due: datetime


@dataclass
class Receipt:
    order: Order
    paid: bool


class CardDeclinedError(Exception):
    def __init__(self, code: int, *, retry: bool = False) -> None:
        super().__init__(code)
        self.code, self.retry = code, retry


@DBOS.workflow()
async def echo(value: Any) -> Any:
    return value


@DBOS.workflow()
async def wait_for_ever() -> None:
    await DBOS.recv("the end", None)


pytestmark = pytest.mark.usefixtures("dbos")


async def test_w1_the_same_id_starts_one_workflow_and_its_first_arguments_count(database_url: str) -> None:
    handles = []
    for value in ("first", "second"):
        with SetWorkflowID("order-17"):
            handles.append(await DBOS.start_workflow(echo, value))
    async with DBOSClient(database_url) as client:
        with SetWorkflowID("order-17"):
            handles.append(await client.start_workflow("echo", "third"))
        assert [await handle.get_result() for handle in handles] == ["first"] * 3


async def test_w1_starts_of_one_id_at_the_same_time_are_one_workflow() -> None:
    async def start(n: int) -> Any:
        with SetWorkflowID("crowd"):
            return await (await DBOS.start_workflow(echo, n)).get_result()

    assert len(set(await asyncio.gather(*(start(n) for n in range(50))))) == 1


async def test_w1_the_same_id_for_another_function_raises() -> None:
    with SetWorkflowID("order-17"):
        await DBOS.start_workflow(echo, 1)
    with SetWorkflowID("order-17"), pytest.raises(WorkflowConflictError, match="was started as 'echo'"):
        await DBOS.start_workflow(wait_for_ever)


async def test_w1_an_id_is_a_one_use_ticket() -> None:
    with SetWorkflowID("order-17"):
        await DBOS.start_workflow(echo, 1)
        with pytest.raises(WrongPlaceError, match="already given its id"):
            await DBOS.start_workflow(echo, 2)


async def test_a_workflow_called_directly_runs_durably_and_as_a_child_inside_another() -> None:
    @DBOS.workflow()
    async def parent() -> list[Any]:
        direct = await echo(1)
        handle = await DBOS.start_workflow(echo, 2)
        return [direct, await handle.get_result()]

    with SetWorkflowID("parent"):
        assert await parent() == [1, 2]
    children = await DBOS.list_workflows(parent_id="parent")
    assert [(child.name, child.output) for child in children] == [("echo", 1), ("echo", 2)]


async def test_d1_arguments_and_results_travel_by_their_annotations() -> None:
    seen: list[Any] = []

    @DBOS.step()
    async def pay(order: Order) -> Receipt:
        return Receipt(order, True)

    @DBOS.workflow()
    async def buy(order: Order, *more: datetime, note: bytes = b"") -> Receipt:
        seen.extend([order, more, note])
        return await pay(order)

    now = datetime(2026, 11, 23, tzinfo=UTC)
    order = Order(id="o", total=Decimal("19.90"), due=now)
    handle = await DBOS.start_workflow(buy, order, now, note=b"\xff")
    assert await handle.get_result() == Receipt(order, True)
    assert seen == [order, (now,), b"\xff"]
    assert seen[0] is not order
    again = await DBOS.retrieve_workflow(handle.workflow_id)
    assert await again.get_result() == Receipt(order, True)


async def test_d1_what_a_step_returns_first_is_what_a_replay_would_return() -> None:
    @DBOS.step()
    async def pair() -> Any:
        return (1, {"k": (2,)})

    @DBOS.workflow()
    async def workflow() -> list[str]:
        return [repr(await pair())]

    assert await workflow() == ["[1, {'k': [2]}]"]


async def test_binding_errors_raise_before_anything_is_stored() -> None:
    with pytest.raises(TypeError, match="missing a required argument"):
        await DBOS.start_workflow(echo)  # type: ignore[call-overload]  # the mistake under test
    assert await DBOS.list_workflows() == []


async def test_exceptions_of_steps_and_workflows_keep_their_type_and_arguments() -> None:
    @DBOS.step()
    async def charge() -> None:
        raise CardDeclinedError(51, retry=True)

    @DBOS.workflow()
    async def buy() -> str:
        try:
            await charge()
        except CardDeclinedError as error:
            assert (error.code, error.retry, error.args) == (51, True, (51,))
            raise
        return "unreachable"

    handle = await DBOS.start_workflow(buy)
    with pytest.raises(CardDeclinedError) as raised:
        await handle.get_result()
    assert (raised.value.code, raised.value.retry) == (51, True)
    assert (await handle.get_status()).status == "ERROR"


async def test_an_exception_of_a_type_that_is_not_imported_here_names_it() -> None:
    class LocalError(Exception):
        pass

    @DBOS.workflow()
    async def fail() -> None:
        raise LocalError("boom")

    with pytest.raises(RecordedError, match=r"LocalError: boom"):
        await fail()


async def test_d2_a_result_that_cannot_be_stored_is_the_error_of_the_step_which_is_not_run_again() -> None:
    ran: list[int] = []

    @DBOS.step()
    async def bad() -> Any:
        ran.append(1)
        return object()

    @DBOS.workflow()
    async def workflow() -> str:
        try:
            await bad()
        except InvalidValueError as error:
            return str(error)
        return ""

    assert "The result of step" in await workflow()
    assert ran == [1]


async def test_steps_retry_time_out_and_run_functions_in_threads() -> None:
    tried: list[float] = []

    @DBOS.step(retries_allowed=True, max_attempts=3, interval_seconds=0.01)
    async def flaky() -> int:
        tried.append(time.monotonic())
        if len(tried) < 3:
            raise OSError("not yet")
        return len(tried)

    @DBOS.step(retries_allowed=True, max_attempts=2, interval_seconds=0)
    async def hopeless() -> None:
        raise OSError("never")

    @DBOS.step(timeout_seconds=0.02)
    async def slow() -> None:
        await asyncio.sleep(30)

    @DBOS.step()
    def blocking(x: int) -> tuple[int, bool]:
        return x, threading.current_thread() is threading.main_thread()

    @DBOS.workflow()
    async def workflow() -> list[Any]:
        outcomes: list[Any] = [await flaky()]
        for step in (hopeless, slow):
            try:
                await step()
            except (OSError, StepTimeoutError) as error:
                outcomes.append(type(error).__name__)
        outcomes.append(await blocking(7))
        return outcomes

    assert await workflow() == [3, "OSError", "StepTimeoutError", [7, False]]
    assert await blocking(8) == (8, False), "outside of workflows a step is a plain call"


async def test_a_step_in_a_step_is_a_plain_call() -> None:
    @DBOS.step()
    async def inner() -> str | None:
        return DBOS.step_id

    @DBOS.step()
    async def outer() -> list[str | None]:
        return [DBOS.workflow_id, DBOS.step_id, await inner()]

    @DBOS.workflow()
    async def workflow() -> list[str | None]:
        return await outer()

    with SetWorkflowID("w"):
        assert await workflow() == ["w", "1", "1"]
    assert len(await DBOS.list_workflow_steps("w")) == 1
    assert DBOS.workflow_id is None
    assert DBOS.step_id is None


async def test_w4_steps_are_numbered_by_path_in_tasks() -> None:
    @DBOS.step()
    async def where(name: str) -> str | None:
        return DBOS.step_id

    @DBOS.workflow()
    async def workflow() -> list[Any]:
        async def branch(name: str) -> list[Any]:
            return [await where(name), await where(name)]

        found: list[Any] = [await where("first")]
        found += await asyncio.gather(branch("a"), branch("b"))
        async with asyncio.TaskGroup() as group:
            third = group.create_task(branch("c"))
        found += [third.result(), await where("last")]
        return found

    assert await workflow() == ["1", ["1.1.1", "1.1.2"], ["1.2.1", "1.2.2"], ["1.3.1", "1.3.2"], "2"]


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


async def test_handles_statuses_and_lists() -> None:
    for name in ("a-1", "a-2", "b-1"):
        with SetWorkflowID(name):
            await (await DBOS.start_workflow(echo, name)).get_result()
    assert [w.workflow_id for w in await DBOS.list_workflows(id_prefix="a-")] == ["a-1", "a-2"]
    assert [w.workflow_id for w in await DBOS.list_workflows(limit=2)] == ["a-1", "a-2"]
    assert [w.workflow_id for w in await DBOS.list_workflows(after="a-2")] == ["b-1"]
    assert await DBOS.list_workflows(status="ERROR") == []
    assert len(await DBOS.list_workflows(name="echo", until=datetime.now(UTC))) == 3
    handle = await DBOS.retrieve_workflow("a-1")
    status = await handle.get_status()
    assert (status.status, status.output, status.name) == ("SUCCESS", "a-1", "echo")
    with pytest.raises(WorkflowNotFoundError, match="'nobody'"):
        await DBOS.retrieve_workflow("nobody")
    with pytest.raises(InvalidArgumentError, match="status must be one of"):
        await DBOS.list_workflows(status="DONE")
    with pytest.raises(InvalidArgumentError, match="time zone"):
        await DBOS.list_workflows(since=datetime(2026, 1, 1))  # noqa: DTZ001 - the mistake under test


async def test_the_result_of_an_unknown_workflow_raises_inside_and_outside() -> None:
    @DBOS.workflow()
    async def ask() -> str:
        try:
            await DBOS.retrieve_workflow("nobody")
        except WorkflowNotFoundError as error:
            return error.workflow_id
        return ""

    assert await ask() == "nobody"


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


async def test_a_cancelled_caller_does_not_stop_the_workflow_it_started() -> None:
    for _ in range(20):
        starting = asyncio.ensure_future(DBOS.start_workflow(echo, "still runs"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
    await eventually(_nothing_pending)


async def _nothing_pending() -> bool:
    return await DBOS.list_workflows(status="PENDING") == []


async def test_a_client_starts_by_name_or_function_what_an_executor_knows(database_url: str) -> None:
    async with DBOSClient(database_url) as client:
        by_name = await client.start_workflow("echo", {"k": 1})
        by_function = await client.start_workflow(echo, value=2)
        assert [await by_name.get_result(), await by_function.get_result()] == [{"k": 1}, 2]
        with pytest.raises(RegistrationError):
            await client.start_workflow(print)  # type: ignore[call-overload]  # the mistake under test
    with pytest.raises(LaunchError, match="not open"):
        await client.send("x", 1)


async def test_registration_mistakes_raise_one_sentence() -> None:
    with pytest.raises(RegistrationError, match="async"):

        @DBOS.workflow()  # type: ignore[arg-type]  # the mistake under test
        def not_async() -> None: ...

    with pytest.raises(RegistrationError, match="which has no JSON"):

        @DBOS.workflow()
        async def odd(x: threading.Lock) -> None: ...

    with pytest.raises(RegistrationError, match="Two workflows are named 'echo'"):

        @DBOS.workflow(name="echo")
        async def another() -> None: ...

    with pytest.raises(InvalidArgumentError, match="parentheses"):
        DBOS.workflow(echo)  # type: ignore[arg-type]  # the mistake under test


async def test_d6_a_verb_from_another_event_loop_raises() -> None:
    def elsewhere() -> str:
        try:
            asyncio.run(DBOS.send("x", 1))
        except WrongPlaceError as error:
            return str(error)
        return ""

    assert "another event loop" in await asyncio.to_thread(elsewhere)


async def test_launching_twice_raises(database_url: str) -> None:
    with pytest.raises(LaunchError, match="launched already"):
        async with DBOS(database_url):
            pass


async def test_d5_every_error_derives_from_dbos_error_and_survives_a_copy() -> None:
    import copy
    import inspect

    from dbos_async import errors

    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if kind.__module__ != errors.__name__:
            continue
        assert issubclass(kind, DBOSError), name
        parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
        values = {"float": 1.5, "bool": True, "int": 2}
        args = [
            values.get(str(p.annotation), "x")
            for p in parameters
            if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty
        ]
        error = kind(*args)
        again = copy.copy(error)
        assert type(again) is kind
        assert str(again) == str(error)
        assert os.linesep not in str(error)
