-- One workflow as a conversation.

-- fragment: step_path
case when s.branch = '' then s.number::text else s.branch || '.' || s.number end as step

-- name: DESCRIBED_STEPS (workflow_id text, most int, before_time timestamptz, before_branch text, before_number int)
-- The last steps, in the order in which they began, before a place if one is given.
select c.n, s.branch, s.number, :step_path, s.verb, s.key,
       case when s.verb <> 'sleep' and (s.verb <> 'recv' or s.completed_at is not null) then :small(s.output) end as output,
       :small(s.error) as error, :is_large(s.output) or :is_large(s.error) as is_cut, s.started_at,
       case when s.verb <> 'sleep' or s.completed_at <= clock_timestamp() then s.completed_at end as completed_at,
       coalesce(s.deadline, case when s.verb = 'sleep' then s.completed_at end) as deadline,
       s.message_id, nullif(m.topic, '') as topic, m.sender_id, m.sent_at
from :rows
cross join lateral (
    select * from dbos_async.steps
    where workflow_id = c.workflow_id and number > 0
      and (c.before_time is null or (started_at, branch, number) < (c.before_time, c.before_branch, c.before_number))
    order by started_at desc, branch desc, number desc limit c.most
) as s
left join lateral (
    select topic, sender_id, sent_at from dbos_async.messages where id = s.message_id limit 1
) as m on true
order by c.n, s.started_at, s.branch, s.number

-- name: PRESENT_WAITS (workflow_id text, most int)
-- The waits that have begun and not ended. A cancelled wait never ends: a later step of its task tells that it is over.
select c.n, :step_path, s.verb, s.key, s.started_at,
       coalesce(s.deadline, case when s.verb = 'sleep' then s.completed_at end) as deadline
from :rows
cross join lateral (
    select * from dbos_async.steps as w
    where workflow_id = c.workflow_id and number > 0
      and (completed_at is null or (verb = 'sleep' and completed_at > clock_timestamp()))
      and not exists (
            select from dbos_async.steps as later
            where later.workflow_id = w.workflow_id and later.branch = w.branch and later.number > w.number)
    order by started_at, branch, number limit c.most
) as s
order by c.n, s.started_at, s.branch, s.number

-- name: DESCRIBED_COUNTS (workflow_id text)
select c.n, clock_timestamp() as now,
       (select count(*) from dbos_async.steps where workflow_id = c.workflow_id and number > 0) as steps,
       (select count(*) from dbos_async.messages where destination_id = c.workflow_id and received_at is null) as waiting,
       (select count(*) from dbos_async.messages where destination_id = c.workflow_id and rejected is not null) as rejected,
       (select count(*) from dbos_async.delayed_messages where destination_id = c.workflow_id) as delayed,
       (select count(*) from dbos_async.workflows where parent_id = c.workflow_id) as children,
       coalesce((select e.lease_until > clock_timestamp() from dbos_async.workflows as w
                 join dbos_async.executors as e on e.id = w.owner where w.id = c.workflow_id), false) as executor_is_live
from :rows

-- fragment: described_message
m.id, m.destination_id, nullif(m.topic, '') as topic, :small(m.payload) as payload, m.sender_id, m.sent_at, m.headers,
m.idempotency_key, m.received_at, m.rejected, m.answered_at, null::timestamptz as due_at

-- name: DESCRIBED_MESSAGES (workflow_id text, most int)
-- The oldest messages that wait, and the last that were rejected.
select c.n, :described_message
from :rows
cross join lateral (
    select * from (
        select * from dbos_async.messages where destination_id = c.workflow_id and received_at is null order by seq limit c.most
    ) as waiting
    union all
    select * from (
        select * from dbos_async.messages where destination_id = c.workflow_id and rejected is not null order by seq desc limit c.most
    ) as rejected
) as m
order by c.n, m.seq

-- name: DESCRIBED_EVENTS (workflow_id text, most int)
-- The keys are found one after the other, each with one look into the index.
select c.n, e.key, :small(e.value) as value, :is_large(e.value) as is_cut, e.set_at, k.versions
from :rows
cross join lateral (
    with recursive keys(digest, rank) as (
        (select key_digest, 1 from dbos_async.events where workflow_id = c.workflow_id order by key_digest limit 1)
        union all
        select (select key_digest from dbos_async.events
                where workflow_id = c.workflow_id and key_digest > k.digest order by key_digest limit 1), k.rank + 1
        from keys as k where k.digest is not null and k.rank < c.most
    )
    select digest, (select count(*) from dbos_async.events where workflow_id = c.workflow_id and key_digest = digest) as versions
    from keys where digest is not null
) as k
cross join lateral (
    select * from dbos_async.events where workflow_id = c.workflow_id and key_digest = k.digest order by seq desc limit 1
) as e
order by c.n, e.key

-- name: DESCRIBED_STREAMS (workflow_id text, most int)
select c.n, s.key, s."offset" + case when s.closes then 0 else coalesce(s.count, 1) end as end, s.closes as is_closed, s.written_at
from :rows
cross join lateral (
    with recursive keys(digest, rank) as (
        (select key_digest, 1 from dbos_async.stream_entries where workflow_id = c.workflow_id order by key_digest limit 1)
        union all
        select (select key_digest from dbos_async.stream_entries
                where workflow_id = c.workflow_id and key_digest > k.digest order by key_digest limit 1), k.rank + 1
        from keys as k where k.digest is not null and k.rank < c.most
    )
    select digest from keys where digest is not null
) as k
cross join lateral (
    select * from dbos_async.stream_entries
    where workflow_id = c.workflow_id and key_digest = k.digest order by "offset" desc limit 1
) as s
order by c.n, s.key
