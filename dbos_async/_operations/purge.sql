-- Purging: old workflows are found by the index of the times at which they were made, and removed in small batches.

-- name: FIND_OLD (older_than_seconds float8, cutoff timestamptz, statuses json, names json, from_time timestamptz, from_id text,
--     most int)
-- The next workflows of the walk, of which those are told that are old enough. What ended before the cutoff was made before it. The
-- answer has at least one row: where the walk stands then, which is nowhere when it is over.
with calls as materialized (
    select c.n, c.from_time, c.from_id, c.most,
           coalesce(c.cutoff, statement_timestamp() - make_interval(secs => c.older_than_seconds)) as cutoff,
           array(select json_array_elements_text(c.statuses)) as statuses,
           case when c.names is not null then array(select json_array_elements_text(c.names)) end as names
    from :rows
),
walked as materialized (
    select c.n, c.cutoff, w.id, w.created_at, w.attempt, w.ended_at,
           w.ended_at < c.cutoff and w.status = any (c.statuses) and (c.names is null or w.name = any (c.names)) as is_old
    from calls as c
    cross join lateral (
        select id, name, status, created_at, attempt, ended_at from dbos_async.workflows
        where created_at < c.cutoff
          and (created_at, id) > (coalesce(c.from_time, '-infinity'), coalesce(c.from_id, ''))
        order by created_at, id limit c.most
    ) as w
)
select c.n, c.cutoff, s.created_at as at_time, s.id as at_id, o.created_at, o.id, o.attempt, o.ended_at
from calls as c
left join lateral (select created_at, id from walked where n = c.n order by created_at desc, id desc limit 1) as s on true
left join lateral (select * from walked where n = c.n and is_old order by created_at, id) as o on true

-- name: WRITERS
-- The transactions that write at this moment, and when they began, null where this role may not see that.
select :n as n, l.virtualtransaction as writer, l.pid, a.xact_start as began
from (select distinct virtualtransaction, pid from :writing) as l
left join lateral (select xact_start from pg_stat_get_activity(l.pid) as s where s.pid = l.pid) as a on true

-- name: PURGE (id text, attempt bigint, digest bytea)
-- Removes workflows for about 50 milliseconds, and at least the first one.
with purged as materialized (
    select c.n, c.id, c.digest,
           case when c.index = 1 or clock_timestamp() < statement_timestamp() + interval '50 milliseconds'
                then dbos_async.purge_workflow(c.id, c.attempt) else 'later' end as outcome
    from :rows_with_index
),
announced as (:tell_waiters(purged where outcome = 'removed'))
select n, id, outcome from purged, announced
