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

-- name: DUE (most int)
select :n as n, id from dbos_async.workflows
where deadline is not null and ended_at is null and deadline <= clock_timestamp()
order by deadline limit :most

-- name: CANCEL_DUE (id text, digest bytea)
-- Cancels the workflows whose deadlines have passed. Rows that others lock at this moment are skipped, until the next time.
with locked as materialized (
    select c.n, c.digest, w.id, w.attempt
    from (select * from :rows order by id) as c
    cross join lateral (
        select id, attempt, deadline, ended_at from dbos_async.workflows where id = c.id for no key update skip locked
    ) as w
    where w.ended_at is null and w.deadline <= clock_timestamp()
),
cancelled as (
    update dbos_async.workflows
    set status = 'CANCELLED', attempt = attempt + 1, ended_at = clock_timestamp()
    where id = any (array(select id from locked))
),
announced as (select dbos_async.announce(:announced_keys(digest)) from locked)
select n, id, attempt + 1 as attempt from locked, announced
