-- Cancel and resume. Both add one to the attempt, which is the fence: whatever an earlier run still writes is then too late.

-- name: CANCEL (id text, cleanup_seconds float8, digest bytea)
-- A workflow that is given time to clean up goes on: its run hears of it, and its deadline cancels it when the time is over. One that
-- has not begun, or is parked, has nothing to clean up.
with locked as materialized (
    select c.n, c.digest, c.cleanup_seconds, w.id, w.owner, w.attempt, w.ended_at is null as ends,
           w.status = 'PENDING' and mod(w.attempt, 1000000) > 0 and coalesce(c.cleanup_seconds > 0, false) as may_clean_up
    from (select * from :rows order by id) as c
    cross join lateral (
        select id, owner, attempt, status, ended_at from dbos_async.workflows where id = c.id for no key update
    ) as w
),
cancelled as (
    update dbos_async.workflows
    set status = 'CANCELLED', attempt = attempt + 1, ended_at = clock_timestamp()
    where id = any (array(select id from locked where ends and not may_clean_up))
),
asked as (
    update dbos_async.workflows as w
    set cancel_asked_at = coalesce(cancel_asked_at, clock_timestamp()),
        deadline = least(deadline, clock_timestamp() + make_interval(secs => (
            select l.cleanup_seconds from locked as l where l.id = w.id limit 1)))
    where id = any (array(select id from locked where may_clean_up))
),
announced as (:tell_of_ends(locked))
select n, ends, attempt + 1 as attempt, may_clean_up from locked, announced

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
        -- A delayed one begins now, and has as much time as it was given. A deadline of its parent stays where it is. One that only
        -- gets another version keeps its deadline.
        deadline = case when status = 'PENDING' then deadline when status = 'DELAYED' then deadline - case
            when deadline_reaches_children and deadline = (
                select p.deadline from dbos_async.workflows as p where p.id = w.parent_id limit 1) then interval '0'
            else greatest(due_at - clock_timestamp(), interval '0') end end,
        -- Who resumes a cancelled one that was asked to end takes that back. What it was told is recorded.
        cancel_asked_at = case when status <> 'CANCELLED' then cancel_asked_at end,
        due_at = case when status = 'DELAYED' then least(due_at, clock_timestamp()) else due_at end,
        application_version = coalesce(
            (select l.application_version from locked as l where l.id = w.id limit 1), w.application_version)
    where id = any (array(
        select id from locked
        where case when status = 'PENDING' then owner is null and application_version is not null
                   else status not in ('SUCCESS', 'ERROR') end))
),
announced as (:tell_executors(locked))
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
