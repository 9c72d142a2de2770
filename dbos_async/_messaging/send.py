"""Messages: one workflow's queues, a queue a topic, filled by anybody and emptied by the workflow alone.

A send is one statement: it records the sender's step, stores the messages and announces them. The step's row decides: where
it was there already, nothing is stored. A receive that waits in the same process is handed its message by that statement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._database.wakeups import message_key
from dbos_async._messaging.recv import NO_RECEIVER, Handoff, topic_and_type
from dbos_async._runs.context import StepContext, WorkflowContext, assigned, calling_context
from dbos_async._runs.step import Step, StepResult, act, caller_columns
from dbos_async._runs.transaction import call_inside, check_answer, check_connection
from dbos_async._serialization import values
from dbos_async._serialization.ids import ordered_id
from dbos_async.envelope import SendMessage
from dbos_async.errors import InvalidArgumentError, InvalidMessageError, InvalidValueError
from dbos_async.keys import check_key

with load(__name__) as sql:
    SEND: Final = sql.statement("SEND")
    SEND_EXTERNAL: Final = sql.statement("SEND_EXTERNAL")
    SEND_BULK: Final = sql.statement("SEND_BULK")


async def send(database: Database, outgoing: SendMessage, connection: Any = None) -> None:
    """Store one message."""
    message = _outgoing(outgoing, "send", None if connection is not None else database.here)
    topic = f" ({message.topic})" if message.topic else ""
    await _send(database, "send", f"{message.destination_id}{topic}", [message], connection)


async def send_bulk(database: Database, outgoing: Sequence[SendMessage], connection: Any = None) -> None:
    """Store all messages, or none."""
    # In the user's transaction nobody is woken before the commit, which only its announcement tells.
    here = None if connection is not None else database.here
    messages = [_outgoing(each, f"Message {index} of send_bulk", here) for index, each in enumerate(outgoing)]
    if messages:
        await _send(database, "send_bulk", f"{len(messages)} messages", messages, connection)


async def _send(
    database: Database, verb: str, step_key: str, messages: Sequence[_OutgoingMessage], connection: Any
) -> None:
    here = calling_context(database)
    if connection is not None:
        check_connection(connection, here, verb)
    ticket = assigned.get()
    if here is None and ticket is not None:
        messages = [
            message if message.idempotency_key else message._replace(idempotency_key=ticket.key_of_send(place))
            for place, message in enumerate(messages)
        ]
    size = sum(len(message.payload) for message in messages)
    wakes = [message.digest for message in messages]
    invalid = next(filter(None, (_too_large(message, database.max_payload_bytes) for message in messages)), None)
    caller = Step(here, verb, step_key) if isinstance(here, WorkflowContext) else here
    if invalid is not None and not isinstance(caller, Step):
        raise invalid
    handoff = None if connection is not None else _handover(database, caller, verb, step_key, messages)
    statement = SEND
    rows: Sequence[tuple[Any, ...]]
    if handoff is not None:
        rows = handoff.rows
    elif len(messages) > 1 or messages[0].idempotency_key is not None:
        statement, rows = SEND_BULK, [(*caller_columns(caller), verb, step_key, *message) for message in messages]
    elif caller is None:
        statement, rows = SEND_EXTERNAL, [messages[0].alone]
    else:
        rows = [(*caller_columns(caller), verb, step_key, *messages[0].alone, *NO_RECEIVER)]
    if connection is not None:
        answer = await call_inside(connection, statement, rows)
        await check_answer(answer, here if isinstance(here, StepContext) else None)
    elif caller is not None:
        await act(
            database, caller, statement, rows, verb=verb, size=size, wakes=wakes, handoff=handoff, invalid=invalid
        )
        return
    else:
        partition = messages[0].destination_id
        answer = await database.call(statement, rows, partition=partition, size=size, wakes=wakes, handoff=handoff)
    StepResult(None, answer[0]["error"]).value()


def _handover(
    database: Database,
    caller: Step | StepContext | None,
    verb: str,
    step_key: str,
    messages: Sequence[_OutgoingMessage],
) -> Handoff | None:
    if len(messages) > 1 or messages[0].idempotency_key is not None:
        return None
    (message,) = messages
    subscription = database.wakeups.receiver(message.digest)
    if subscription is None:
        return None
    columns = (*caller_columns(caller), verb, step_key, *message.alone)
    return Handoff(subscription, columns, message.id, message.payload)


class _OutgoingMessage(NamedTuple):
    id: UUID
    destination_id: str
    topic: str
    payload: str
    headers: str | None
    digest: bytes
    here: str | None
    """The executor of the sender's process."""
    idempotency_key: str | None

    @property
    def alone(self) -> tuple[Any, ...]:
        """All but the key, where it has none."""
        return self[:-1]


def _outgoing(message: SendMessage, what: str, here: str | None) -> _OutgoingMessage:
    if not isinstance(message, SendMessage):
        raise InvalidArgumentError(f"{what} must be a SendMessage and is a {type(message).__name__}.")
    destination_id = check_key(message.destination_id, f"{what}: its destination_id")
    topic, declared = topic_and_type(message.topic)
    payload = values.encode(
        message.message, declared, what=f"The message to {destination_id!r}", error=InvalidMessageError
    )
    key = message.idempotency_key
    if key is not None:
        check_key(key, f"{what}: its idempotency_key")
    headers = _headers(message.headers, what)
    digest = message_key(destination_id, topic)
    return _OutgoingMessage(ordered_id(), destination_id, topic, payload, headers, digest, here, key)


def _too_large(message: _OutgoingMessage, most: int) -> InvalidValueError | None:
    what = f"The message to {message.destination_id!r}"
    return values.too_large(message.payload, most, what, InvalidMessageError) or values.too_large(
        message.headers or "", most, f"{what}: its headers", InvalidMessageError
    )


def _headers(headers: Mapping[str, str] | None, what: str) -> str | None:
    if not headers:
        return None
    return values.encode(dict(headers), dict[str, str], what=f"{what}: its headers", error=InvalidMessageError)
