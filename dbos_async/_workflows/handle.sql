-- Results: waiting for the end of a workflow.

-- name: RESULT (id text)
select c.n, w.status, w.output, w.error
from :rows
left join lateral (
    select status, output, error from dbos_async.workflows where id = c.id limit 1
) as w on true

-- ordered name: AWAIT_RESULT (workflow_id text, attempt bigint, branch text, number int, target_id text)
-- RESULT inside a workflow: the other workflow's outcome is the outcome of the waiting step.
with calls as materialized (
    select c.*, :is_owner as is_owner,
           s.verb as recorded_verb, s.key as recorded_key, s.output as recorded_output, s.error as recorded_error,
           t.output as target_output,
           case when t.status is null then :error('dbos_async.errors:WorkflowNotFoundError', c.target_id)
                when t.status = 'CANCELLED' then :error('dbos_async.errors:WorkflowCancelledError', c.target_id)
                else t.error end as target_error,
           t.status is null or t.status in ('SUCCESS', 'ERROR', 'CANCELLED') as ready
    from :rows
    :fence(c.workflow_id)
    left join lateral (
        select verb, key, output, error from dbos_async.steps
        where workflow_id = c.workflow_id and branch = c.branch and number = c.number limit 1
    ) as s on true
    left join lateral (
        select status, output, error from dbos_async.workflows where id = c.target_id limit 1
    ) as t on true
),
recorded as (
    insert into dbos_async.steps (workflow_id, branch, number, verb, key, output, error, completed_at, place, asked_after)
    select workflow_id, branch, number, 'get_result', target_id, target_output, target_error, clock_timestamp(),
           place, asked_after
    from calls where is_owner and recorded_verb is null and ready
    order by workflow_id, branch, number
)
select n,
       case when not is_owner then 'lost' when recorded_verb is not null then 'recorded' when ready then 'done' else 'wait' end
           as outcome,
       case when recorded_verb is not null then recorded_output else target_output end as output,
       case when recorded_verb is not null then recorded_error else target_error end as error,
       null::float8 as seconds_left, recorded_verb, recorded_key
from calls
