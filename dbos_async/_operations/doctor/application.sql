-- What the application has in its tables that needs a person. Each statement reads a bounded number of rows.

-- name: SEE_EXECUTORS (most int)
-- Executors, and owners that are none. One is live while its lease runs or its connection holds its lock (leases.sql).
with recursive owners(owner) as (
    (select owner from dbos_async.workflows
     where status = 'PENDING' and owner is not null order by owner limit 1)
    union all
    select (select owner from dbos_async.workflows
            where status = 'PENDING' and owner is not null and owner > o.owner order by owner limit 1)
    from owners as o where o.owner is not null
),
locks as materialized (
    select classid, objid from pg_locks
    where locktype = 'advisory' and granted and objsubid = 1
      and database = (select oid from pg_database where datname = current_database())
),
known as (
    select id, executor_id, started_at, lease_until from dbos_async.executors
    union all
    select owner, null, null, null from owners
    where owner is not null and owner not in (select id from dbos_async.executors)
)
select :n as n, k.id, k.executor_id, k.started_at, coalesce(k.lease_until > clock_timestamp(), false) as has_lease,
       exists (
           select from locks
           where classid::bigint << 32 | objid::bigint = hashtextextended('dbos_async executor ' || k.id, 0)) as has_connection,
       case when k.lease_until > '-infinity' then extract(epoch from clock_timestamp() - k.lease_until)::float8 end as overdue,
       (select count(*) from (
            select from dbos_async.workflows where status = 'PENDING' and owner = k.id limit :most) as w) as workflows
from known as k
order by k.started_at, k.id

-- name: SEE_UNCLAIMABLE (most int)
select :n as n, w.name, w.application_version, w.count
from (
    select name, application_version, count(*) as count
    from (select name, application_version from dbos_async.workflows
          where status = 'PENDING' and owner is null order by name, created_at limit :most) as unowned
    group by name, application_version
) as w
where not :some_live_executor_knows
order by w.count desc, w.name, w.application_version

-- name: SEE_PARKED (most int)
select :n as n, status, count(*) as count, min(id) as example
from (select status, id from dbos_async.workflows
      where status in ('REPLAY_MISMATCH', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED') limit :most) as w
group by status order by status

-- name: SEE_REJECTED (most int)
select :n as n, count(*) as count, (array_agg(topic order by seq desc))[1] as topic,
       (array_agg(destination_id order by seq desc))[1] as destination_id
from (select seq, topic, destination_id from dbos_async.messages where rejected is not null order by seq desc limit :most) as m

-- name: SEE_OVERDUE (late_seconds float8, most int)
-- What executors do at its time, and has not been done.
select :n as n, 'delayed message' as what, count(*) as count, extract(epoch from clock_timestamp() - min(due_at))::float8 as seconds
from (select due_at from dbos_async.delayed_messages
      where due_at < clock_timestamp() - make_interval(secs => :late_seconds) order by due_at limit :most) as d
union all
select :n, 'delayed start', count(*), extract(epoch from clock_timestamp() - min(due_at))::float8
from (select due_at from dbos_async.workflows
      where status = 'DELAYED' and due_at < clock_timestamp() - make_interval(secs => :late_seconds) order by due_at limit :most) as w
union all
select :n, 'deadline', count(*), extract(epoch from clock_timestamp() - min(deadline))::float8
from (select deadline from dbos_async.workflows
      where deadline is not null and ended_at is null and deadline < clock_timestamp() - make_interval(secs => :late_seconds)
      order by deadline limit :most) as w

-- fragment: some_pages(table)
-- In the place of a table: its first and its last pages. A sequence that is behind its table is behind most of its rows.
(select * from :table where ctid < (select ('(' || :pages || ',0)')::tid)
 union all
 select * from :table where ctid >= (
    select ('(' || greatest(pg_relation_size(':table') / current_setting('block_size')::bigint - :pages, 0) || ',0)')::tid))

-- name: SEE_SEQUENCES (pages int)
select :n as n, t.name, t.found, coalesce(s.last_value, 0) as at,
       'select setval(''dbos_async.' || t.name || ''', (select ' || t.highest || ' from dbos_async.' || t.place || '));' as repair
from (
    select 'message_seq' as name, 'messages' as place, 'max(seq)' as highest,
           (select max(seq) from :some_pages(dbos_async.messages) as m) as found
    union all
    select 'event_seq', 'events', 'max(seq)', (select max(seq) from :some_pages(dbos_async.events) as e)
    union all
    select 'delayed_seq', 'delayed_messages', 'max(seq)', (select max(seq) from :some_pages(dbos_async.delayed_messages) as d)
    union all
    select 'workflow_seq', 'workflows', 'max(attempt) / 1000000',
           (select max(attempt) / 1000000 from :some_pages(dbos_async.workflows) as w)
) as t
left join pg_sequences as s on s.schemaname = 'dbos_async' and s.sequencename = t.name
order by t.name
