-- Leases of executors: renewed, found to have expired, and given back.

-- name: RENEW (id text, executor_id text, application_version text, workflow_names json, lease_seconds float8)
with seen as (
    insert into dbos_async.servers (incarnation) select dbos_async.incarnation()
    where not exists (select 1 from dbos_async.servers where incarnation = dbos_async.incarnation())
    on conflict do nothing
)
insert into dbos_async.executors as e (id, executor_id, application_version, workflow_names, lease_until)
select :id, :executor_id, :application_version,
       array(select json_array_elements_text(:workflow_names)),
       clock_timestamp() + make_interval(secs => :lease_seconds)
on conflict (id) do update
    set lease_until = excluded.lease_until, lost_at = null, workflow_names = excluded.workflow_names
returning :n as n, e.xmax = 0 as is_new

-- name: REAP (id text, executor_id text, lease_seconds float8, digest bytea)
-- Finds the expired executors and frees their workflows. After a restart or a promotion of the server no executor holds its lock, and
-- every lease may have run out. Then no executor counts as expired before one whole lease, except those that had come back since.
with others as materialized (
    select e.id, e.lost_at,
           e.lease_until < clock_timestamp() and server.is_settled as expired,
           e.executor_id = :executor_id as replaced,
           (server.is_settled or e.lease_until - server.lease > server.seen_at) and not exists (
               select 1 from pg_locks as l
               where l.locktype = 'advisory' and l.objsubid = 1 and l.granted
                 and l.database = (select d.oid from pg_database as d where d.datname = current_database())
                 and l.classid::bigint << 32 | l.objid::bigint
                     = hashtextextended('dbos_async executor ' || e.id, 0)) as unlocked
    from dbos_async.executors as e, (
        select seen_at, lease, seen_at + lease < clock_timestamp() as is_settled
        from dbos_async.servers, make_interval(secs => :lease_seconds) as lease
        where incarnation = dbos_async.incarnation()
    ) as server
    where e.id <> :id
),
noticed as (
    update dbos_async.executors set lost_at = clock_timestamp()
    where id = any (array(select id from others where unlocked and lost_at is null)) and lost_at is null
),
expired_executors as materialized (
    select e.id from dbos_async.executors as e
    where e.id = any (array(
        select id from others
        where expired or (unlocked and (replaced or lost_at + interval '2 seconds' < clock_timestamp()))))
      and (e.lost_at is not null or e.lease_until < clock_timestamp()
           or e.executor_id = :executor_id)
    for update skip locked
),
reaped as (
    delete from dbos_async.executors where id = any (array(select id from expired_executors))
),
freed as (
    update dbos_async.workflows as w
    set owner = null,
        recoveries = case when exists (
            select 1 from dbos_async.steps as s where s.workflow_id = w.id
              and s.completed_at > w.claimed_at and s.completed_at <= clock_timestamp())
            then 1 else w.recoveries + 1 end
    where w.status = 'PENDING' and w.owner = any (array(select id from expired_executors))
    returning w.id
),
announced as (
    select dbos_async.announce(:digest) where exists (select 1 from freed)
)
select :n as n, (select count(*) from expired_executors) as executors, (select count(*) from freed) as workflows
from (select 1) as one left join announced on true

-- name: GIVE_BACK (id text, digest bytea)
with gone as (
    delete from dbos_async.executors where id = :id
),
freed as (
    update dbos_async.workflows set owner = null
    where status = 'PENDING' and owner = :id
    returning id
),
announced as (
    select dbos_async.announce(:digest) where exists (select 1 from freed)
)
select :n as n, (select count(*) from freed) as workflows
from (select 1) as one left join announced on true
