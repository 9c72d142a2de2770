"""Messages: one workflow's queues, a queue a topic, filled by anybody and emptied by the workflow alone.

A send is one statement: it records the sender's step, stores the messages and announces them. A receive is one
statement too: it picks the oldest unreceived message, records the receiver's step with it, and marks it received.
The step's row decides: where it was there already, nothing is stored and nothing is taken.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from dbos_async import _codec
from dbos_async._abandoned import Abandonable, settled
from dbos_async._batch import Answer, Statement
from dbos_async._context import Position, StepBody, assigned, caller, in_workflow
from dbos_async._database import Database
from dbos_async._ids import ordered_id
from dbos_async._steps import Acting, Done, Step, act, author_columns
from dbos_async._transaction import call_inside, check_answer, check_connection
from dbos_async._wakeups import message_key
from dbos_async.envelope import Envelope, SendMessage
from dbos_async.errors import InvalidArgumentError, InvalidMessageError, InvalidValueError
from dbos_async.keys import Topic, check_key, check_seconds, key_and_type

SEND = Statement(
    "SEND",
    """
    -- A row a message; the messages of one call have one sender's step and are stored all or none.
    with letters as materialized (
        select l.*, d.id is not null and (not d.has_ended or held.id is not null) as known
        from unnest($1::int[], $2::text[], $3::bigint[], $4::text[], $5::int[], $6::text[], $7::text[],
                    $8::uuid[], $9::text[], $10::text[], $11::json[], $12::text[], $13::json[], $14::bytea[])
            with ordinality as l(n, sender_id, attempt, branch, number, verb, step_key,
                                 id, destination_id, topic, payload, idempotency_key, headers, digest, place)
        left join lateral (
            select w.id, w.ended_at is not null as has_ended
            from dbos_async.workflows as w where w.id = l.destination_id limit 1
        ) as d on true
        -- One that has ended may be deleted at this moment: whoever comes first is seen by the other.
        left join lateral (
            select w.id from dbos_async.workflows as w where w.id = l.destination_id and d.has_ended for key share
        ) as held on true
    ),
    calls as materialized (
        select c.*,
               case when c.sender_id is null then true
                    when c.number is null then coalesce(held.attempt = c.attempt and held.status = 'PENDING', false)
                    else coalesce(w.attempt = c.attempt and w.status = 'PENDING', false) end as holds,
               s.verb as recorded_verb, s.key as recorded_key, s.error as recorded_error
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
        left join lateral (
            select verb, key, error from dbos_async.steps
            where workflow_id = c.sender_id and branch = c.branch and number = c.number limit 1
        ) as s on true
    ),
    recorded as (
        insert into dbos_async.steps (workflow_id, branch, number, verb, key, error, completed_at)
        select sender_id, branch, number, verb, step_key,
               case when unknown_id is not null then json_build_object(
                   'type', 'dbos_async.errors:WorkflowNotFoundError', 'args', json_build_array(unknown_id)) end,
               clock_timestamp()
        from calls where number is not null and holds and recorded_verb is null
        order by sender_id, branch, number
        on conflict do nothing
        returning workflow_id, branch, number
    ),
    outcomes as materialized (
        select n, unknown_id, recorded_verb, recorded_key, recorded_error,
               case when not holds then 'lost'
                    when recorded_verb is not null then 'recorded'
                    when number is null
                         or (sender_id, branch, number) in (select workflow_id, branch, number from recorded) then 'done'
                    else 'again' end as outcome
        from calls
    ),
    -- Places in the queue are drawn in the order of the calls, keys are locked in the order of their names.
    drawn as materialized (
        select l.*, nextval('dbos_async.message_seq') as seq
        from (
            select * from letters
            where (n in (select n from outcomes where outcome = 'done' and unknown_id is null)) is true
            order by place
        ) as l
    ),
    sent as (
        insert into dbos_async.messages
            (id, seq, destination_id, topic, payload, idempotency_key, sender_id, headers)
        select id, seq, destination_id, topic, payload, idempotency_key, sender_id, headers
        from drawn order by destination_id, dbos_async.digest(idempotency_key), seq
        on conflict do nothing
    ),
    announced as (select dbos_async.announce(array_agg(digest)) from drawn)
    select n, outcome, null::json as output,
           case when outcome = 'recorded' then recorded_error
                when unknown_id is not null then json_build_object(
                    'type', 'dbos_async.errors:WorkflowNotFoundError', 'args', json_build_array(unknown_id)) end as error,
           recorded_verb, recorded_key
    from outcomes, announced
    """,
)

TAKE = Statement(
    "TAKE",
    """
    with calls as materialized (
        select c.*, coalesce(w.attempt = c.attempt and w.status = 'PENDING', false) as holds,
               s.verb as recorded_verb, s.key as recorded_key, s.output as recorded_output, s.error as recorded_error,
               s.message_id as recorded_message_id, s.completed_at,
               case when s.verb is null then clock_timestamp() + make_interval(secs => c.timeout_seconds)
                    else s.deadline end as deadline
        from unnest($1::int[], $2::text[], $3::bigint[], $4::text[], $5::int[], $6::text[], $7::text[], $8::float8[])
            as c(n, workflow_id, attempt, branch, number, verb, topic, timeout_seconds)
        left join lateral (
            select attempt, status from dbos_async.workflows where id = c.workflow_id limit 1
        ) as w on true
        left join lateral (
            select verb, key, output, error, message_id, deadline, completed_at from dbos_async.steps
            where workflow_id = c.workflow_id and branch = c.branch and number = c.number limit 1
        ) as s on true
    ),
    turns as materialized (
        select *, row_number() over (partition by workflow_id, topic order by n) as turn
        from calls
        where holds and completed_at is null
          and (recorded_verb is null or (recorded_verb = verb and recorded_key = topic))
    ),
    -- Receives side by side take side by side: the second one skips what the first one picks.
    decided as materialized (
        select t.*, m.id as message_id,
               m.id is null and coalesce(t.deadline <= clock_timestamp(), false) as due,
               case when t.verb = 'recv' then m.payload
                    when m.id is not null then json_build_object(
                        'id', m.id, 'destination_id', t.workflow_id, 'topic', nullif(t.topic, ''), 'payload', m.payload,
                        'sender_id', m.sender_id, 'sent_at', m.sent_at, 'headers', coalesce(m.headers, '{}')) end as output
        from (select * from turns order by workflow_id, topic, turn) as t
        left join lateral (
            select id, payload, sender_id, sent_at, headers from dbos_async.messages
            where destination_id = t.workflow_id and topic_digest = dbos_async.digest(t.topic) and received_at is null
            order by seq offset t.turn - 1 limit 1
            for update
        ) as m on true
    ),
    recorded as (
        insert into dbos_async.steps as s
            (workflow_id, branch, number, verb, key, output, message_id, deadline, completed_at)
        select workflow_id, branch, number, verb, topic, output, message_id, deadline,
               case when message_id is not null or due then clock_timestamp() end
        from decided
        where message_id is not null or due or recorded_verb is null
        order by workflow_id, branch, number
        on conflict (workflow_id, branch, number) do update
            set output = excluded.output, message_id = excluded.message_id, completed_at = excluded.completed_at
            where s.completed_at is null and excluded.completed_at is not null
              and s.verb = excluded.verb and s.key = excluded.key
        returning workflow_id, branch, number
    ),
    outcomes as materialized (
        select d.n, d.message_id, d.output, d.deadline,
               case when (d.workflow_id, d.branch, d.number) in (select workflow_id, branch, number from recorded)
                    then case when d.message_id is not null or d.due then 'done' else 'wait' end
                    when d.message_id is null and not d.due and d.recorded_verb is not null then 'wait'
                    else 'again' end as outcome
        from decided as d
    ),
    received as (
        -- Found by their ids alone: these rows are locked, and they were unreceived when they were.
        update dbos_async.messages set received_at = clock_timestamp()
        where id = any (array(select message_id from outcomes where outcome = 'done' and message_id is not null))
    )
    select n, outcome, output, null::json as error,
           extract(epoch from deadline - clock_timestamp())::float8 as seconds_left,
           null::text as recorded_verb, null::text as recorded_key, message_id
    from outcomes
    union all
    select n, case when holds then 'recorded' else 'lost' end, recorded_output, recorded_error, null,
           recorded_verb, recorded_key, recorded_message_id
    from calls
    where not (holds and completed_at is null
               and (recorded_verb is null or (recorded_verb = verb and recorded_key = topic)))
    """,
)

PUT_BACK = Statement(
    "PUT_BACK",
    """
    -- A receive was abandoned after it had taken its message: the message is unreceived, and the step has begun and not ended.
    -- There is no row that could decide, so it holds on to its workflow until the commit.
    with calls as materialized (
        select c.*, coalesce(held.attempt = c.attempt and held.status = 'PENDING', false) as holds
        from (
            select * from unnest($1::int[], $2::text[], $3::bigint[], $4::text[], $5::int[], $6::text[], $7::text[], $8::uuid[])
                as c(n, workflow_id, attempt, branch, number, verb, topic, message_id)
            order by workflow_id, branch, number
        ) as c
        left join lateral (
            select attempt, status from dbos_async.workflows where id = c.workflow_id for share
        ) as held on true
    ),
    undone as (
        -- Always an update, since the row is there. Said as an insert it finds its row by the key alone.
        insert into dbos_async.steps as s (workflow_id, branch, number, verb, key, message_id)
        select workflow_id, branch, number, verb, topic, message_id from calls
        where holds
        order by workflow_id, branch, number
        on conflict (workflow_id, branch, number) do update
            set output = null, message_id = null, completed_at = null
            where s.message_id = excluded.message_id
        returning workflow_id, branch, number
    ),
    unreceived as (
        update dbos_async.messages set received_at = null
        where id = any (array(
            select message_id from calls
            where (workflow_id, branch, number) in (select workflow_id, branch, number from undone)))
    )
    select n from calls
    """,
)


async def send(database: Database, message: SendMessage, connection: Any = None) -> None:
    """Store one message."""
    letter = _letter(message, "send")
    topic = f" ({letter.topic})" if letter.topic else ""
    await _send(database, "send", f"{letter.destination_id}{topic}", [letter], connection)


async def send_bulk(database: Database, messages: Sequence[SendMessage], connection: Any = None) -> None:
    """Store all messages, or none."""
    letters = [_letter(message, f"Message {place} of send_bulk") for place, message in enumerate(messages)]
    if letters:
        await _send(database, "send_bulk", f"{len(letters)} messages", letters, connection)


async def _send(database: Database, verb: str, step_key: str, letters: Sequence[_Letter], connection: Any) -> None:
    here = caller(database)
    if connection is not None:
        check_connection(connection, here, verb)
    ticket = assigned.get()
    if here is None and ticket is not None:
        letters = [
            letter if letter.idempotency_key else letter._replace(idempotency_key=ticket.key_of_send(place))
            for place, letter in enumerate(letters)
        ]
    author = Step(here, verb, step_key) if isinstance(here, Position) else here
    columns = (*author_columns(author), verb, step_key)
    rows = [(*columns, *letter) for letter in letters]
    size = sum(len(letter.payload) for letter in letters)
    wakes = [letter.digest for letter in letters]
    misfit = next(filter(None, (_too_large(letter, database.max_payload_bytes) for letter in letters)), None)
    if misfit is not None and not isinstance(author, Step):
        raise misfit
    if connection is not None:
        answer = await call_inside(connection, SEND, rows)
        await check_answer(answer, here if isinstance(here, StepBody) else None)
        Done(None, answer[0]["error"]).value()
    elif author is None:
        answer = await database.call(SEND, rows, lane=letters[0].destination_id, size=size, wakes=wakes)
        Done(None, answer[0]["error"]).value()
    else:
        await act(database, author, SEND, rows, verb=verb, size=size, wakes=wakes, misfit=misfit)


async def recv(database: Database, topic: str | Topic[Any] | None, timeout_seconds: float | None) -> Any:
    """Take the oldest unreceived message of the topic, ``None`` when none came in time."""
    name, declared = _topic(topic)
    step, done = await _take(database, "recv", name, timeout_seconds)
    return await step.accept(done, lambda text: _read(text, declared, name, done))


async def recv_envelope(
    database: Database, topic: str | Topic[Any] | None, timeout_seconds: float | None
) -> Envelope[Any] | None:
    """Take the oldest unreceived message of the topic together with what is known of it."""
    name, declared = _topic(topic)
    step, done = await _take(database, "recv_envelope", name, timeout_seconds)
    kind = Envelope.__class_getitem__(declared)
    envelope: Envelope[Any] | None = await step.accept(done, lambda text: _read(text, kind, name, done))
    return envelope


async def _take(database: Database, verb: str, topic: str, timeout_seconds: float | None) -> tuple[Step, Done]:
    seconds = check_seconds(timeout_seconds)
    step = Step(in_workflow(caller(database), verb), verb, topic)
    run, name = step.run, (*step.columns, verb, topic)
    key = message_key(run.workflow_id, topic)

    def put_back(message_id: UUID) -> asyncio.Future[Answer]:
        return database.call(PUT_BACK, [(*name, message_id)], lane=run.workflow_id, wakes=[key], patient=True)

    take = Abandonable(run, put_back)
    try:
        if run.abandoned or run.returning:
            with Acting(run, verb):
                await settled(run)
        return step, await step.perform(TAKE, [(*name, seconds)], watch=[key], answered=take.answered)
    except asyncio.CancelledError:
        take.abandon()
        raise


def _read(text: str | None, declared: Any, topic: str, done: Done) -> Any:
    of_topic = f" of topic {topic!r}" if topic else ""
    message_id = str(done.message_id)
    error = functools.partial(InvalidMessageError, message_id=message_id)
    return _codec.decode(text, declared, what=f"The received message {message_id}{of_topic}", error=error)


class _Letter(NamedTuple):
    id: UUID
    destination_id: str
    topic: str
    payload: str
    idempotency_key: str | None
    headers: str | None
    digest: bytes


def _letter(message: SendMessage, what: str) -> _Letter:
    if not isinstance(message, SendMessage):
        raise InvalidArgumentError(f"{what} must be a SendMessage and is a {type(message).__name__}.")
    destination_id = check_key(message.destination_id, f"{what}: its destination_id")
    topic, declared = _topic(message.topic)
    payload = _codec.encode(
        message.message, declared, what=f"The message to {destination_id!r}", error=InvalidMessageError
    )
    key = message.idempotency_key
    if key is not None:
        check_key(key, f"{what}: its idempotency_key")
    headers = _headers(message.headers, what)
    return _Letter(ordered_id(), destination_id, topic, payload, key, headers, message_key(destination_id, topic))


def _too_large(letter: _Letter, most: int) -> InvalidValueError | None:
    what = f"The message to {letter.destination_id!r}"
    return _codec.too_large(letter.payload, most, what, InvalidMessageError) or _codec.too_large(
        letter.headers or "", most, f"{what}: its headers", InvalidMessageError
    )


def _headers(headers: Mapping[str, str] | None, what: str) -> str | None:
    if not headers:
        return None
    return _codec.encode(dict(headers), dict[str, str], what=f"{what}: its headers", error=InvalidMessageError)


def _topic(topic: str | Topic[Any] | None) -> tuple[str, Any]:
    return ("", Any) if topic is None else key_and_type(topic, "A topic")
