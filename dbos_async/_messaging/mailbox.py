"""The messages of a workflow: listing them, and delivering once more one that its receiver could not read."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, NoReturn
from uuid import UUID

from dbos_async._checks import check_choice, check_flag, check_int, check_optional_key, excerpt
from dbos_async._database.change_keys import message_key
from dbos_async._database.database import Database
from dbos_async._database.pages import Cursor, unknown_after
from dbos_async._database.sql import load
from dbos_async._runs.step import read
from dbos_async._serialization.exceptions import decode_error
from dbos_async._serialization.ids import ordered_id
from dbos_async._serialization.values import decode_value, display_value
from dbos_async.envelope import Message
from dbos_async.errors import (
    InvalidArgumentError,
    InvalidValueError,
    MessageNotFoundError,
    RedeliveryError,
    WorkflowNotFoundError,
)
from dbos_async.keys import Topic, key_and_type

with load(__name__) as sql:
    MESSAGES: Final = sql.statement("MESSAGES", parallelism=1)
    NEWEST_MESSAGES: Final = sql.statement("NEWEST_MESSAGES", parallelism=1)
    DELAYED_MESSAGES: Final = sql.statement("DELAYED_MESSAGES", parallelism=1)
    NEWEST_DELAYED_MESSAGES: Final = sql.statement("NEWEST_DELAYED_MESSAGES", parallelism=1)
    MESSAGES_OF_ALL: Final = sql.statement("MESSAGES_OF_ALL", parallelism=1)
    NEWEST_MESSAGES_OF_ALL: Final = sql.statement("NEWEST_MESSAGES_OF_ALL", parallelism=1)
    DELAYED_OF_ALL: Final = sql.statement("DELAYED_OF_ALL", parallelism=1)
    NEWEST_DELAYED_OF_ALL: Final = sql.statement("NEWEST_DELAYED_OF_ALL", parallelism=1)
    FIND: Final = sql.statement("FIND", parallelism=1)
    REDELIVER: Final = sql.statement("REDELIVER", parallelism=1)

STATUSES = ("waiting", "received", "rejected", "delayed")
STATUSES_OF_ALL = ("waiting", "rejected", "delayed")

# By whether all workflows are meant, whether delayed messages are, and whether the newest come first.
_LISTS: Final = {
    (False, False, False): MESSAGES,
    (False, False, True): NEWEST_MESSAGES,
    (False, True, False): DELAYED_MESSAGES,
    (False, True, True): NEWEST_DELAYED_MESSAGES,
    (True, False, False): MESSAGES_OF_ALL,
    (True, False, True): NEWEST_MESSAGES_OF_ALL,
    (True, True, False): DELAYED_OF_ALL,
    (True, True, True): NEWEST_DELAYED_OF_ALL,
}


async def list_messages(
    database: Database,
    workflow_id: str | None,
    *,
    topic: str | Topic[Any] | None,
    status: str | None,
    newest_first: bool,
    payloads: bool,
    limit: int,
    after: UUID | str | None,
    cursor: str | None,
) -> list[Message]:
    """The messages of a workflow, or of all, that fit every filter, the oldest or the newest first."""
    workflow_id = check_optional_key(workflow_id, "workflow_id")
    status = None if status is None else check_choice(status, STATUSES, "status")
    if workflow_id is None and status not in STATUSES_OF_ALL:
        raise InvalidArgumentError(
            "Of all workflows list_messages lists those messages that wait, were rejected or are delayed: give a workflow_id,"
            " or status 'waiting', 'rejected' or 'delayed'."
        )
    newest_first, payloads = check_flag(newest_first, "newest_first"), check_flag(payloads, "payloads")
    limit = check_int(limit, 1, "limit")
    name = None if topic is None else key_and_type(topic, Topic)[0]
    before, of = None, ("list_messages", workflow_id, name, status, newest_first)
    after_id = None if after is None else check_message_id(after)
    if cursor is not None:
        if after_id is not None:
            raise InvalidArgumentError("after and cursor both say where the page begins: give one of them.")
        before = Cursor.of(cursor, int)
    elif after_id is not None:
        before = database.pages.find(of, str(after_id))
    columns = (None,) * 6 if before is None else (*before[:5], *before.position)
    row = workflow_id, name, status, payloads, limit, after_id if before is None else None, *columns

    async def find() -> list[Message]:
        statement = _LISTS[workflow_id is None, status == "delayed", newest_first]
        records = await database.call(statement, [row], partition=workflow_id or "")
        if workflow_id is not None and not records[0]["known"]:
            raise WorkflowNotFoundError(workflow_id)
        if records[0]["is_unknown"]:
            raise unknown_after(after)
        found = [(record, Cursor.after(before, record, (record["seq"],))) for record in records if record["id"]]
        if found:
            database.pages.remember(of, str(found[-1][0]["id"]), found[-1][1])
        return [message_of(record, cursor.text) for record, cursor in found]

    found: list[Message] = await read(database, "list_messages", workflow_id or "", find, list[Message])
    return found


async def redeliver(database: Database, rejected_id: UUID | str) -> None:
    """Append a copy of a rejected message to its queue."""
    message_id, copy_id = check_message_id(rejected_id), ordered_id()

    async def find() -> None:
        for _, destination_id, topic, received_at, is_rejected, has_ended, step in await database.call(
            FIND, [(message_id,)], partition=""
        ):
            _check(message_id, destination_id, received_at, is_rejected, has_ended, step)
            digest = message_key(destination_id, topic)
            row = message_id, copy_id, digest
            if await database.call(REDELIVER, [row], partition=destination_id, wakes=[digest]):
                return
            _refuse_ended(message_id, destination_id, step)
        raise MessageNotFoundError(str(message_id))

    await read(database, "redeliver", str(message_id), find)


def _check(
    message_id: UUID,
    destination_id: str,
    received_at: datetime | None,
    is_rejected: bool,
    has_ended: bool,
    step: str | None,
) -> None:
    if received_at is None:
        raise RedeliveryError(str(message_id), f"still waits for workflow {destination_id!r}", "leave it there")
    if not is_rejected:
        problem = f"was received by {_receiver(step)} of workflow {destination_id!r} and not rejected"
        raise RedeliveryError(str(message_id), problem, "send another message")
    if has_ended:
        _refuse_ended(message_id, destination_id, step)


def _refuse_ended(message_id: UUID, destination_id: str, step: str | None) -> NoReturn:
    problem = f"was rejected by {_receiver(step)} of workflow {destination_id!r}, which has ended"
    if step is None:
        raise RedeliveryError(str(message_id), problem, "send another message to another workflow")
    start = step if step.isdecimal() else repr(step)
    advice = f"DBOS.fork_workflow({destination_id!r}, {start}) makes a copy of the workflow that receives it again"
    raise RedeliveryError(str(message_id), problem, advice)


def _receiver(step: str | None) -> str:
    """Who has received a message: the steps of earlier generations are not there any more."""
    return "an earlier generation" if step is None else f"step {step}"


def check_message_id(message_id: UUID | str) -> UUID:
    """Return the id of a message."""
    try:
        return message_id if isinstance(message_id, UUID) else UUID(message_id)
    except (ValueError, AttributeError, TypeError):
        raise InvalidArgumentError(f"The id of a message is a UUID, and {excerpt(message_id)} is not.") from None


def message_of(record: Any, cursor: str | None = None) -> Message:
    """The message of a row of the database, as people see it."""
    fields = {name: record[name] for name in Message.model_fields if name != "cursor"}
    fields["payload"] = display_value(fields["payload"])
    try:
        fields["headers"] = decode_value(fields["headers"], dict[str, str]) or {}
    except InvalidValueError:  # another program wrote them
        fields["headers"] = {"": fields["headers"]}
    if fields["rejected"] is not None:
        fields["rejected"] = str(decode_error(fields["rejected"]))
    return Message(**fields, cursor=cursor)
