"""What lies in the queues of a workflow: every message it was sent, and another try for one that could not be read."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NoReturn
from uuid import UUID

from dbos_async._database.database import Database
from dbos_async._database.statement import Statement
from dbos_async._database.wakeups import message_key
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
from dbos_async.keys import Topic, check_int, check_key, key_and_type

MESSAGES = Statement(
    "MESSAGES",
    """
    -- Those that wait are found by their index, the others by the steps that took them.
    select c.n, w.id is not null as known, m.id, m.destination_id, nullif(m.topic, '') as topic, m.payload, m.sender_id,
           m.sent_at, m.headers, m.idempotency_key, m.received_at, m.rejected
    from unnest($1::int[], $2::text[], $3::text[], $4::text[], $5::int[], $6::uuid[])
        as c(n, workflow_id, topic, status, most, after)
    left join lateral (select id from dbos_async.workflows where id = c.workflow_id limit 1) as w on true
    left join lateral (select seq from dbos_async.messages where id = c.after limit 1) as a on true
    left join lateral (
        select * from dbos_async.messages
        where id = any (array(
                select id from dbos_async.messages where destination_id = c.workflow_id and received_at is null
                union all
                select message_id from dbos_async.steps where workflow_id = c.workflow_id and message_id is not null))
          and destination_id = c.workflow_id
          and (c.topic is null or topic = c.topic)
          and (c.status is null
               or c.status = case when received_at is null then 'waiting' when rejected is null then 'received' else 'rejected' end)
          and (c.after is null or seq > a.seq)
        order by seq limit c.most
    ) as m on true
    order by c.n, m.seq
    """,
    parallelism=1,
)

FIND = Statement(
    "FIND",
    """
    select c.n, m.destination_id, m.topic, m.received_at, m.rejected is not null as is_rejected,
           w.ended_at is not null as has_ended,
           case when s.branch = '' then s.number::text else s.branch || '.' || s.number end as step
    from unnest($1::int[], $2::uuid[]) as c(n, id)
    cross join lateral (select * from dbos_async.messages where id = c.id limit 1) as m
    left join lateral (select ended_at from dbos_async.workflows where id = m.destination_id limit 1) as w on true
    left join lateral (
        select branch, number from dbos_async.steps where workflow_id = m.destination_id and message_id = c.id limit 1
    ) as s on true
    """,
    parallelism=1,
)

REDELIVER = Statement(
    "REDELIVER",
    """
    with found as materialized (
        select m.*, c.n, c.copy_id, c.digest
        from unnest($1::int[], $2::uuid[], $3::uuid[], $4::bytea[]) as c(n, id, copy_id, digest)
        cross join lateral (select * from dbos_async.messages where id = c.id limit 1) as m
        cross join lateral (
            select id from dbos_async.workflows where id = m.destination_id and ended_at is null for key share
        ) as w
    ),
    appended as (
        insert into dbos_async.messages (id, seq, destination_id, topic, payload, sender_id, headers, sent_at)
        select copy_id, nextval('dbos_async.message_seq'), destination_id, topic, payload, sender_id, headers, sent_at
        from found
        on conflict do nothing
    ),
    announced as (select dbos_async.announce(string_agg(distinct digest, '')) from found)
    select n from found, announced
    """,
    parallelism=1,
)

STATUSES = ("waiting", "received", "rejected")


async def list_messages(
    database: Database,
    workflow_id: str,
    *,
    topic: str | Topic[Any] | None,
    status: str | None,
    limit: int,
    after: UUID | str | None,
) -> list[Message]:
    """The messages of a workflow that fit, the oldest first."""
    check_key(workflow_id, "workflow_id")
    if status is not None and status not in STATUSES:
        raise InvalidArgumentError(f"status must be one of {', '.join(STATUSES)} and is {status!r:.100}.")
    check_int(limit, 1, "limit")
    name = None if topic is None else key_and_type(topic, "A topic")[0]
    row = workflow_id, name, status, limit, None if after is None else _id(after)

    async def find() -> list[Message]:
        records = await database.call(MESSAGES, [row], partition=workflow_id)
        if not records[0]["known"]:
            raise WorkflowNotFoundError(workflow_id)
        return [_message(record) for record in records if record["id"] is not None]

    found: list[Message] = await read(database, "list_messages", workflow_id, find, list[Message])
    return found


async def redeliver(database: Database, message_id: UUID | str) -> None:
    """Append a copy of a rejected message to its queue."""
    its_id, copy_id = _id(message_id), ordered_id()

    async def find() -> None:
        for _, destination_id, topic, received_at, is_rejected, has_ended, step in await database.call(
            FIND, [(its_id,)], partition=""
        ):
            _check(its_id, destination_id, received_at, is_rejected, has_ended, step)
            digest = message_key(destination_id, topic)
            row = its_id, copy_id, digest
            if await database.call(REDELIVER, [row], partition=destination_id, wakes=[digest]):
                return
            _refuse_ended(its_id, destination_id, step)
        raise MessageNotFoundError(str(its_id))

    await read(database, "redeliver", str(its_id), find)


def _check(
    its_id: UUID,
    destination_id: str,
    received_at: datetime | None,
    is_rejected: bool,
    has_ended: bool,
    step: str | None,
) -> None:
    if received_at is None:
        raise RedeliveryError(str(its_id), f"still waits for workflow {destination_id!r}", "leave it there")
    if not is_rejected:
        problem = f"was received by step {step} of workflow {destination_id!r} and not rejected"
        raise RedeliveryError(str(its_id), problem, "send another message")
    if has_ended:
        _refuse_ended(its_id, destination_id, step)


def _refuse_ended(its_id: UUID, destination_id: str, step: str | None) -> NoReturn:
    start = step if step is None or step.isdecimal() else repr(step)
    problem = f"was rejected by step {step} of workflow {destination_id!r}, which has ended"
    advice = f"DBOS.fork_workflow({destination_id!r}, {start}) makes a copy of the workflow that receives it again"
    raise RedeliveryError(str(its_id), problem, advice)


def _id(message_id: UUID | str) -> UUID:
    try:
        return message_id if isinstance(message_id, UUID) else UUID(message_id)
    except (ValueError, AttributeError, TypeError):
        raise InvalidArgumentError(f"The id of a message is a UUID, and {message_id!r:.100} is none.") from None


def _message(record: Any) -> Message:
    fields = dict(record)
    del fields["n"], fields["known"]
    fields["payload"] = display_value(fields["payload"])
    try:
        fields["headers"] = decode_value(fields["headers"], dict[str, str]) or {}
    except InvalidValueError:  # somebody else wrote them
        fields["headers"] = {"": fields["headers"]}
    if fields["rejected"] is not None:
        fields["rejected"] = str(decode_error(fields["rejected"]))
    return Message(**fields)
