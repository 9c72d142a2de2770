-- The record of a transactional step.

-- ordered name: RECORD_INSIDE (workflow_id text, attempt bigint, branch text, number int, key text, output json,
--     took_seconds float8)
-- The last statement of the step's transaction. It locks the row of the workflow until the commit, so a claim, a cancellation or the
-- end of the workflow comes before this record or after the commit. If the process is frozen in between, the server ends the
-- transaction: nobody could claim or cancel the workflow for as long as that lasts.
with calls as materialized (
    select c.*, s.verb as recorded_verb, s.key as recorded_key,
           case when not :is_owner then 'lost'
                when s.verb is not null then 'recorded' else 'done' end as outcome
    from :rows
    left join lateral (
        select attempt, status from dbos_async.workflows where id = c.workflow_id for share
    ) as w on true
    :recorded_step(c.workflow_id)
),
recorded as (
    insert into dbos_async.steps (workflow_id, branch, number, verb, key, output, started_at, completed_at, place, asked_after)
    select workflow_id, branch, number, 'step', key, output,
           clock_timestamp() - make_interval(secs => took_seconds), clock_timestamp(), place, asked_after
    from calls where outcome = 'done'
    order by workflow_id, branch, number
)
select n, outcome, set_config('idle_in_transaction_session_timeout', '10s', true) from calls

-- name: LOOK (workflow_id text, attempt bigint, branch text, number int)
-- Whether the step is recorded: by a transaction whose commit was not answered, or by an earlier run.
select c.n,
       case when not :is_owner then 'lost' when s.verb is not null then 'recorded' else 'new' end as outcome,
       s.output, s.error, s.verb as recorded_verb, s.key as recorded_key
from :rows
:fence(c.workflow_id)
left join lateral (
    select verb, key, output, error from dbos_async.steps
    where workflow_id = c.workflow_id and branch = c.branch and number = c.number limit 1
) as s on true
