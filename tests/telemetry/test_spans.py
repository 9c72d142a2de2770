"""Spans: one for each act, with its parent and its links, and none for a replay."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import StatusCode

from dbos_async import (
    DBOS,
    Question,
    SendMessage,
    SetWorkflowID,
    StepTimeoutError,
    StreamTimeoutError,
    Topic,
)
from dbos_async._telemetry import recorder
from tests.support.eventually import eventually
from tests.support.telemetry import Exported, attributes, id_of, links_of, parent_of, trace_of

pytestmark = pytest.mark.newest_only  # telemetry does not depend on the version of Postgres

QUOTE = Question("quote", str, int)


@DBOS.step(name="told charge")
async def charge(cents: int) -> int:
    trace.get_current_span().set_attribute("cents", cents)
    return cents


@DBOS.step(name="told fails", retries_allowed=True, max_attempts=3, interval_seconds=0.01)
async def fails() -> None:
    raise ConnectionError("the bank is closed")


@DBOS.workflow(name="told takes_one of test_spans")
async def takes_one() -> Any:
    return await DBOS.recv("paid")


async def test_a_run_is_a_part_of_the_trace_that_started_it(told: Exported) -> None:
    @DBOS.workflow(name="told checkout")
    async def checkout() -> int:
        trace.get_current_span().set_attribute("order", 17)
        return await charge(1250)

    with told.tracers.get_tracer("web").start_as_current_span("POST /orders") as request, SetWorkflowID("order-17"):
        assert await checkout() == 1250
    run, step = told.one("workflow told checkout"), told.one("step told charge")
    assert parent_of(run) == request.get_span_context().span_id
    assert attributes(run) == {
        "dbos_async.workflow.id": "order-17", "dbos_async.workflow.name": "told checkout", "dbos_async.workflow.attempt": 1,
        "dbos_async.workflow.version": "7", "dbos_async.workflow.outcome": "SUCCESS", "order": 17,
    }  # fmt: skip
    assert run.status.status_code is StatusCode.UNSET
    assert parent_of(step) == id_of(run)
    assert attributes(step) == {
        "dbos_async.workflow.id": "order-17", "dbos_async.step.name": "told charge", "dbos_async.step.path": "1",
        "dbos_async.step.attempts": 1, "cents": 1250,
    }  # fmt: skip
    assert step.name == "step told charge"


async def test_a_failed_step_and_its_run_have_status_and_exception(told: Exported) -> None:
    @DBOS.workflow(name="told fails")
    async def fails_too() -> None:
        await fails()

    with pytest.raises(ConnectionError):
        await fails_too()
    step, run = told.one("step told fails"), told.one("workflow told fails")
    assert attributes(step)["dbos_async.step.attempts"] == 3
    assert attributes(run)["dbos_async.workflow.outcome"] == "ERROR"
    for span in (step, run):
        assert span.status.status_code is StatusCode.ERROR
        assert attributes(span)["error.type"] == "ConnectionError"
        (event,) = span.events
        assert dict(event.attributes or {})["exception.message"] == "the bank is closed"


async def test_a_step_that_takes_too_long_has_failed(told: Exported) -> None:
    @DBOS.step(timeout_seconds=0.01)
    async def dawdles() -> None:
        await asyncio.sleep(60)

    @DBOS.workflow()
    async def is_impatient() -> None:
        await dawdles()

    with pytest.raises(StepTimeoutError):
        await is_impatient()
    assert attributes(told.one(f"step {dawdles.name}"))["error.type"] == "StepTimeoutError"


async def test_no_span_stays_open_while_a_run_waits(told: Exported) -> None:
    @DBOS.workflow(name="told patient")
    async def patient() -> str:
        await charge(1)
        trace.get_current_span().set_attribute("before", True)
        paid = await DBOS.recv("paid", timeout_seconds=None)
        trace.get_current_span().set_attribute("after", True)
        await charge(2)
        raise ValueError(paid)

    handle = await DBOS.start_workflow(patient)
    await eventually(lambda: told.names() == ["step told charge", "workflow told patient"])
    (first,) = told.spans("workflow told patient")
    assert attributes(first)["dbos_async.workflow.outcome"] == "WAITING"
    assert attributes(first)["before"] is True
    await DBOS.send(handle.workflow_id, "too much", "paid")
    with pytest.raises(ValueError, match="too much"):
        await handle.get_result()
    _, last = told.spans("workflow told patient")
    assert parent_of(last) == id_of(first)
    assert attributes(last)["dbos_async.workflow.outcome"] == "ERROR"
    assert last.status.status_code is StatusCode.ERROR
    assert [parent_of(step) for step in told.spans("step told charge")] == [id_of(first)] * 2
    receive = told.one("receive paid")
    assert (first.end_time or 0) <= (last.start_time or 0)
    for span in (last, receive):
        assert (span.end_time or 0) - (span.start_time or 0) < 5e9
    assert "after" not in attributes(first) | attributes(last)


async def test_replayed_acts_make_no_spans(told: Exported) -> None:
    @DBOS.workflow(name="told all")
    async def everything(other: str) -> list[Any]:
        seen: list[Any] = [await charge(1)]
        await DBOS.send(other, 1, "paid")
        await DBOS.set_event("state", "sent")
        await DBOS.write_stream("log", "sent")
        await DBOS.send_bulk([SendMessage(other, 2, "paid"), SendMessage(other, 3, "paid")])
        seen.append(await DBOS.recv("mine"))
        seen.append(await DBOS.ask("desk", QUOTE, "a widget"))
        seen += [value async for value in DBOS.read_stream("desk", "greeting")]
        first = await DBOS.wait_first(Topic("mine", int))
        seen.append(first.payload)
        seen.append(await DBOS.recv("go", timeout_seconds=None))
        await charge(2)
        return seen

    @DBOS.workflow(name="told desk")
    async def desk() -> None:
        await DBOS.write_stream_many("greeting", ["good", "day"])
        await DBOS.close_stream("greeting")
        asked = await DBOS.recv_envelope(QUOTE)
        assert asked is not None
        await asked.answer(100 * len(asked.payload))

    other = await DBOS.start_workflow(takes_one)
    with SetWorkflowID("desk"):
        await DBOS.start_workflow(desk)
    with (
        told.tracers.get_tracer("web").start_as_current_span("request") as request,
        SetWorkflowID("all"),
    ):
        handle = await DBOS.start_workflow(everything, other.workflow_id)
    for _ in range(2):
        await DBOS.send("all", 4, "mine")
    await eventually(lambda: told.spans("wait_first"))
    await eventually(lambda: attributes(told.spans("workflow told all")[0])["dbos_async.workflow.outcome"] == "WAITING")
    names = told.names()
    for name in (
        "send paid",
        "send",
        "set_event",
        "write_stream",
        "receive mine",
        "ask quote",
        "answer quote",
        "read_stream",
    ):
        assert name in names or name == "send", (name, names)
    assert attributes(told.one("read_stream"))["dbos_async.stream.values"] == 2
    assert links_of(told.one("answer quote")) == [id_of(told.one("ask quote"))]
    assert links_of(told.one("receive quote")) == [id_of(told.one("ask quote"))]

    told.forget()
    await DBOS.cancel_workflow("all")
    await DBOS.resume_workflow("all")
    await DBOS.send("all", None, "go")
    assert await handle.get_result() == [1, 4, 800, "good", "day", 4, None]
    mine = [span for span in told.spans() if attributes(span).get("dbos_async.workflow.id") == "all"]
    runs = [span for span in mine if span.name == "workflow told all"]
    assert [span.name for span in mine if span not in runs and span.name != "send go"] == [
        "receive go",
        "step told charge",
    ]
    later = [span for span in runs if attributes(span)["dbos_async.workflow.attempt"] > 1]
    assert parent_of(later[0]) is None
    assert links_of(later[0]) == [request.get_span_context().span_id]
    assert trace_of(later[0]) != request.get_span_context().trace_id
    assert attributes(later[-1])["dbos_async.workflow.outcome"] == "SUCCESS"


async def test_a_block_that_reads_is_one_span(told: Exported) -> None:
    @DBOS.workflow()
    async def counts() -> None:
        for number in range(3):
            await DBOS.write_stream("numbers", number)
        await DBOS.recv("go", timeout_seconds=None)

    handle = await DBOS.start_workflow(counts)
    with told.tracers.get_tracer("web").start_as_current_span("request") as request, pytest.raises(StreamTimeoutError):
        async for _ in DBOS.read_stream(handle.workflow_id, "numbers", timeout_seconds=0.05):
            pass
    read = told.one("read_stream")
    assert attributes(read)["dbos_async.stream.values"] == 3
    assert attributes(read)["error.type"] == "StreamTimeoutError"
    assert parent_of(read) == request.get_span_context().span_id
    stream = DBOS.read_stream(handle.workflow_id, "numbers")
    assert await anext(stream) == 0
    await stream.aclose()
    assert told.spans("read_stream")[1].status.status_code is StatusCode.UNSET
    await DBOS.send(handle.workflow_id, None, "go")


async def test_steps_in_threads_and_verbs_in_steps_are_parts_of_their_step(told: Exported) -> None:
    found: list[int] = []

    @DBOS.step()
    def in_thread() -> None:
        found.append(trace.get_current_span().get_span_context().span_id)

    @DBOS.step()
    async def sends(to: str) -> None:
        await DBOS.send(to, 1, "paid")
        await DBOS.set_event("sent", True)

    @DBOS.workflow()
    async def both(to: str) -> None:
        await asyncio.gather(in_thread(), sends(to))

    other = await DBOS.start_workflow(takes_one)
    await both(other.workflow_id)
    assert found == [id_of(told.one(f"step {in_thread.name}"))]
    step = told.one(f"step {sends.name}")
    assert [parent_of(told.one(name)) for name in ("send paid", "set_event")] == [id_of(step)] * 2
    assert attributes(told.one("set_event"))["dbos_async.step.path"] == attributes(step)["dbos_async.step.path"]


async def test_a_cancelled_run_has_that_outcome(told: Exported) -> None:
    begun = asyncio.Event()

    @DBOS.workflow(name="told endless")
    async def endless() -> None:
        begun.set()
        await asyncio.sleep(3600)

    handle = await DBOS.start_workflow(endless)
    await begun.wait()
    await DBOS.cancel_workflow(handle.workflow_id)
    await eventually(lambda: told.spans("workflow told endless"))
    run = told.one("workflow told endless")
    assert attributes(run)["dbos_async.workflow.outcome"] == "CANCELLED"
    assert run.status.status_code is StatusCode.UNSET


async def test_children_are_parts_of_their_parents_run(told: Exported) -> None:
    @DBOS.workflow(name="told child")
    async def child() -> int:
        return await charge(1)

    @DBOS.workflow(name="told parent")
    async def parent() -> int:
        return await child()

    assert await parent() == 1
    first = told.spans("workflow told parent")[0]
    assert parent_of(told.one("workflow told child")) == id_of(first)
    assert {trace_of(span) for span in told.spans()} == {trace_of(first)}


async def test_a_stream_writer_in_a_step_is_one_span(told: Exported) -> None:
    @DBOS.step()
    async def speaks() -> None:
        async with DBOS.stream_writer("tokens") as out:
            for token in ("good", "day"):
                await out.write(token)

    @DBOS.workflow()
    async def agent() -> None:
        await speaks()

    await agent()
    assert parent_of(told.one("write_stream")) == id_of(told.one(f"step {speaks.name}"))
    assert attributes(told.one("write_stream"))["dbos_async.stream.key"] == "tokens"


class Faulty(SpanProcessor):
    """A processor of a user that raises whenever it may."""

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        raise RuntimeError("on_start")

    def on_end(self, span: Any) -> None:
        raise RuntimeError("on_end")


class FaultyAtTheEnd(Faulty):
    """The same, but for the start."""

    def on_start(self, span: Any, parent_context: Any = None) -> None: ...


@pytest.mark.parametrize("processor", [Faulty, FaultyAtTheEnd])
async def test_no_act_fails_by_being_told_of(
    exported: Exported, database_url: str, processor: type[SpanProcessor], caplog: pytest.LogCaptureFixture
) -> None:
    exported.tracers.add_span_processor(processor())

    @DBOS.workflow()
    async def everything() -> list[Any]:
        await DBOS.set_event("state", 1)
        await DBOS.write_stream("log", 1)
        await DBOS.close_stream("log")
        waited = await DBOS.recv("paid")
        first = await DBOS.wait_first("paid")
        asked = await DBOS.recv_envelope(QUOTE)
        assert asked is not None
        await asked.answer(7)
        read = [value async for value in DBOS.read_stream(str(DBOS.workflow_id), "log")]
        return [await charge(1), waited, first.payload, read]

    recorder._log_at = 0.0
    async with DBOS(database_url):
        handle = await DBOS.start_workflow(everything)
        for number in range(2):
            await DBOS.send(handle.workflow_id, number, "paid")
        assert await DBOS.ask(handle.workflow_id, QUOTE, "a widget") == 7
        assert await handle.get_result() == [1, 0, 1, [1]]
    assert [each.getMessage() for each in caplog.records].count(
        "OpenTelemetry failed, and is not told of everything."
    ) == 1
