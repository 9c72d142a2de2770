-- How workflows stand, and what they have recorded.

-- fragment: status_columns
w.id as workflow_id, w.name, w.status, w.input, w.output, w.error, w.owner as executor_id,
mod(w.attempt, 1000000) as attempt, w.recoveries, w.parent_id, w.forked_from, w.application_version,
w.created_at, w.claimed_at, w.deadline, w.ended_at

-- name: STATUS (id text)
select c.n, :status_columns
from :rows
cross join lateral (select * from dbos_async.workflows where id = c.id limit 1) as w

-- name: LIST (status text, name text, id_prefix text, since timestamptz, until timestamptz, parent_id text,
--     unclaimable boolean, most int, after text)
select c.n, :status_columns
from :rows
left join lateral (select created_at, id from dbos_async.workflows where id = c.after limit 1) as a on true
cross join lateral (
    select * from dbos_async.workflows as w
    where (c.status is null or w.status = c.status)
      and (c.name is null or w.name = c.name)
      and (c.id_prefix is null or starts_with(w.id, c.id_prefix))
      and (c.since is null or w.created_at >= c.since)
      and (c.until is null or w.created_at < c.until)
      and (c.parent_id is null or w.parent_id = c.parent_id)
      and (c.unclaimable is null or c.unclaimable = (
            w.status = 'PENDING' and w.owner is null and not exists (
                select 1 from dbos_async.executors as e
                where e.lease_until > clock_timestamp() and w.name = any (e.workflow_names)
                  and (e.application_version is null or w.application_version is null
                       or e.application_version = w.application_version))))
      and (c.after is null or (w.created_at, w.id) > (a.created_at, a.id))
    order by w.created_at, w.id
    limit c.most
) as w
order by c.n, w.created_at, w.id

-- name: LIST_STEPS (workflow_id text)
select c.n, case when s.branch = '' then s.number::text else s.branch || '.' || s.number end as step,
       s.verb, s.key, s.output, s.error, s.started_at,
       case when s.verb <> 'sleep' or s.completed_at <= clock_timestamp() then s.completed_at end as completed_at
from :rows
cross join lateral (
    select * from dbos_async.steps where workflow_id = c.workflow_id and number > 0  -- 0 is a note of a fork
) as s
order by c.n, s.started_at, s.branch, s.number
