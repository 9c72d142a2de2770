"""Sending: a workflow has a queue for each topic. Any sender fills it, and the workflow alone empties it.

A send is one statement: it records the sender's step, stores the messages and announces them. The step's row decides: if the step
is recorded already, nothing is stored. The statement also delivers the message to a receiver that waits in the same process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from dbos_async._checks import check_instance, kind_of
from dbos_async._database.calls import Call, Row
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._database.wakeups import message_key
from dbos_async._messaging.handoff import NO_RECEIVER, Handoff, executor_without_announcement, find_offer
from dbos_async._messaging.send_keys import BulkMatcher, SendMatcher, Target, bulk_key, send_key
from dbos_async._runs.context import Context, WorkflowContext, calling_context
from dbos_async._runs.issue import Caller, call_by, caller_columns, caller_in, issue
from dbos_async._runs.start_options import assigned
from dbos_async._runs.step import Step
from dbos_async._runs.transaction import check_connection
from dbos_async._serialization.ids import ordered_id
from dbos_async._serialization.values import decode_value, encode_value, size_error
from dbos_async.envelope import SendMessage
from dbos_async.errors import InvalidArgumentError, InvalidMessageError, InvalidValueError
from dbos_async.keys import Topic

with load(__name__) as sql:
    SEND: Final = sql.statement("SEND")
    SEND_EXTERNAL: Final = sql.statement("SEND_EXTERNAL")
    SEND_BULK: Final = sql.statement("SEND_BULK")


async def send(database: Database, message: SendMessage, connection: Any = None) -> bool:
    """Store one message. False if its destination has ended."""
    local_executor_id = executor_without_announcement(database, connection)
    return await _send(database, "send", [_outgoing(message, "send", local_executor_id)], connection) is None


async def send_bulk(database: Database, messages: Sequence[SendMessage], connection: Any = None) -> list[str]:
    """Store all messages, or none. The destinations that have ended."""
    local_executor_id = executor_without_announcement(database, connection)
    check_instance(messages, Iterable, "messages")
    outgoing = [
        _outgoing(message, f"Message {index} of send_bulk", local_executor_id) for index, message in enumerate(messages)
    ]
    if not outgoing:
        if connection is not None:
            check_connection(connection, calling_context(database), "send_bulk")
        return []
    told = await _send(database, "send_bulk", outgoing, connection)
    if told == "true":
        # A lone message goes by the statement of a send, which tells of its destination only that it has ended.
        return [outgoing[0].destination_id]
    ended: list[str] = [] if told is None else decode_value(told, list[str])
    return ended


async def _send(database: Database, verb: str, messages: Sequence[_OutgoingMessage], connection: Any) -> str | None:
    context = calling_context(database)
    if connection is not None:
        check_connection(connection, context, verb)
    ticket = assigned.get()
    if context is None and ticket is not None:
        messages = [
            message if message.idempotency_key else message._replace(idempotency_key=ticket.key_of_send(index))
            for index, message in enumerate(messages)
        ]
    invalid = next(filter(None, (_too_large(message, database.max_payload_bytes) for message in messages)), None)
    step_key, matcher = _key(context, verb, messages)
    caller = caller_in(context, verb, step_key)
    if isinstance(caller, Step):
        caller.matcher = matcher
    call = _call(database, caller, verb, step_key, messages, may_hand_off=connection is None and invalid is None)
    return (await issue(database, caller, call, verb=verb, connection=connection, invalid=invalid)).value()


def _key(
    context: Context | None, verb: str, messages: Sequence[_OutgoingMessage]
) -> tuple[str, SendMatcher | BulkMatcher | None]:
    """The key of the step, and what compares it with a recorded one. Only in the body of a workflow there is a step."""
    if not isinstance(context, WorkflowContext):
        return "", None
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
    messages: Sequence[_OutgoingMessage],
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
            caller, SEND_BULK, [(*columns, *message) for message in messages], first.destination_id, size, wakes
        )
    size, wakes = len(first.payload), [first.digest]
    subscription = find_offer(database, first.digest) if may_hand_off else None
    if caller is None and subscription is None:
        return Call(SEND_EXTERNAL, [first.without_key], first.destination_id, size, wakes)
    columns = (*caller_columns(caller), verb, step_key, *first.without_key)
    if subscription is None:
        return call_by(caller, SEND, [(*columns, *NO_RECEIVER)], first.destination_id, size, wakes)
    handoff = Handoff(subscription, columns, first.id, first.payload)
    handoff.call = call_by(caller, SEND, handoff.rows, first.destination_id, size, wakes, handoff)
    return handoff.call


class _OutgoingMessage(NamedTuple):
    id: UUID
    destination_id: str
    topic: str
    payload: str
    headers: str | None
    digest: bytes
    local_executor_id: str | None
    idempotency_key: str | None

    @property
    def target(self) -> Target:
        """Where it goes: the destination and the topic."""
        return self.destination_id, self.topic

    @property
    def without_key(self) -> Row:
        """All columns but the idempotency key, for a message that has none."""
        return self[:-1]


def _outgoing(message: SendMessage, what: str, local_executor_id: str | None) -> _OutgoingMessage:
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
    return _OutgoingMessage(
        ordered_id(),
        destination_id,
        topic,
        payload,
        headers,
        digest,
        local_executor_id,
        message.idempotency_key,
    )


def _too_large(message: _OutgoingMessage, most: int) -> InvalidValueError | None:
    what = f"The message to {message.destination_id!r}"
    return size_error(message.payload, most, what, InvalidMessageError) or size_error(
        message.headers or "", most, f"{what}: its headers", InvalidMessageError
    )


def _headers(headers: Mapping[str, str] | None, what: str) -> str | None:
    if not headers:
        return None
    return encode_value(dict(headers), dict[str, str], what=f"{what}: its headers", error=InvalidMessageError)
