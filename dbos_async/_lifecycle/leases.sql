-- Leases of executors: renewed, looked at, found to have expired, and given back. Nothing here compares times of the server: an observer
-- notes by its own clock since when a lease has not changed (expiry.py). "lease_until" tells people, and releases before 0.2.

-- name: RENEW (id text, executor_id text, application_version text, workflow_names json, lease_seconds float8, keeps_session boolean)
with moment as materialized (
    select clock_timestamp() as at
),
seen as (
    insert into dbos_async.servers (incarnation, seen_at) select dbos_async.incarnation(), at from moment
    where not exists (select 1 from dbos_async.servers where incarnation = dbos_async.incarnation())
    on conflict do nothing
)
insert into dbos_async.executors as e (id, executor_id, application_version, workflow_names, lease_until, keeps_session)
select :id, :executor_id, :application_version,
       array(select json_array_elements_text(:workflow_names)),
       (select at from moment) + make_interval(secs => :lease_seconds), :keeps_session
on conflict (id) do update
    -- The names that are there stay where they are, outside of the row, if they are many.
    set lease_until = excluded.lease_until, lost_at = null, keeps_session = excluded.keeps_session,
        workflow_names = case when e.workflow_names = excluded.workflow_names then e.workflow_names else excluded.workflow_names end
returning :n as n, e.xmax = 0 as is_new

-- name: OTHERS (id text, lease_seconds float8)
-- All other executors: their leases, whether their liveness locks are held (if they have one), and their beats. After a start or a promotion of the server
-- all connections are gone: for one lease, only those "have come back" that have renewed theirs since. Without others the id is null.
with locks as materialized (
    select classid, objid, objsubid from pg_locks
    where locktype = 'advisory' and granted
      and database = (select oid from pg_database where datname = current_database())
)
select :n as n, server.incarnation, e.id, e.executor_id, e.started_at, e.lease_until, e.keeps_session,
       coalesce(
           server.seen_at + server.lease < clock_timestamp() or e.lease_until - server.lease >= server.seen_at, false
       ) as has_come_back,
       exists (
           select from locks
           where objsubid = 1 and classid::bigint << 32 | objid::bigint
                 = hashtextextended('dbos_async executor ' || e.id, 0)) as is_locked,
       (select max(objid::bigint) from locks
        where objsubid = 2 and classid = hashtext('dbos_async beat ' || e.id)::oid) as beat
from (
    select i.incarnation, make_interval(secs => :lease_seconds) as lease,
           (select seen_at from dbos_async.servers where incarnation = i.incarnation limit 1) as seen_at
    from dbos_async.incarnation() as i(incarnation)
) as server
left join lateral (
    select * from dbos_async.executors where id <> :id
) as e on true

-- name: EXPIRE (id text, lease_until timestamptz)
-- Removes executors whose leases are still those that were seen. The row of one that renews its lease now is skipped.
with expired as materialized (
    select c.n, e.id
    from :rows
    cross join lateral (
        select id, lease_until from dbos_async.executors where id = c.id for update skip locked
    ) as e
    where e.lease_until = c.lease_until
),
removed as (
    delete from dbos_async.executors where id = any (array(select id from expired))
)
select n, id from expired

-- name: FREE (most int, digest bytea)
-- Frees workflows whose owner is no executor any more, or has left. Rows that others lock at this moment are left for the next time.
-- The owners are found one after the other, each with one look into the index.
with recursive owners(owner) as (
    (select owner from dbos_async.workflows
     where status = 'PENDING' and owner is not null order by owner limit 1)
    union all
    select (select owner from dbos_async.workflows
            where status = 'PENDING' and owner is not null and owner > o.owner order by owner limit 1)
    from owners as o where o.owner is not null
),
gone as materialized (
    select o.owner, e.id is not null as has_left
    from owners as o
    left join lateral (
        select id, lease_until from dbos_async.executors where id = o.owner limit 1
    ) as e on true
    where o.owner is not null and (e.id is null or e.lease_until = '-infinity')
),
found as materialized (
    select w.ctid, g.has_left
    from gone as g
    cross join lateral (
        select ctid from dbos_async.workflows
        where status = 'PENDING' and owner = g.owner limit :most for no key update skip locked
    ) as w
),
freed as (
    -- The death of an executor counts. One that has left did not die.
    update dbos_async.workflows as w
    set owner = null,
        recoveries = case
            when w.ctid = any (array(select ctid from found where has_left)) then w.recoveries
            when w.claimed_at > clock_timestamp() or exists (
                select 1 from dbos_async.steps as s where s.workflow_id = w.id
                  and s.completed_at > w.claimed_at and (s.verb <> 'sleep' or s.completed_at <= clock_timestamp()))
            then 1 else w.recoveries + 1 end
    where ctid = any (array(select ctid from found)) and status = 'PENDING'
    returning w.id
),
announced as (
    select dbos_async.notify('__channel___x', :digest) where exists (select 1 from freed)
)
select :n as n, (select count(*) from freed) as workflows
from (select 1) as one left join announced on true

-- name: LEAVE (id text, has_calls_left boolean, digest bytea)
-- Gives back all workflows of an executor that shuts down, and removes it. If calls of it may still commit, or others lock rows of its,
-- the executor stays for a while, with a lease that says that it has left, and FREE does the rest.
with owned as materialized (
    select ctid from dbos_async.workflows where status = 'PENDING' and owner = :id
),
found as materialized (
    select ctid from dbos_async.workflows where status = 'PENDING' and owner = :id for no key update skip locked
),
rest as materialized (
    select :has_calls_left or (select count(*) from found) < (select count(*) from owned) as is_left
),
removed as (
    delete from dbos_async.executors where id = :id and not (select is_left from rest)
),
has_left as (
    update dbos_async.executors set lease_until = '-infinity' where id = :id and (select is_left from rest)
),
freed as (
    update dbos_async.workflows set owner = null
    where ctid = any (array(select ctid from found)) and status = 'PENDING'
    returning id
),
announced as (
    select dbos_async.notify('__channel___x', :digest) where exists (select 1 from freed)
)
select :n as n, (select count(*) from freed) as workflows
from (select 1) as one left join announced on true
