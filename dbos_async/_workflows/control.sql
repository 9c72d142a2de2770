-- Cancel and resume. Both add one to the attempt, which is the fence: whatever an earlier run still writes is then too late.

-- name: CANCEL (id text, digest bytea)
with locked as materialized (
    select c.n, c.digest, w.id, w.attempt, w.ended_at is null as ends
    from (select * from :rows order by id) as c
    cross join lateral (
        select id, attempt, ended_at from dbos_async.workflows where id = c.id for no key update
    ) as w
),
cancelled as (
    update dbos_async.workflows
    set status = 'CANCELLED', attempt = attempt + 1, ended_at = clock_timestamp()
    where id = any (array(select id from locked where ends))
),
announced as (select dbos_async.announce(:announced_keys(digest)) from locked)
select n, ends, attempt + 1 as attempt from locked, announced

-- name: RESUME (id text, application_version text, digest bytea)
with locked as materialized (
    select c.n, c.digest, c.application_version, w.id, w.status, w.owner
    from (select * from :rows order by id) as c
    cross join lateral (
        select id, status, owner from dbos_async.workflows where id = c.id for no key update
    ) as w
),
resumed as (
    update dbos_async.workflows as w
    set status = 'PENDING', attempt = attempt + case when status = 'DELAYED' then 0 else 1 end, owner = null, recoveries = 0,
        ended_at = null, error = null,
        -- A delayed one begins now, and has as much time as it was given.
        deadline = case when status = 'DELAYED' then deadline - greatest(due_at - clock_timestamp(), interval '0') end,
        due_at = case when status = 'DELAYED' then least(due_at, clock_timestamp()) else due_at end,
        application_version = coalesce(
            (select l.application_version from locked as l where l.id = w.id limit 1), w.application_version)
    where id = any (array(
        select id from locked
        where case when status = 'PENDING' then owner is null and application_version is not null
                   else status not in ('SUCCESS', 'ERROR') end))
),
announced as (select dbos_async.announce(:announced_keys(digest)) from locked)
select n, status from locked, announced

-- name: LAST_STEP (id text)
-- The step that was recorded last, whether it failed, and the highest number of the main task.
select c.n, s.path, s.failed, coalesce(m.number, 0) as number
from :rows
left join lateral (
    select case when branch = '' then number::text else branch || '.' || number end as path, error is not null as failed
    from dbos_async.steps
    where workflow_id = c.id and number > 0 and completed_at is not null
    order by completed_at desc, dbos_async.path(branch, number) desc
    limit 1
) as s on true
left join lateral (
    select number from dbos_async.steps where workflow_id = c.id and branch = '' and number > 0 order by number desc limit 1
) as m on true
