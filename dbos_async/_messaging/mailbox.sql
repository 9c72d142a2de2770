-- What lies in the queues of a workflow.

-- name: MESSAGES (workflow_id text, topic text, status text, most int, after uuid)
-- Waiting messages are found by their index, received ones by the steps that received them.
select c.n, w.id is not null as known, m.id, m.destination_id, nullif(m.topic, '') as topic, m.payload, m.sender_id,
       m.sent_at, m.headers, m.idempotency_key, m.received_at, m.rejected
from :rows
left join lateral (select id from dbos_async.workflows where id = c.workflow_id limit 1) as w on true
left join lateral (
    select seq from dbos_async.messages where id = c.after and destination_id = c.workflow_id limit 1
) as a on true
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
    select branch, number from dbos_async.steps where workflow_id = m.destination_id and message_id = c.id limit 1
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
    insert into dbos_async.messages (id, seq, destination_id, topic, payload, sender_id, headers, sent_at)
    select copy_id, nextval('dbos_async.message_seq'), destination_id, topic, payload, sender_id, headers, sent_at
    from found
    on conflict do nothing
),
announced as (select dbos_async.announce(:announced_keys(digest)) from found)
select n from found, announced
