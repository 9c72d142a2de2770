"""Messages: one workflow's queues, a queue a topic, filled by anybody and emptied by the workflow alone.

A send is one statement: it records the sender's step, stores the messages and announces them. The step's row decides: where
it was there already, nothing is stored. A receive that waits in the same process is handed its message by that statement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from dbos_async._database.calls import Call, Row
from dbos_async._database.database import Database
from dbos_async._database.statement import optimistic
from dbos_async._database.wakeups import message_key
from dbos_async._messaging.handoff import NO_RECEIVER, Handoff, executor_without_announcement, take_up_offer
from dbos_async._runs.context import calling_context
from dbos_async._runs.issue import Caller, call_by, caller_columns, caller_in, issue
from dbos_async._runs.start_options import assigned
from dbos_async._runs.transaction import check_connection
from dbos_async._serialization.ids import ordered_id
from dbos_async._serialization.values import encode_value, size_error
from dbos_async.envelope import SendMessage
from dbos_async.errors import InvalidArgumentError, InvalidMessageError, InvalidValueError
from dbos_async.keys import check_key, topic_and_type

SEND = optimistic(
    "SEND",
    """
    -- One message of a workflow, or to a receive that waits in the sender's process.
    with calls as materialized (
        select c.*, s.verb as recorded_verb, s.key as recorded_key, s.error as recorded_error,
               d.id is not null and (not d.has_ended or kept.id is not null) as known,
               -- Who runs in the sender's process is woken there, and nobody else waits for its messages.
               case when c.here = d.owner then null else c.digest end as announcement,
               case when not case when c.sender_id is null then true
                                  when c.number is null then coalesce(held.attempt = c.attempt and held.status = 'PENDING', false)
                                  else coalesce(w.attempt = c.attempt and w.status = 'PENDING', false) end then 'lost'
                    when s.verb is not null then 'recorded' else 'done' end as outcome
        from unnest($1::int[], $2::text[], $3::bigint[], $4::text[], $5::int[], $6::text[], $7::text[],
                    $8::uuid[], $9::text[], $10::text[], $11::json[], $12::json[], $13::bytea[], $14::text[],
                    $15::bigint[], $16::text[], $17::int[])
            as c(n, sender_id, attempt, branch, number, verb, step_key,
                 id, destination_id, topic, payload, headers, digest, here, taker_attempt, taker_branch, taker_number)
        left join lateral (
            select w.id, w.owner, w.ended_at is not null as has_ended
            from dbos_async.workflows as w where w.id = c.destination_id limit 1
        ) as d on true
        -- One that has ended may be deleted at this moment: whoever comes first is seen by the other.
        left join lateral (
            select w.id from dbos_async.workflows as w where w.id = c.destination_id and d.has_ended for key share
        ) as kept on true
        left join lateral (
            select attempt, status from dbos_async.workflows where id = c.sender_id and c.number is not null limit 1
        ) as w on true
        -- The inside of a step has no row that could decide, so it holds on to its workflow until the commit.
        left join lateral (
            select attempt, status from dbos_async.workflows where id = c.sender_id and c.number is null for share
        ) as held on true
        left join lateral (the recorded step) as s on true
    ),
    recorded as (
        insert into dbos_async.steps (workflow_id, branch, number, verb, key, error, completed_at)
        select sender_id, branch, number, verb, step_key,
               case when not known then json_build_object(
                   'type', 'dbos_async.errors:WorkflowNotFoundError', 'args', json_build_array(destination_id)) end,
               clock_timestamp()
        from calls where outcome = 'done' and number is not null
        order by sender_id, branch, number
    ),
    drawn as materialized (
        select *, nextval('dbos_async.message_seq') as seq from calls where outcome = 'done' and known
    ),
    -- The receive that waits takes its message at once, unless another one comes before that.
    takers as materialized (
        select d.*
        from drawn as d
        cross join lateral (
            select attempt, status from dbos_async.workflows where id = d.destination_id limit 1
        ) as w
        left join lateral (
            select id from dbos_async.messages
            where destination_id = d.destination_id and topic_digest = dbos_async.digest(d.topic) and received_at is null
            limit 1
        ) as earlier on true
        where d.taker_number is not null and w.attempt = d.taker_attempt and w.status = 'PENDING' and earlier.id is null
          and not exists (
                select from drawn as o where o.destination_id = d.destination_id and o.topic = d.topic and o.seq < d.seq)
    ),
    delivered as (
        insert into dbos_async.steps as s
            (workflow_id, branch, number, verb, key, output, message_id, completed_at)
        select destination_id, taker_branch, taker_number, 'recv', topic, payload, id, clock_timestamp()
        from takers order by destination_id, taker_branch, taker_number
        on conflict (workflow_id, branch, number) do update
            set output = excluded.output, message_id = excluded.message_id, completed_at = excluded.completed_at
            where s.completed_at is null and s.verb = excluded.verb and s.key = excluded.key
        returning message_id
    ),
    sent as (
        insert into dbos_async.messages (id, seq, destination_id, topic, payload, sender_id, headers, received_at)
        select id, seq, destination_id, topic, payload, sender_id, headers,
               case when id in (select message_id from delivered) then clock_timestamp() end
        from drawn
        on conflict do nothing -- when it is repeated
    ),
    announced as (select dbos_async.announce(string_agg(distinct announcement, '')) from drawn)
    select n, outcome, null::json as output,
           case when outcome = 'recorded' then recorded_error
                when not known then json_build_object(
                    'type', 'dbos_async.errors:WorkflowNotFoundError', 'args', json_build_array(destination_id)) end as error,
           recorded_verb, recorded_key, id in (select message_id from delivered) as delivered
    from calls, announced
    """,
    whose="sender_id",
)

SEND_EXTERNAL = optimistic(
    "SEND_EXTERNAL",
    """
    -- The same for a sender that is no workflow: there is no step to record.
    with letters as materialized (
        select l.*, d.id is not null and (not d.has_ended or held.id is not null) as known,
               case when l.here = d.owner then null else l.digest end as announcement
        from unnest($1::int[], $2::uuid[], $3::text[], $4::text[], $5::json[], $6::json[], $7::bytea[], $8::text[])
            as l(n, id, destination_id, topic, payload, headers, digest, here)
        left join lateral (
            select w.id, w.owner, w.ended_at is not null as has_ended
            from dbos_async.workflows as w where w.id = l.destination_id limit 1
        ) as d on true
        left join lateral (
            select w.id from dbos_async.workflows as w where w.id = l.destination_id and d.has_ended for key share
        ) as held on true
    ),
    sent as (
        insert into dbos_async.messages (id, seq, destination_id, topic, payload, headers)
        select id, nextval('dbos_async.message_seq'), destination_id, topic, payload, headers from letters where known
        on conflict do nothing -- when it is repeated
    ),
    announced as (select dbos_async.announce(string_agg(distinct announcement, '')) from letters where known)
    select n, 'done' as outcome, null::json as output,
           case when not known then json_build_object(
               'type', 'dbos_async.errors:WorkflowNotFoundError', 'args', json_build_array(destination_id)) end as error
    from letters, announced
    """,
)

SEND_BULK = optimistic(
    "SEND_BULK",
    """
    -- The same for several messages with one sender's step, a row each: they are stored all or none. And for those with a key.
    with letters as materialized (
        select l.*, d.id is not null and (not d.has_ended or held.id is not null) as known, twin.id is not null as has_come,
               -- Who runs in the sender's process is woken there, and nobody else waits for its messages.
               case when l.here = d.owner then null else l.digest end as announcement
        from unnest($1::int[], $2::text[], $3::bigint[], $4::text[], $5::int[], $6::text[], $7::text[],
                    $8::uuid[], $9::text[], $10::text[], $11::json[], $12::json[], $13::bytea[], $14::text[],
                    $15::text[])
            with ordinality as l(n, sender_id, attempt, branch, number, verb, step_key,
                                 id, destination_id, topic, payload, headers, digest, here, idempotency_key, place)
        left join lateral (
            select w.id, w.owner, w.ended_at is not null as has_ended
            from dbos_async.workflows as w where w.id = l.destination_id limit 1
        ) as d on true
        -- One that has ended may be deleted at this moment: whoever comes first is seen by the other.
        left join lateral (
            select w.id from dbos_async.workflows as w where w.id = l.destination_id and d.has_ended for key share
        ) as held on true
        left join lateral (
            select m.id from dbos_async.messages as m
            where m.destination_id = l.destination_id and l.idempotency_key is not null
              and m.idempotency_digest = dbos_async.digest(l.idempotency_key) limit 1
        ) as twin on true
    ),
    calls as materialized (
        select c.*, s.verb as recorded_verb, s.key as recorded_key, s.error as recorded_error,
               case when not case when c.sender_id is null then true
                                  when c.number is null then coalesce(held.attempt = c.attempt and held.status = 'PENDING', false)
                                  else coalesce(w.attempt = c.attempt and w.status = 'PENDING', false) end then 'lost'
                    when s.verb is not null then 'recorded' else 'done' end as outcome
        from (
            select n, sender_id, attempt, branch, number, verb, step_key,
                   min(destination_id) filter (where not known) as unknown_id
            from letters group by n, sender_id, attempt, branch, number, verb, step_key
        ) as c
        left join lateral (
            select attempt, status from dbos_async.workflows where id = c.sender_id and c.number is not null limit 1
        ) as w on true
        -- The inside of a step has no row that could decide, so it holds on to its workflow until the commit.
        left join lateral (
            select attempt, status from dbos_async.workflows where id = c.sender_id and c.number is null for share
        ) as held on true
        left join lateral (the recorded step) as s on true
    ),
    recorded as (
        insert into dbos_async.steps (workflow_id, branch, number, verb, key, error, completed_at)
        select sender_id, branch, number, verb, step_key,
               case when unknown_id is not null then json_build_object(
                   'type', 'dbos_async.errors:WorkflowNotFoundError', 'args', json_build_array(unknown_id)) end,
               clock_timestamp()
        from calls where outcome = 'done' and number is not null
        order by sender_id, branch, number
    ),
    -- Places in the queue are drawn in the order of the calls, keys are locked in the order of their names.
    drawn as materialized (
        select l.*, nextval('dbos_async.message_seq') as seq
        from (
            select * from letters
            where (n in (select n from calls where outcome = 'done' and unknown_id is null)) is true
            order by place
        ) as l
    ),
    sent as (
        insert into dbos_async.messages
            (id, seq, destination_id, topic, payload, idempotency_key, sender_id, headers)
        select id, seq, destination_id, topic, payload, idempotency_key, sender_id, headers
        from drawn where not has_come order by destination_id, dbos_async.digest(idempotency_key), seq
        on conflict do nothing -- when it is repeated
    ),
    announced as (select dbos_async.announce(string_agg(distinct announcement, '')) from drawn)
    select n, outcome, null::json as output,
           case when outcome = 'recorded' then recorded_error
                when unknown_id is not null then json_build_object(
                    'type', 'dbos_async.errors:WorkflowNotFoundError', 'args', json_build_array(unknown_id)) end as error,
           recorded_verb, recorded_key
    from calls, announced
    """,
    whose="sender_id",
)


async def send(database: Database, message: SendMessage, connection: Any = None) -> None:
    """Store one message."""
    local_executor_id = executor_without_announcement(database, connection)
    outgoing = _outgoing(message, "send", local_executor_id)
    topic = f" ({outgoing.topic})" if outgoing.topic else ""
    await _send(database, "send", f"{outgoing.destination_id}{topic}", [outgoing], connection)


async def send_bulk(database: Database, messages: Sequence[SendMessage], connection: Any = None) -> None:
    """Store all messages, or none."""
    local_executor_id = executor_without_announcement(database, connection)
    outgoing = [
        _outgoing(message, f"Message {index} of send_bulk", local_executor_id) for index, message in enumerate(messages)
    ]
    if outgoing:
        await _send(database, "send_bulk", f"{len(outgoing)} messages", outgoing, connection)


async def _send(
    database: Database, verb: str, step_key: str, messages: Sequence[_OutgoingMessage], connection: Any
) -> None:
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
    caller = caller_in(context, verb, step_key)
    may_hand_off = connection is None and invalid is None
    call = _call(database, caller, (*caller_columns(caller), verb, step_key), messages, may_hand_off=may_hand_off)
    (await issue(database, caller, call, verb=verb, connection=connection, invalid=invalid)).value()


def _call(
    database: Database, caller: Caller, columns: Row, messages: Sequence[_OutgoingMessage], *, may_hand_off: bool
) -> Call:
    """The statement that fits: most sends are one message without an idempotency key."""
    first = messages[0]
    handoff: Handoff | None = None
    rows: Sequence[Row]
    if len(messages) > 1 or first.idempotency_key is not None:
        statement, rows = SEND_BULK, [(*columns, *message) for message in messages]
    elif may_hand_off and (
        handoff := take_up_offer(database, first.digest, (*columns, *first.without_key), first.id, first.payload)
    ):
        statement, rows = SEND, handoff.rows
    elif caller is None:
        statement, rows = SEND_EXTERNAL, [first.without_key]
    else:
        statement, rows = SEND, [(*columns, *first.without_key, *NO_RECEIVER)]
    call = call_by(
        caller,
        statement,
        rows,
        about=first.destination_id,
        size=sum(len(message.payload) for message in messages),
        wakes=[message.digest for message in messages],
        observer=handoff,
    )
    if handoff is not None:
        handoff.call = call
    return call


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
    def without_key(self) -> Row:
        """All columns but the idempotency key, for a message that has none."""
        return self[:-1]


def _outgoing(message: SendMessage, what: str, local_executor_id: str | None) -> _OutgoingMessage:
    if not isinstance(message, SendMessage):
        raise InvalidArgumentError(f"{what} must be a SendMessage and is a {type(message).__name__}.")
    destination_id = check_key(message.destination_id, f"{what}: its destination_id")
    topic, declared = topic_and_type(message.topic)
    payload = encode_value(
        message.message, declared, what=f"The message to {destination_id!r}", error=InvalidMessageError
    )
    key = message.idempotency_key
    if key is not None:
        check_key(key, f"{what}: its idempotency_key")
    headers = _headers(message.headers, what)
    digest = message_key(destination_id, topic)
    return _OutgoingMessage(ordered_id(), destination_id, topic, payload, headers, digest, local_executor_id, key)


def _too_large(message: _OutgoingMessage, most: int) -> InvalidValueError | None:
    what = f"The message to {message.destination_id!r}"
    return size_error(message.payload, most, what, InvalidMessageError) or size_error(
        message.headers or "", most, f"{what}: its headers", InvalidMessageError
    )


def _headers(headers: Mapping[str, str] | None, what: str) -> str | None:
    if not headers:
        return None
    return encode_value(dict(headers), dict[str, str], what=f"{what}: its headers", error=InvalidMessageError)
