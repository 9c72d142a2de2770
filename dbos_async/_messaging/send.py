"""Sending: a workflow has a queue for each topic. Any sender fills it, and the workflow alone empties it.

A send is one statement: it records the sender's step, stores the messages and announces them. The step's row decides: if the step
is recorded already, nothing is stored. The statement also delivers the message to a receiver that waits in the same process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

from dbos_async._checks import check_instance, kind_of
from dbos_async._database.calls import Call, Row
from dbos_async._database.change_keys import UNOWNED_KEY, message_key
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._executor import tracing
from dbos_async._messaging.handoff import (
    NO_RECEIVER,
    Handoff,
    OfferOfSeveral,
    executor_without_announcement,
    find_offer,
)
from dbos_async._messaging.send_keys import (
    BulkMatcher,
    SendMatcher,
    StartMatcher,
    Target,
    bulk_key,
    send_key,
    start_key,
)
from dbos_async._messaging.send_later import SEND_LATER
from dbos_async._runs.context import Context, WorkflowContext, calling_context
from dbos_async._runs.issue import Caller, call_by, caller_columns, caller_in, issue
from dbos_async._runs.start_options import StartCall, allowed_time, assigned, start_delay, wanted_version
from dbos_async._runs.step import Step
from dbos_async._runs.transaction import check_connection, connection_for
from dbos_async._serialization.ids import ordered_id
from dbos_async._serialization.values import decode_value, encode_value, size_error
from dbos_async.envelope import SendMessage
from dbos_async.errors import InvalidArgumentError, InvalidMessageError, InvalidValueError
from dbos_async.keys import Topic

if TYPE_CHECKING:
    from dbos_async._telemetry.acts import Act
    from dbos_async._telemetry.telemetry import Telemetry


def _is_usual(row: Row) -> bool:
    """Whether it is a step, and no receive of this process waits for the message."""
    return row[3] is not None and row[-len(NO_RECEIVER) :] == NO_RECEIVER


with load(__name__) as sql:
    SEND: Final = sql.statement("SEND", is_usual=_is_usual)
    SEND_TO_FIRST: Final = sql.statement("SEND_TO_FIRST")
    SEND_EXTERNAL: Final = sql.statement("SEND_EXTERNAL", is_usual=lambda _: True)
    SEND_BULK: Final = sql.statement("SEND_BULK")


async def send(
    database: Database, message: SendMessage, connection: Any = None, start: StartCall | None = None
) -> bool:
    """Store one message. False if its destination has ended. With ``start`` that is started if it is not there."""
    connection = connection_for(database, connection, "send")
    local_executor_id = executor_without_announcement(database, connection)
    outgoing = outgoing_message(message, "send", local_executor_id)
    if start is None:
        return await store(database, "send", [outgoing], connection) is None
    if not isinstance(start, StartCall):
        raise InvalidArgumentError(f"start must be Start(function, …) and is of type {kind_of(start)}.")
    return await store(database, "start_and_send", [outgoing], connection, start) is None


async def send_bulk(database: Database, messages: Sequence[SendMessage], connection: Any = None) -> list[str]:
    """Store all messages, or none. The destinations that have ended."""
    connection = connection_for(database, connection, "send_bulk")
    local_executor_id = executor_without_announcement(database, connection)
    check_instance(messages, Iterable, "messages")
    outgoing = [
        outgoing_message(message, f"Message {index} of send_bulk", local_executor_id)
        for index, message in enumerate(messages)
    ]
    if not outgoing:
        if connection is not None:
            check_connection(connection, calling_context(database), "send_bulk")
        return []
    told = await store(database, "send_bulk", outgoing, connection)
    if told == "true":
        # A lone message goes by the statement of a send, which tells of its destination only that it has ended.
        return [outgoing[0].destination_id]
    ended: list[str] = [] if told is None else decode_value(told, list[str])
    return ended


async def store(
    database: Database,
    verb: str,
    messages: Sequence[OutgoingMessage],
    connection: Any,
    start: StartCall | None = None,
) -> str | None:
    context = calling_context(database)
    if connection is not None:
        check_connection(connection, context, verb if start is None else "send")
    ticket = assigned.get()
    if context is None and ticket is not None:
        messages = [
            message if message.idempotency_key else message._replace(idempotency_key=ticket.key_of_send(index))
            for index, message in enumerate(messages)
        ]
    most = database.max_payload_bytes
    invalid = next(filter(None, (too_large(message, most) for message in messages)), None)
    if start is not None:
        invalid = invalid or size_error(start.text, most, f"The call of workflow {start.name!r}")
    step_key, matcher = _key(context, verb, messages, start)
    caller = caller_in(context, verb, step_key)
    if isinstance(caller, Step):
        caller.matcher = matcher
    act = None if database.telemetry is None or verb == "ask" else _act(database.telemetry, verb, messages, caller)
    if start is None and not any([message.delay_seconds for message in messages]):  # noqa: C419 - a generator costs more
        may_hand_off = connection is None and invalid is None

        def make() -> Call:
            stamped = messages if act is None else _stamped(messages, act)
            return _call(database, caller, verb, step_key, stamped, may_hand_off=may_hand_off)

        call = make() if act is None else make
        return (await issue(database, caller, call, verb=verb, connection=connection, invalid=invalid, act=act)).value()
    started = NO_START if start is None else _start_columns(database, caller, start)

    def make_later() -> Call:
        return _call_later(caller, verb, step_key, messages if act is None else _stamped(messages, act), started)

    result = await issue(database, caller, make_later, verb=verb, connection=connection, invalid=invalid, act=act)
    _set_alarm(database, [*(message.delay_seconds for message in messages), started.delay_seconds])
    return result.value()


def _act(telemetry: Telemetry, verb: str, messages: Sequence[OutgoingMessage], caller: Caller) -> Act:
    first, count = messages[0], len(messages)
    topic = first.topic if all(message.topic == first.topic for message in messages) else ""
    one = {"to": first.destination_id, "message_id": str(first.id)} if count == 1 else {}
    return telemetry.send(verb, topic, caller, count=count, **one)


def _stamped(messages: Sequence[OutgoingMessage], act: Act) -> list[OutgoingMessage]:
    """The messages with the trace of the send in their headers."""
    return [message._replace(headers=act.stamp(message.headers)) for message in messages]


def _key(
    context: Context | None, verb: str, messages: Sequence[OutgoingMessage], start: StartCall | None
) -> tuple[str, SendMatcher | BulkMatcher | StartMatcher | None]:
    """The key of the step, and what compares it with a recorded one. Only in the body of a workflow there is a step."""
    if not isinstance(context, WorkflowContext):
        return "", None
    if start is not None:
        target = messages[0].target
        return start_key(target, start.name), StartMatcher(target, start.name)
    if verb == "send":
        target = messages[0].target
        return send_key(target), SendMatcher(target)
    targets = [message.target for message in messages]
    return bulk_key(targets, context.run.workflow_id), BulkMatcher(targets)


def _call(
    database: Database,
    caller: Caller,
    verb: str,
    step_key: str,
    messages: Sequence[OutgoingMessage],
    *,
    may_hand_off: bool,
) -> Call:
    """The statement that fits: most sends are one message without an idempotency key."""
    first = messages[0]
    if len(messages) > 1 or first.idempotency_key is not None:
        columns = (*caller_columns(caller), verb, step_key)
        size = sum(len(message.payload) for message in messages)
        wakes = [message.digest for message in messages]
        return call_by(
            caller, SEND_BULK, [(*columns, *message[:-1]) for message in messages], first.destination_id, size, wakes
        )
    size, wakes = len(first.payload), [first.digest]
    subscription = find_offer(database, first.digest) if may_hand_off else None
    if caller is None and subscription is None and verb != "ask":
        return Call(SEND_EXTERNAL, [first.without_key], first.destination_id, size, wakes)
    columns = (*caller_columns(caller), verb, step_key, *first.without_key)
    if subscription is None:
        return call_by(caller, SEND, [(*columns, *NO_RECEIVER)], first.destination_id, size, wakes)
    statement = SEND_TO_FIRST if isinstance(subscription.offer, OfferOfSeveral) else SEND
    handoff = Handoff(subscription, columns, first.id, first.payload, first.headers, first.digest)
    handoff.call = call_by(caller, statement, handoff.rows, first.destination_id, size, wakes, handoff)
    return handoff.call


def _call_later(
    caller: Caller, verb: str, step_key: str, messages: Sequence[OutgoingMessage], start: _StartColumns
) -> Call:
    """The statement for messages of which some are due later, or for one whose destination is started."""
    columns = (*caller_columns(caller), verb, step_key)
    rows = [(*columns, *message, *start) for message in messages]
    size = sum(len(message.payload) for message in messages) + len(start.input or "")
    wakes = [message.digest for message in messages if message.delay_seconds is None]
    if start.digest is not None and start.delay_seconds is None:
        wakes.append(start.digest)
    return call_by(caller, SEND_LATER, rows, messages[0].destination_id, size, wakes)


class _StartColumns(NamedTuple):
    """How the destination is started if it is not there."""

    sender_step: str | None = None
    name: str | None = None
    input: str | None = None
    application_version: str | None = None
    trace_parent: str | None = None
    start_id: UUID | None = None
    timeout_seconds: float | None = None
    reaches_children: bool | None = None
    delay_seconds: float | None = None
    digest: bytes | None = None


NO_START: Final = _StartColumns()


def _start_columns(database: Database, caller: Caller, start: StartCall) -> _StartColumns:
    return _StartColumns(
        None if caller is None else caller.path,
        start.name,
        start.text,
        wanted_version.get() or database.application_version,
        tracing.trace_parent(),
        ordered_id(),
        *allowed_time(),
        start_delay.get(),
        UNOWNED_KEY,
    )


def _set_alarm(database: Database, delays: Iterable[float | None]) -> None:
    """Look for what was delayed here as soon as it is due, if this process does that at all."""
    if database.local_executor_id is not None:
        for seconds in delays:
            if seconds is not None:
                database.alarm.ring_in(seconds)


class OutgoingMessage(NamedTuple):
    id: UUID
    destination_id: str
    topic: str
    payload: str
    headers: str | None
    digest: bytes
    local_executor_id: str | None
    idempotency_key: str | None
    delay_seconds: float | None

    @property
    def target(self) -> Target:
        """Where it goes: the destination and the topic."""
        return self.destination_id, self.topic

    @property
    def without_key(self) -> Row:
        """The columns of a message that has no idempotency key and is not delayed."""
        return self[:-2]


def outgoing_message(message: SendMessage, what: str, local_executor_id: str | None) -> OutgoingMessage:
    if not isinstance(message, SendMessage):
        raise InvalidArgumentError(f"{what} must be a SendMessage and is of type {kind_of(message)}.")
    destination_id = message.destination_id
    # SendMessage has checked them.
    topic, declared = (
        (message.topic.name, message.topic.type) if isinstance(message.topic, Topic) else (message.topic or "", Any)
    )
    payload = encode_value(
        message.message, declared, what=f"The message to {destination_id!r}", error=InvalidMessageError
    )
    headers = _headers(message.headers, what)
    digest = message_key(destination_id, topic)
    return OutgoingMessage(
        ordered_id(),
        destination_id,
        topic,
        payload,
        headers,
        digest,
        local_executor_id,
        message.idempotency_key,
        message.delay_seconds,
    )


def too_large(message: OutgoingMessage, most: int) -> InvalidValueError | None:
    what = f"The message to {message.destination_id!r}"
    return size_error(message.payload, most, what, InvalidMessageError) or size_error(
        message.headers or "", most, f"{what}: its headers", InvalidMessageError
    )


def _headers(headers: Mapping[str, str] | None, what: str) -> str | None:
    if not headers:
        return None
    return encode_value(dict(headers), dict[str, str], what=f"{what}: its headers", error=InvalidMessageError)
