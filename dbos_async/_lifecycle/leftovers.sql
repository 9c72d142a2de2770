-- What an executor owns and does not run: found, and given back.

-- name: OWNED (executor_id text, running json)
-- What an executor owns and does not run.
select :n as n, id, attempt
from dbos_async.workflows
where status = 'PENDING' and owner = :executor_id
  and (id in (select json_array_elements_text(:running))) is not true

-- name: GIVE_BACK (id text, attempt bigint, executor_id text, digest bytea)
-- Gives single workflows back. Rows that others lock at this moment are skipped.
with held as materialized (
    select c.n, c.digest, w.id
    from :rows
    cross join lateral (
        select id, attempt, owner, status from dbos_async.workflows where id = c.id for no key update skip locked
    ) as w
    where w.attempt = c.attempt and w.owner = c.executor_id and w.status = 'PENDING'
),
released as (
    update dbos_async.workflows set owner = null where id = any (array(select id from held))
),
announced as (:tell_executors(held))
select n, id from held, announced

-- name: LET_GO (executor_id text)
-- Gives back all that an executor owns, and moves the fence: no call of its runs is executed any more.
with released as (
    update dbos_async.workflows set owner = null, attempt = attempt + 1
    where status = 'PENDING' and owner = :executor_id
    returning id
)
select :n as n, (select count(*) from released) as workflows
