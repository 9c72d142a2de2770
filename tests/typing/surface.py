"""What a type checker sees of the public surface. Nothing here runs: mypy --strict and pyright strict read it.

Each mistake that must be an error stands beside the ignores that expect it, one for either checker, and both report an
ignore that nothing needs. So an error that is no longer seen is an error, too.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass
from datetime import datetime
from logging import Logger
from typing import Annotated, Any, Literal, TypedDict, assert_type
from uuid import UUID

import asyncpg
from pydantic import BaseModel, Field

from dbos_async import (
    DBOS,
    DBOSClient,
    Envelope,
    Event,
    Health,
    Message,
    SendMessage,
    SetApplicationVersion,
    SetWorkflowID,
    SetWorkflowTimeout,
    StepFunction,
    Stream,
    Topic,
    Workflow,
    WorkflowHandle,
    WorkflowStatus,
    WorkflowStep,
)


class Paid(BaseModel):
    cents: int

    @classmethod
    def of(cls, cents: int, /) -> Paid:
        return cls(cents=cents)


class Refused(BaseModel):
    reason: str


@dataclass
class Progress:
    done: int


class Address(TypedDict):
    street: str


Answer = Literal["yes", "no"]
Percent = Annotated[int, Field(ge=0, le=100)]

# Typed names: a class says its type once, every other form of a type says it twice

PAID = Topic("payment", Paid)
PAID_OR_REFUSED = Topic[Paid | Refused]("payment", Paid | Refused)
ANSWER = Topic[Answer]("answer", Answer)
ADDRESS = Topic("address", Address)
LABELS = Topic("labels", list[str])
PRICE = Event("price", int)
MAYBE = Event[int | None]("maybe", int | None)
SENT = Event("sent", datetime)
PERCENT = Event[Percent]("percent", Percent)
PROGRESS = Stream("progress", Progress)
LINES = Stream[str | None]("lines", str | None)

assert_type(PAID, Topic[Paid])
assert_type(PAID_OR_REFUSED, Topic[Paid | Refused])
assert_type(LABELS, Topic[list[str]])
assert_type(PRICE, Event[int])
assert_type(PERCENT, Event[int])
assert_type(PROGRESS, Stream[Progress])
assert_type(PAID.name, str)

UNSAID_UNION = Topic("x", Paid | Refused)  # type: ignore[var-annotated]  # pyright: ignore[reportUnknownVariableType]  # a union
UNSAID_ALIAS = Event("x", Answer)  # type: ignore[var-annotated]  # pyright: ignore[reportUnknownVariableType]  # a Literal
UNSAID_LIMITS = Stream("x", Annotated[int, Field(ge=0)])  # type: ignore[var-annotated]  # pyright: ignore[reportUnknownVariableType]  # limits
Topic("x")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]  # no type at all
Topic(1, int)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # the name is no str
PAID.name = "other"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]  # names are frozen


async def messages(dbos: DBOS, client: DBOSClient, anything: Any, either: str | Topic[Paid] | None) -> None:
    await DBOS.send("w", {"any": ["JSON", 1, None]})
    await DBOS.send("w", object(), "a plain name says nothing of its messages")
    await DBOS.send("w", Paid(cents=1), PAID, idempotency_key="k", headers={"trace": "1"})
    await DBOS.send("w", Refused(reason="no money"), PAID_OR_REFUSED)
    await DBOS.send("w", "yes", ANSWER)
    await DBOS.send("w", Address(street="x"), ADDRESS)
    await DBOS.send("w", [], LABELS)
    await DBOS.send("w", anything, PAID)
    await DBOS.send("w", Paid(cents=1), either)
    await DBOS.send("w", Paid(cents=1), anything)
    await dbos.send("w", Paid(cents=1), PAID)
    await client.send("w", Paid(cents=1), PAID, idempotency_key="k", headers={"trace": "1"})
    await client.send("w", 1, "plain")
    await client.send("w", Paid(cents=1), either)

    await DBOS.send("w", "paid", PAID)  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]  # no Paid
    await dbos.send("w", "paid", PAID)  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]  # no Paid
    await client.send("w", "paid", PAID)  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]  # no Paid
    await DBOS.send("w", None, PAID)  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]  # no Paid
    await DBOS.send("w", 1, PAID_OR_REFUSED)  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]  # neither
    await DBOS.send("w", "perhaps", ANSWER)  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]  # no Answer
    await DBOS.send("w", 1, PRICE)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # no topic
    await client.send("w", 1, PRICE)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # no topic
    await DBOS.send(1, 1)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]  # an id is a str
    await DBOS.send("w", 1, "t", "key")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]  # given by its name only
    await DBOS.send("w", 1, headers={"n": 1})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]  # str
    # Both checkers read a dict that is written in the call before they know of the TypedDict: name it, as above.
    await DBOS.send("w", {"street": "x"}, ADDRESS)  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]

    bulk = [
        SendMessage("w", Paid(cents=1), PAID),
        SendMessage("w", 1),
        SendMessage("w", 1, "plain", "key", {"trace": "1"}),
        SendMessage(destination_id="w", message="no", topic=ANSWER, idempotency_key=None, headers=None),
        SendMessage("w", Paid(cents=1), either),
    ]
    assert_type(bulk, list[SendMessage])
    assert_type(await DBOS.send_bulk(bulk), list[str])
    assert_type(await DBOS.send("w", 1), bool)
    assert_type(await dbos.send_bulk(tuple(bulk)), list[str])
    assert_type(await client.send_bulk(bulk), list[str])
    SendMessage("w", "paid", PAID)  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]  # no Paid
    SendMessage("w", 1, PRICE)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # no topic
    bulk[0].message = 1  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]  # a message is frozen
    await DBOS.send_bulk(["paid"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]  # no SendMessage


async def receiving(dbos: DBOS, client: DBOSClient, either: str | Topic[Paid]) -> None:
    assert_type(await DBOS.recv(), Any)
    assert_type(await DBOS.recv(None, None), Any)
    assert_type(await DBOS.recv("plain", timeout_seconds=5), Any)
    assert_type(await DBOS.recv(PAID), Paid | None)
    assert_type(await DBOS.recv(PAID, timeout_seconds=None), Paid | None)
    assert_type(await DBOS.recv(PAID_OR_REFUSED, 5), Paid | Refused | None)
    assert_type(await DBOS.recv(ANSWER), Answer | None)
    assert_type(await DBOS.recv(ADDRESS), Address | None)
    assert_type(await DBOS.recv(LABELS), list[str] | None)
    assert_type(await DBOS.recv(Topic("inline", UUID)), UUID | None)
    assert_type(await dbos.recv(PAID), Paid | None)
    assert_type(await dbos.recv("plain"), Any)
    await DBOS.recv(either)

    assert_type(await DBOS.recv_envelope(), Envelope[Any] | None)
    assert_type(await DBOS.recv_envelope("plain", 5), Envelope[Any] | None)
    assert_type(await DBOS.recv_envelope(PAID, timeout_seconds=None), Envelope[Paid] | None)
    assert_type(await dbos.recv_envelope(PAID_OR_REFUSED), Envelope[Paid | Refused] | None)

    paid = await DBOS.recv(PAID)
    paid.cents  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]  # maybe a timeout
    if paid is not None:
        paid.euros  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]  # cents
    await DBOS.recv(PRICE)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # an event
    await dbos.recv(PROGRESS)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # a stream
    await DBOS.recv_envelope(PRICE)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # an event
    await DBOS.recv(PAID, "5")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # no number
    await client.recv(PAID)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]  # workflows only


def envelopes(envelope: Envelope[Paid]) -> None:
    assert_type(envelope.id, UUID)
    assert_type(envelope.destination_id, str)
    assert_type(envelope.topic, str | None)
    assert_type(envelope.payload, Paid)
    assert_type(envelope.sender_id, str | None)
    assert_type(envelope.sent_at, datetime)
    assert_type(envelope.headers, dict[str, str])
    envelope.topic = "other"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]  # an envelope is frozen


async def events(dbos: DBOS, client: DBOSClient) -> None:
    await DBOS.set_event("plain", {"any": "JSON"})
    await DBOS.set_event(PRICE, 10)
    await DBOS.set_event(MAYBE, None)
    await DBOS.set_event(PERCENT, 50)
    await dbos.set_event(PRICE, 10)

    assert_type(await DBOS.get_event("w", "plain"), Any)
    assert_type(await DBOS.get_event("w", PRICE), int | None)
    assert_type(await DBOS.get_event("w", SENT, timeout_seconds=None), datetime | None)
    assert_type(await DBOS.get_event("w", MAYBE, 5), int | None)
    assert_type(await DBOS.get_event("w", PRICE, after=5), int | None)
    assert_type(await client.get_event("w", "plain", 5, after=5), Any)
    assert_type(await dbos.get_event("w", PRICE), int | None)
    assert_type(await client.get_event("w", "plain", 5), Any)
    assert_type(await client.get_event("w", PRICE, timeout_seconds=None), int | None)
    assert_type(await DBOS.get_all_events("w"), dict[str, Any])
    assert_type(await dbos.get_all_events("w"), dict[str, Any])
    assert_type(await client.get_all_events("w"), dict[str, Any])

    await DBOS.set_event(PRICE, "10")  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]  # no int
    await dbos.set_event(PRICE, None)  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]  # no int
    await DBOS.set_event(PAID, Paid(cents=1))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # a topic
    await DBOS.set_event("plain")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]  # no value
    await DBOS.get_event("w", PAID)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # a topic
    await client.get_event("w", PROGRESS)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # a stream
    await DBOS.get_event(PRICE)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]  # whose event?
    await client.set_event(PRICE, 1)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]  # workflows only


async def streams(dbos: DBOS, client: DBOSClient) -> None:
    await DBOS.write_stream("plain", {"any": "JSON"})
    await DBOS.write_stream(PROGRESS, Progress(done=1))
    await DBOS.write_stream(LINES, None)
    await dbos.write_stream(PROGRESS, Progress(done=1))
    await DBOS.close_stream("plain")
    await DBOS.close_stream(PROGRESS)
    await dbos.close_stream(PROGRESS)

    assert_type(DBOS.read_stream("w", "plain"), AsyncGenerator[Any, None])
    assert_type(DBOS.read_stream("w", PROGRESS), AsyncGenerator[Progress, None])
    assert_type(dbos.read_stream("w", LINES, offset=3, timeout_seconds=5), AsyncGenerator[str | None, None])
    assert_type(client.read_stream("w", "plain"), AsyncGenerator[Any, None])
    assert_type(client.read_stream("w", PROGRESS, offset=3, timeout_seconds=5), AsyncGenerator[Progress, None])
    async for progress in DBOS.read_stream("w", PROGRESS):
        assert_type(progress, Progress)

    await DBOS.write_stream(PROGRESS, 1)  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]  # no Progress
    await dbos.write_stream(PROGRESS, None)  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]  # no Progress
    await DBOS.write_stream(PRICE, 1)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # an event
    await DBOS.close_stream(PRICE)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # an event
    assert_type(await DBOS.trim_stream("w", PROGRESS, before=3), int)
    assert_type(await dbos.trim_stream("w", "plain", before=3), int)
    assert_type(await client.trim_stream("w", LINES, before=3), int)
    await DBOS.trim_stream("w", PROGRESS, 3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # given by its name only
    await DBOS.trim_stream("w", PRICE, before=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # an event
    DBOS.read_stream("w", PAID)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # a topic
    client.read_stream("w", PRICE)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # an event
    DBOS.read_stream("w", PROGRESS, 3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]  # given by its name only
    await DBOS.read_stream("w", PROGRESS)  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]  # async for, not await


# Workflows and steps keep the signature of their function


@DBOS.step()
async def charge(cents: int, *, currency: str = "EUR") -> Paid:
    return Paid(cents=cents)


@DBOS.step(name="count", retries_allowed=True, max_attempts=5, interval_seconds=0.1, backoff_rate=2, timeout_seconds=1)
def count(words: str) -> int:
    return len(words)


@DBOS.workflow()
async def checkout(item: str, cents: int = 100) -> Paid:
    assert_type(DBOS.workflow_id, str | None)
    assert_type(await charge(cents, currency="CHF"), Paid)
    assert_type(await count(item), int)
    await charge("10")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # cents are whole numbers
    await charge(10, "CHF")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # given by its name only
    await count()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # no words
    assert_type(await DBOS.sleep(1.5), None)
    await DBOS.sleep("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no number
    assert_type(await DBOS.now(), datetime)
    assert_type(await DBOS.random(), float)
    assert_type(await DBOS.uuid(), UUID)
    assert_type(await DBOS.sleep_until(await DBOS.now()), None)
    await DBOS.sleep_until(1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no datetime
    return await charge(cents)


@DBOS.workflow(name="greet", max_recovery_attempts=3)
async def greet() -> str:
    return "hello"


async def not_decorated(item: str) -> str:
    return item


def returns_a_coroutine(item: str) -> Coroutine[Any, Any, str]:
    return not_decorated(item)


A_STEP: StepFunction[[int], Paid] = DBOS.step(name="a step")(Paid.of)
A_WORKFLOW: Workflow[..., str] = DBOS.workflow(name="a workflow")(returns_a_coroutine)


async def decorating() -> None:
    @DBOS.workflow()  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a workflow is an async def
    def no_coroutine() -> int:
        return 1

    @DBOS.workflow  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # without its parentheses
    async def no_parentheses() -> int:
        return 1

    DBOS.step(max_attempts="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no number


async def starting(dbos: DBOS, client: DBOSClient, connection: asyncpg.Connection[Any], anything: Any) -> None:
    with SetApplicationVersion("2") as named:
        assert_type(named, SetApplicationVersion)
        assert_type(await client.start_workflow(checkout, "widget"), WorkflowHandle[Paid])
    SetApplicationVersion(2)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a version is a text
    DBOSClient("postgresql://", application_version="2")
    with SetWorkflowID("order-17") as ticket, SetWorkflowTimeout(60), SetWorkflowTimeout(None):
        assert_type(ticket, SetWorkflowID)
        assert_type(await checkout("widget"), Paid)
    handle = await DBOS.start_workflow(checkout, "widget", cents=10)
    assert_type(handle, WorkflowHandle[Paid])
    assert_type(handle.workflow_id, str)
    assert_type(await handle.get_result(), Paid)
    assert_type(await handle.get_status(), WorkflowStatus)
    assert_type(await DBOS.start_workflow(greet), WorkflowHandle[str])
    assert_type(await dbos.start_workflow(checkout, "widget"), WorkflowHandle[Paid])
    assert_type(await client.start_workflow("by its name", 1, item="x"), WorkflowHandle[Any])
    assert_type(await client.start_workflow(checkout, "widget", 10), WorkflowHandle[Paid])

    async with connection.transaction():
        await DBOS.send("w", Paid(cents=1), PAID, connection=connection)
        await client.send("w", Paid(cents=1), PAID, connection=connection)
        await DBOS.send_bulk([], connection=connection)
        await client.send_bulk([], connection=connection)
        assert_type(await DBOS.start_workflow(checkout, "widget", connection=connection), WorkflowHandle[Paid])
        assert_type(await client.start_workflow(checkout, "widget", connection=connection), WorkflowHandle[Paid])
        assert_type(await client.start_workflow("by its name", connection=connection), WorkflowHandle[Any])
    async with asyncpg.create_pool() as pool, pool.acquire() as pooled, pooled.transaction():
        await DBOS.send("w", 1, connection=pooled)
        assert_type(await DBOS.start_workflow(greet, connection=pooled), WorkflowHandle[str])
    # The driver connection of a SQLAlchemy session has the type Any.
    await DBOS.send("w", 1, connection=anything)
    assert_type(await DBOS.start_workflow(greet, connection=anything), WorkflowHandle[str])

    SetWorkflowID(17)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # an id is a str
    await checkout(17)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # an item is a str
    await DBOS.start_workflow(checkout)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]  # no item
    await DBOS.start_workflow(checkout, 17)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]  # no str
    await DBOS.start_workflow(greet, "x")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]  # it takes nothing
    await DBOS.start_workflow(checkout("x"))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # called
    await DBOS.start_workflow(not_decorated, "x")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await client.start_workflow(not_decorated, "x")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await DBOS.start_workflow("by its name")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await client.start_workflow(checkout, 17)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await DBOS.send("w", 1, connection="postgresql://")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


async def managing(dbos: DBOS, client: DBOSClient, message: Message, now: datetime) -> None:
    assert_type(DBOS.workflow_id, str | None)
    assert_type(dbos.workflow_id, str | None)
    assert_type(DBOS.step_id, str | None)
    assert_type(dbos.step_id, str | None)
    assert_type(DBOS.is_replaying, bool)
    assert_type(DBOS.logger, Logger)
    assert_type(await DBOS.retrieve_workflow("w"), WorkflowHandle[Any])
    assert_type(await client.retrieve_workflow("w"), WorkflowHandle[Any])
    assert_type(await (await DBOS.retrieve_workflow("w")).get_result(), Any)
    assert_type(await DBOS.list_workflows(status="SUCCESS", since=now, limit=5), list[WorkflowStatus])
    assert_type(await client.list_workflows(unclaimable=True), list[WorkflowStatus])
    assert_type(await DBOS.list_workflow_steps("w"), list[WorkflowStep])
    assert_type(await client.list_workflow_steps("w"), list[WorkflowStep])
    assert_type(await DBOS.cancel_workflow("w"), bool)
    assert_type(await client.cancel_workflow("w"), bool)
    assert_type(await DBOS.resume_workflow("w", application_version="2"), WorkflowHandle[Any])
    assert_type(await client.resume_workflow("w"), WorkflowHandle[Any])
    assert_type(await DBOS.fork_workflow("w", 2), WorkflowHandle[Any])
    assert_type(await client.fork_workflow("w", "4.1.2"), WorkflowHandle[Any])
    assert_type(await DBOS.delete_workflow("w"), None)
    assert_type(await DBOS.health(), Health)
    assert_type(await client.delete_workflow("w"), None)
    assert_type(await DBOS.list_messages("w", topic=PAID, status="rejected"), list[Message])
    assert_type(await dbos.list_messages("w", topic="plain", after=message.id), list[Message])
    assert_type(await client.list_messages("w"), list[Message])
    assert_type(await DBOS.redeliver(message.id), None)
    assert_type(await client.redeliver("an id"), None)
    assert_type(message.payload, Any)
    assert_type(message.rejected, str | None)
    assert_type(message.received_at, datetime | None)

    await DBOS.list_messages("w", topic=PRICE)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # an event
    await DBOS.list_workflows("SUCCESS")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # given by its name only
    DBOS.workflow_id.upper()  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]  # None outside of workflows


async def lifecycle() -> None:
    async with DBOS("postgresql://", executor_id="e", max_running=10) as dbos:
        assert_type(dbos, DBOS)
    assert_type(await DBOS.launch(), DBOS)
    assert_type(await DBOS.shutdown(), None)
    async with DBOSClient("postgresql://", migrate=True) as client:
        assert_type(client, DBOSClient)
    DBOSClient()  # $DBOS_DATABASE_URL
    DBOSClient(17)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a URL is a str
