"""Spans of messages and questions: the trace of a send travels in the headers, and the receive is linked to it."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.trace import SpanKind, StatusCode

from dbos_async import (
    DBOS,
    DBOSClient,
    Envelope,
    InvalidMessageError,
    Question,
    RefusedError,
    SendMessage,
    SetWorkflowID,
    Topic,
    WorkflowNotFoundError,
)
from tests.support.eventually import eventually
from tests.support.telemetry import Exported, attributes, id_of, links_of, parent_of, trace_of

pytestmark = pytest.mark.newest_only  # telemetry does not depend on the version of Postgres

QUOTE = Question("quote", str, int)


@DBOS.workflow(name="told takes_a_message of test_message_spans")
async def takes_a_message() -> Any:
    return await DBOS.recv("paid")


async def test_a_message_carries_the_trace_of_its_send(told: Exported) -> None:
    @DBOS.workflow(name="told receiver")
    async def receiver() -> Envelope[Any] | None:
        return await DBOS.recv_envelope("paid")

    @DBOS.workflow(name="told sender")
    async def sender(to: str) -> None:
        await DBOS.send(to, "money", "paid", headers={"language": "en"})

    with SetWorkflowID("receiver"):
        handle = await DBOS.start_workflow(receiver)
    await eventually(lambda: told.spans("workflow told receiver"))
    with SetWorkflowID("sender"):
        await sender("receiver")
    envelope = await handle.get_result()
    assert envelope is not None
    send, receive, run = told.one("send paid"), told.one("receive paid"), told.one("workflow told sender")
    assert (send.kind, receive.kind) == (SpanKind.PRODUCER, SpanKind.CLIENT)
    assert parent_of(send) == id_of(run)
    assert links_of(receive) == [id_of(send)]
    assert trace_of(receive) != trace_of(send)
    assert envelope.headers["language"] == "en"
    assert f"{id_of(send):016x}" in envelope.headers["traceparent"]
    common = {
        "messaging.system": "dbos_async",
        "messaging.destination.name": "paid",
        "messaging.message.id": str(envelope.id),
    }
    assert attributes(send) == common | {
        "messaging.operation.name": "send", "messaging.operation.type": "send", "dbos_async.workflow.id": "sender",
        "dbos_async.step.path": "1", "dbos_async.destination.workflow.id": "receiver",
    }  # fmt: skip
    assert attributes(receive) == common | {
        "messaging.operation.name": "recv_envelope", "messaging.operation.type": "receive",
        "dbos_async.workflow.id": "receiver", "dbos_async.step.path": "1",
    }  # fmt: skip


@pytest.mark.parametrize("way", ["handed over", "waiting", "from outside", "in bulk", "delayed", "with a key"])
async def test_every_way_of_a_message_keeps_its_trace(told: Exported, way: str) -> None:
    @DBOS.workflow()
    async def sender(to: str) -> None:
        await send(to)

    async def send(to: str) -> None:
        if way == "in bulk":
            await DBOS.send_bulk([SendMessage(to, 1, "paid"), SendMessage(to, 2, "other")])
        elif way == "delayed":
            await DBOS.send(to, 1, "paid", delay_seconds=0.01)
        else:
            await DBOS.send(to, 1, "paid", idempotency_key="once" if way == "with a key" else None)

    if way == "waiting":
        with SetWorkflowID("taker"):
            handle = await DBOS.start_workflow(takes_later)
        await sender("taker")
        await DBOS.send("taker", None, "go")
    else:
        handle = await DBOS.start_workflow(takes_a_message)
        await eventually(told.names)
        await (send if way == "from outside" else sender)(handle.workflow_id)
    assert await handle.get_result() == 1
    name = "send" if way == "in bulk" else "send paid"
    assert links_of(told.one("receive paid")) == [id_of(told.one(name))]
    if way == "in bulk":
        assert attributes(told.one("send"))["messaging.batch.message_count"] == 2


@DBOS.workflow(name="told takes_later of test_message_spans")
async def takes_later() -> Any:
    await DBOS.recv("go")
    return await DBOS.recv("paid")


async def test_the_trace_that_a_user_names_in_a_header_stays(told: Exported) -> None:
    @DBOS.workflow()
    async def receiver() -> dict[str, str]:
        envelope = await DBOS.recv_envelope("paid")
        return {} if envelope is None else envelope.headers

    own = {"Traceparent": f"00-{17:032x}-{4:016x}-01"}
    handle = await DBOS.start_workflow(receiver)
    await DBOS.send(handle.workflow_id, None, "paid", headers=own)
    assert await handle.get_result() == own
    assert links_of(told.one("receive paid")) == [4]


@pytest.mark.parametrize("header", ["", "00-nonsense", "x" * 5000, "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
async def test_a_trace_that_is_none_is_no_link(told: Exported, header: str) -> None:
    handle = await DBOS.start_workflow(takes_a_message)
    await DBOS.send(handle.workflow_id, 1, "paid", headers={"traceparent": header})
    assert await handle.get_result() == 1
    assert links_of(told.one("receive paid")) == []


async def test_failures_of_verbs_are_told(told: Exported) -> None:
    @DBOS.workflow()
    async def sends_nowhere() -> None:
        await DBOS.send("nobody", 1, "paid")

    @DBOS.workflow()
    async def takes_a_number() -> None:
        await DBOS.recv(Topic("number", int))

    for call in (sends_nowhere(), DBOS.send("nobody", 1, "paid")):
        with pytest.raises(WorkflowNotFoundError):
            await call
    assert [attributes(span)["error.type"] for span in told.spans("send paid")] == ["WorkflowNotFoundError"] * 2
    handle = await DBOS.start_workflow(takes_a_number)
    await DBOS.send(handle.workflow_id, "seven", "number")
    with pytest.raises(InvalidMessageError):
        await handle.get_result()
    receive = told.one("receive number")
    assert attributes(receive)["error.type"] == "InvalidMessageError"
    assert receive.status.status_code is StatusCode.ERROR


async def test_questions_from_outside_and_from_workflows(told: Exported) -> None:
    @DBOS.workflow()
    async def shop() -> None:
        while (asked := await DBOS.recv_envelope(QUOTE, timeout_seconds=None)) is not None:
            if asked.payload == "the end":
                return
            await asked.refuse("no stock")

    @DBOS.workflow()
    async def buyer(of: str) -> str:
        try:
            answer = await DBOS.ask(of, QUOTE, "a widget")
            return str(answer)
        except RefusedError as refused:
            return refused.reason

    handle = await DBOS.start_workflow(shop)
    with pytest.raises(RefusedError):
        await DBOS.ask(handle.workflow_id, QUOTE, "a widget")
    assert await buyer(handle.workflow_id) == "no stock"
    outside, inside = told.spans("ask quote")
    assert attributes(outside)["error.type"] == "RefusedError"
    assert inside.status.status_code is StatusCode.UNSET  # the question was stored: what comes of it shows elsewhere
    assert [links_of(span) for span in told.spans("receive quote")] == [[id_of(outside)], [id_of(inside)]]
    assert [links_of(span) for span in told.spans("answer quote")] == [[id_of(outside)], [id_of(inside)]]
    assert [attributes(span)["messaging.operation.name"] for span in told.spans("answer quote")] == ["refuse"] * 2
    await DBOS.send(handle.workflow_id, "the end", QUOTE)


async def test_a_client_tells_what_it_sends(exported: Exported, database_url: str) -> None:
    async with DBOS(database_url, telemetry=False):
        handle = await DBOS.start_workflow(takes_a_message)
        async with DBOSClient(database_url) as client:
            await client.send(handle.workflow_id, 1, "paid")
        assert await handle.get_result() == 1
    assert exported.names() == ["send paid"]
    assert "dbos_async.workflow.id" not in attributes(exported.one("send paid"))
