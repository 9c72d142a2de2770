-- What is looked for again and again: workflows that no executor can run, and deadlines that have passed.

-- name: UNCLAIMABLE
select :n as n, w.name, w.application_version, w.count
from (
    select name, application_version, count(*) as count from dbos_async.workflows
    where status = 'PENDING' and owner is null and created_at < clock_timestamp() - interval '1 minute'
    group by name, application_version
) as w
where not :some_live_executor_knows
order by w.name, w.application_version

-- name: DUE (most int, busy json)
-- The workflows whose deadlines have passed, those whose delayed start is due, and the destinations of messages that are due, but for
-- the busy ones. statement_timestamp() does not change within the statement, so it is a bound for an index.
(select :n as n, 'cancel' as what, id from dbos_async.workflows
 where deadline is not null and ended_at is null and deadline <= statement_timestamp()
 order by deadline limit :most)
union all
(select :n, 'start', id from dbos_async.workflows
 where status = 'DELAYED' and due_at <= statement_timestamp()
 order by due_at limit :most)
union all
select distinct :n, 'move', destination_id
from (
    select destination_id from dbos_async.delayed_messages
    where due_at <= statement_timestamp() and destination_id <> all (array(select json_array_elements_text(:busy)))
    order by due_at limit :most
) as d

-- name: CANCEL_DUE (id text, digest bytea)
-- Cancels the workflows whose deadlines have passed. Rows that others lock at this moment are skipped, until the next time.
with locked as materialized (
    select c.n, c.digest, w.id, w.owner, w.attempt, w.cancel_asked_at is not null as cleans_up
    from (select * from :rows order by id) as c
    cross join lateral (
        select id, owner, attempt, deadline, ended_at, cancel_asked_at from dbos_async.workflows
        where id = c.id for no key update skip locked
    ) as w
    where w.ended_at is null and w.deadline <= clock_timestamp()
),
cancelled as (
    update dbos_async.workflows
    set status = 'CANCELLED', attempt = attempt + 1, ended_at = clock_timestamp()
    where id = any (array(select id from locked))
),
announced as (:tell_of_ends(locked))
select n, id, attempt + 1 as attempt, cleans_up from locked, announced

-- name: BEGIN_DUE (id text, digest bytea)
-- Delayed workflows that are due begin to wait for an executor. Rows that others lock at this moment are skipped, until the next time.
with locked as materialized (
    select c.n, c.digest, w.id
    from (select * from :rows order by id) as c
    cross join lateral (
        select id, status, due_at from dbos_async.workflows where id = c.id for no key update skip locked
    ) as w
    where w.status = 'DELAYED' and w.due_at <= clock_timestamp()
),
begun as (update dbos_async.workflows set status = 'PENDING' where id = any (array(select id from locked))),
announced as (:tell_executors(locked))
select n, id from locked, announced

-- name: MOVE_DUE (destination_id text, most int)
-- The messages of a destination that are due take their places in its queues, in the order of their due times. Several executors may
-- do this at a time: what comes behind a message that another one is moving waits for the next time. A message that is stored
-- already, by a repetition of its send or under its idempotency key, is not stored again. The answer has the keys of what was moved.
with found as materialized (
    select c.n, d.*, row_number() over (partition by c.n order by d.due_at, d.seq) as rank, w.id is not null as is_known
    from :rows
    left join lateral (select id from dbos_async.workflows where id = c.destination_id limit 1) as w on true
    cross join lateral (
        select * from dbos_async.delayed_messages
        where destination_id = c.destination_id and due_at <= statement_timestamp()
        order by due_at, seq limit c.most
    ) as d
),
locked as materialized (
    select f.*, l.id is not null as is_locked
    from (select * from found order by destination_id, rank) as f
    left join lateral (
        select id from dbos_async.delayed_messages where id = f.id and destination_id = f.destination_id for update skip locked
    ) as l on true
),
taken as materialized (
    select * from (select *, bool_and(is_locked) over (partition by n order by rank) as is_first from locked) as l where is_first
),
numbered as materialized (
    select n, id, destination_id, topic, payload, idempotency_key, sender_id, headers, sent_at, digest,
           nextval('dbos_async.message_seq') as seq
    from (select * from taken where is_known order by destination_id, rank) as t
),
removed as (
    delete from dbos_async.delayed_messages
    where id = any (array(select id from taken)) and destination_id = any (array(select destination_id from taken))
),
moved as (
    insert into dbos_async.messages (id, seq, destination_id, topic, payload, idempotency_key, sender_id, headers, sent_at)
    select id, seq, destination_id, topic, payload, idempotency_key, sender_id, headers, sent_at
    from numbered order by destination_id, dbos_async.digest(idempotency_key), seq
    on conflict do nothing
),
announced as (:tell_executors(numbered))
select distinct n, digest from taken, announced
