-- What lies in the queues of a workflow.

-- fragment: in_this_round
(c.seen is null or not :is_late(m, sent_at, seen, seen_floor)) and (c.shown is null or :is_late(m, sent_at, shown, shown_floor))

-- fragment: goes_on
:in_this_round and (c.from_seq is null or m.seq > c.from_seq)

-- fragment: goes_back
:in_this_round and (c.from_seq is null or m.seq < c.from_seq)

-- fragment: in_next_round
c.seen is not null and :is_late(m, sent_at, seen, seen_floor)

-- fragment: in_next_round_back
-- From the newest to the oldest, a list does not come to what was made after it had begun.
:in_next_round and m.sent_at < c.began

-- fragment: stored
-- Waiting messages are found by their index, received ones by the steps that received them.
m.*, null::timestamptz as due_at from dbos_async.messages as m
where m.id = any (array(
        select id from dbos_async.messages where destination_id = c.workflow_id and received_at is null
        union all
        select message_id from dbos_async.steps where workflow_id = c.workflow_id and message_id is not null))
  and m.destination_id = c.workflow_id
  and (c.status is null or c.status = case when m.received_at is null then 'waiting'
                                           when m.rejected is null then 'received' else 'rejected' end)

-- fragment: still_delayed
m.*, null::timestamptz as received_at, null::json as rejected, null::timestamptz as answered_at from dbos_async.delayed_messages as m
where m.destination_id = c.workflow_id

-- fragment: stored_of_all
-- Those that wait for workflows that have not ended, or those that were rejected: each have an index.
m.*, null::timestamptz as due_at from (
    select * from dbos_async.messages as one
    where c.status = 'waiting' and received_at is null
      and exists (select from dbos_async.workflows as w where w.id = one.destination_id and w.ended_at is null)
    union all
    select * from dbos_async.messages where c.status = 'rejected' and rejected is not null
) as m
where c.workflow_id is null

-- fragment: delayed_of_all
m.*, null::timestamptz as received_at, null::json as rejected, null::timestamptz as answered_at from dbos_async.delayed_messages as m
where c.workflow_id is null

-- fragment: page(table, these, this_round, next_round, direction)
with calls as materialized (
    select c.n, c.workflow_id, c.topic, c.status, c.payloads, c.most, c.shown::pg_snapshot as shown, c.shown_floor,
           c.seen::pg_snapshot as seen, c.seen_floor, c.began, coalesce(c.from_seq, a.seq) as from_seq,
           c.after is not null and a.seq is null as is_unknown, w.id is not null as known, :page_columns
    from :rows
    left join lateral (select id from dbos_async.workflows where id = c.workflow_id limit 1) as w on true
    left join lateral (
        select seq from dbos_async.:table where id = c.after and (c.workflow_id is null or destination_id = c.workflow_id) limit 1
    ) as a on true
)
select c.n, c.known, c.is_unknown, c.snapshot::text as snapshot, c.now, c.floor, m.part, m.seq,
       m.id, m.destination_id, nullif(m.topic, '') as topic, case when c.payloads then m.payload end as payload, m.sender_id,
       m.sent_at, m.headers, m.idempotency_key, m.received_at, m.rejected, m.answered_at, m.due_at
from calls as c
left join lateral (
    select case when :this_round then 0 else 1 end as part, :these
      and (c.topic is null or m.topic = c.topic)
      and (:this_round or :next_round)
    order by part, m.seq :direction limit c.most
) as m on true
order by c.n, m.part, m.seq :direction

-- name: MESSAGES (workflow_id text, topic text, status text, payloads boolean, most int, after uuid, shown text,
--     shown_floor timestamptz, seen text, seen_floor timestamptz, began timestamptz, from_seq bigint)
:page(messages, :stored, :goes_on, :in_next_round, asc)

-- name: NEWEST_MESSAGES (workflow_id text, topic text, status text, payloads boolean, most int, after uuid, shown text,
--     shown_floor timestamptz, seen text, seen_floor timestamptz, began timestamptz, from_seq bigint)
:page(messages, :stored, :goes_back, :in_next_round_back, desc)

-- name: DELAYED_MESSAGES (workflow_id text, topic text, status text, payloads boolean, most int, after uuid, shown text,
--     shown_floor timestamptz, seen text, seen_floor timestamptz, began timestamptz, from_seq bigint)
:page(delayed_messages, :still_delayed, :goes_on, :in_next_round, asc)

-- name: NEWEST_DELAYED_MESSAGES (workflow_id text, topic text, status text, payloads boolean, most int, after uuid, shown text,
--     shown_floor timestamptz, seen text, seen_floor timestamptz, began timestamptz, from_seq bigint)
:page(delayed_messages, :still_delayed, :goes_back, :in_next_round_back, desc)

-- name: MESSAGES_OF_ALL (workflow_id text, topic text, status text, payloads boolean, most int, after uuid, shown text,
--     shown_floor timestamptz, seen text, seen_floor timestamptz, began timestamptz, from_seq bigint)
:page(messages, :stored_of_all, :goes_on, :in_next_round, asc)

-- name: NEWEST_MESSAGES_OF_ALL (workflow_id text, topic text, status text, payloads boolean, most int, after uuid, shown text,
--     shown_floor timestamptz, seen text, seen_floor timestamptz, began timestamptz, from_seq bigint)
:page(messages, :stored_of_all, :goes_back, :in_next_round_back, desc)

-- name: DELAYED_OF_ALL (workflow_id text, topic text, status text, payloads boolean, most int, after uuid, shown text,
--     shown_floor timestamptz, seen text, seen_floor timestamptz, began timestamptz, from_seq bigint)
:page(delayed_messages, :delayed_of_all, :goes_on, :in_next_round, asc)

-- name: NEWEST_DELAYED_OF_ALL (workflow_id text, topic text, status text, payloads boolean, most int, after uuid, shown text,
--     shown_floor timestamptz, seen text, seen_floor timestamptz, began timestamptz, from_seq bigint)
:page(delayed_messages, :delayed_of_all, :goes_back, :in_next_round_back, desc)

-- name: FIND (id uuid)
-- The user gives nothing but the id, so this statement and REDELIVER do not name the destination. If the table were partitioned by
-- workflow, they would look into every partition.
select c.n, m.destination_id, m.topic, m.received_at, m.rejected is not null as is_rejected,
       w.ended_at is not null as has_ended,
       case when s.branch = '' then s.number::text else s.branch || '.' || s.number end as step
from :rows
cross join lateral (select * from dbos_async.messages where id = c.id limit 1) as m
left join lateral (select ended_at from dbos_async.workflows where id = m.destination_id limit 1) as w on true
left join lateral (
    select branch, number from dbos_async.steps
    where workflow_id = m.destination_id and message_id = c.id and number > 0 limit 1  -- others are notes of continue_as_new
) as s on true

-- name: REDELIVER (id uuid, copy_id uuid, digest bytea)
with found as materialized (
    select m.*, c.n, c.copy_id, c.digest
    from :rows
    cross join lateral (select * from dbos_async.messages where id = c.id limit 1) as m
    cross join lateral (
        select id from dbos_async.workflows where id = m.destination_id and ended_at is null for key share
    ) as w
),
appended as (
    insert into dbos_async.messages (id, seq, destination_id, topic, payload, sender_id, headers, sent_at, is_question, copy_of)
    select copy_id, nextval('dbos_async.message_seq'), destination_id, topic, payload, sender_id, headers, sent_at,
           is_question, coalesce(copy_of, id)
    from found
    on conflict do nothing
),
announced as (:tell_executors(found))
select n from found, announced
