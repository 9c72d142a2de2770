-- Results: waiting for the end of a workflow.

-- name: RESULT (id text)
select c.n, w.status, w.output, w.error, w.attempt
from :rows
left join lateral (
    select status, output, error, attempt from dbos_async.workflows where id = c.id limit 1
) as w on true

-- ordered name: AWAIT_RESULT (workflow_id text, attempt bigint, branch text, number int, target_id text,
--     timeout_seconds float8, is_patient boolean)
-- RESULT inside a workflow: the other workflow's outcome is the outcome of the waiting step. Only a wait with a time limit has a row
-- before it is over. A patient one waits for a parked workflow, too.
with calls as materialized (
    select c.*, :is_owner as is_owner,
           :wait_columns,
           t.status, t.output, t.error,
           t.status is null or t.status in ('SUCCESS', 'ERROR', 'CANCELLED') as ended
    from :rows
    :fence(c.workflow_id)
    :recorded_wait
    left join lateral (
        select status, output, error from dbos_async.workflows where id = c.target_id limit 1
    ) as t on true
),
decided as materialized (
    select *, ended or (not is_patient and status not in ('PENDING', 'DELAYED')) or coalesce(deadline <= clock_timestamp(), false) as ready,
           case when status is null then :error('dbos_async.errors:WorkflowNotFoundError', target_id)
                when status = 'CANCELLED' then :error('dbos_async.errors:WorkflowCancelledError', target_id)
                when ended then error
                when not is_patient and status not in ('PENDING', 'DELAYED') then
                    :error('dbos_async.errors:WorkflowParkedError', target_id, status)
                else :error('dbos_async.errors:ResultTimeoutError', target_id, timeout_seconds) end as result_error
    from calls
    where :is_waiting('get_result', target_id)
),
recorded as (
    insert into dbos_async.steps
        (workflow_id, branch, number, verb, key, output, error, deadline, completed_at, place, asked_after)
    select workflow_id, branch, number, 'get_result', target_id, case when ready then output end,
           case when ready then result_error end, deadline, case when ready then clock_timestamp() end,
           case when ready then place end, asked_after
    from decided where recorded_verb is null and (ready or deadline is not null)
    order by workflow_id, branch, number
),
completed as (
    -- Always an update, since the wait has begun. As an insert it finds its row by the primary key, whatever the plan.
    insert into dbos_async.steps as s (workflow_id, branch, number, verb, key, output, error, completed_at, place)
    select workflow_id, branch, number, 'get_result', target_id, output, result_error, clock_timestamp(), place
    from decided where ready and recorded_verb is not null
    order by workflow_id, branch, number
    on conflict (workflow_id, branch, number) do update
        set output = excluded.output, error = excluded.error, completed_at = excluded.completed_at, place = excluded.place
        where s.completed_at is null and s.verb = excluded.verb and s.key = excluded.key
    returning workflow_id, branch, number
)
select n,
       case when not ready then 'wait'
            when recorded_verb is null
                 or (workflow_id, branch, number) in (select workflow_id, branch, number from completed) then 'done'
            else 'again' end as outcome,
       output, result_error as error, extract(epoch from deadline - clock_timestamp())::float8 as seconds_left,
       null::text as recorded_verb, null::text as recorded_key, status
from decided
union all
select n, case when is_owner then 'recorded' else 'lost' end, recorded_output, recorded_error, null,
       recorded_verb, recorded_key, status
from calls
where not (:is_waiting('get_result', target_id))
