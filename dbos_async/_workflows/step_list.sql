-- The steps of a workflow: those that are recorded, and those that its executor has said to be under way.

-- fragment: step_columns
case when s.branch = '' then s.number::text else s.branch || '.' || s.number end as step, s.branch, s.number, s.verb, s.key,
case when c.payloads and s.verb <> 'sleep' and (s.verb <> 'recv' or s.completed_at is not null) then s.output end as output,
case when c.payloads then s.error end as error, s.started_at,
case when s.verb <> 'sleep' or s.completed_at <= clock_timestamp() then s.completed_at end as completed_at

-- name: LIST_STEPS (workflow_id text, payloads boolean)
select c.n, :step_columns
from :rows
cross join lateral (
    select * from dbos_async.steps where workflow_id = c.workflow_id and number > 0  -- others are notes of forks and of continue_as_new
) as s
order by c.n, s.started_at, s.branch, s.number

-- name: PAGE_OF_STEPS (workflow_id text, payloads boolean, branch text, number int, most int)
-- The steps task by task, as the primary key has them.
select c.n, :step_columns
from :rows
cross join lateral (
    select * from dbos_async.steps
    where workflow_id = c.workflow_id and number > 0 and (branch, number) > (c.branch, c.number)
    order by branch, number limit c.most
) as s
order by c.n, s.branch, s.number

-- name: PAGE_OF_NEWEST_STEPS (workflow_id text, payloads boolean, branch text, number int, most int)
select c.n, :step_columns
from :rows
cross join lateral (
    select * from dbos_async.steps
    where workflow_id = c.workflow_id and number > 0 and (branch, number) < (c.branch, c.number)
    order by branch desc, number desc limit c.most
) as s
order by c.n, s.branch desc, s.number desc

-- name: RUNNING_STEPS (workflow_id text)
-- What the executor of the workflow has said of its steps under way.
select c.n, mod(w.attempt, 1000000) as attempt, (e.running_steps ->> 'at')::timestamptz as at,
       e.running_steps -> 'steps' -> c.workflow_id as steps, clock_timestamp() as now
from :rows
cross join lateral (
    select attempt, owner from dbos_async.workflows where id = c.workflow_id and status = 'PENDING' limit 1
) as w
left join lateral (
    select running_steps from dbos_async.executors where id = w.owner limit 1
) as e on true
