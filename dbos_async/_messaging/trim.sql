-- ordered name: TRIM (workflow_id text, attempt bigint, branch text, number int, step_key text, target_id text, key text, before int,
--     most int)
-- Removes the values of a stream below an offset: so many rows at most, and then the outcome is "again". The step is recorded with
-- the last of them.
with calls as materialized (
    select c.*, s.verb as recorded_verb, s.key as recorded_key, s.output as recorded_output, s.error as recorded_error,
           case when c.workflow_id is not null and not :is_owner_by_either then 'lost'
                when s.verb is not null then 'recorded'
                else 'done' end as outcome
    from :rows
    :fence_or_lock(c.workflow_id)
    :recorded_step(c.workflow_id)
),
trimmed as materialized (
    select c.*, t.is_owner, t.is_over, case when t.is_known then to_json(t.first_there) end as first_there,
           case when not t.is_known then :error('dbos_async.errors:WorkflowNotFoundError', c.target_id) end as unknown
    from (select * from calls where outcome = 'done' order by target_id, key, n) as c
    cross join lateral dbos_async.trim_stream(c.target_id, c.key, c.before, c.most, c.workflow_id, c.attempt, c.number) as t
),
recorded as (
    insert into dbos_async.steps (workflow_id, branch, number, verb, key, output, error, completed_at, place, asked_after)
    select workflow_id, branch, number, 'trim_stream', step_key, first_there, unknown, clock_timestamp(), place, asked_after
    from trimmed where number is not null and is_owner and is_over
    order by workflow_id, branch, number
)
select n, case when not is_owner then 'lost' when is_over then 'done' else 'again' end as outcome,
       case when is_owner and is_over then first_there end as output, unknown as error,
       null::text as recorded_verb, null::text as recorded_key
from trimmed
union all
select n, outcome, recorded_output, recorded_error, recorded_verb, recorded_key from calls where outcome <> 'done'
