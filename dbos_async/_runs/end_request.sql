-- The end of steps of a workflow that is cancelled with time to clean up.

-- ordered name: END_STEP (workflow_id text, attempt bigint, branch text, number int, verb text, key text, error json)
-- The error becomes the outcome of a step that has none: it is new, or waits. A sleep has its row from the beginning, and no outcome
-- before it is recorded that it is over, or before its time has come in a row of an older release.
with calls as materialized (
    select c.*, :is_owner as is_owner, s.verb as recorded_verb, s.key as recorded_key, s.output as recorded_output,
           s.error as recorded_error, s.message_id,
           s.completed_at is not null and (
               s.verb <> 'sleep' or s.place is not null or s.error is not null or s.output::text = 'true'
               or (s.output is null and s.completed_at <= clock_timestamp()))
               as has_outcome
    from :rows
    :fence(c.workflow_id)
    left join lateral (
        select verb, key, output, error, message_id, completed_at, place from dbos_async.steps
        where workflow_id = c.workflow_id and branch = c.branch and number = c.number limit 1
    ) as s on true
),
decided as materialized (
    select *, is_owner and not has_outcome and (recorded_verb is null or (recorded_verb = verb and recorded_key = key)) as ends
    from calls
),
ended as (
    insert into dbos_async.steps as s (workflow_id, branch, number, verb, key, error, completed_at, place, asked_after)
    select workflow_id, branch, number, verb, key, error, clock_timestamp(), place, asked_after
    from decided where ends
    order by workflow_id, branch, number
    on conflict (workflow_id, branch, number) do update
        set output = case when s.verb <> 'recv' then s.output end, error = excluded.error, completed_at = excluded.completed_at, place = excluded.place
        where s.verb = excluded.verb and s.key = excluded.key and s.place is null
          and (s.completed_at is null
               or (s.verb = 'sleep' and s.error is null and (s.output::text = 'true') is not true
                   and (s.output is not null or s.completed_at > clock_timestamp())))
    returning workflow_id, branch, number
)
select n,
       case when not is_owner then 'lost' when not ends then 'recorded'
            when (workflow_id, branch, number) in (select workflow_id, branch, number from ended) then 'done'
            else 'again' end as outcome,
       case when not ends then recorded_output end as output, case when ends then error else recorded_error end as error,
       case when not ends then recorded_verb end as recorded_verb, case when not ends then recorded_key end as recorded_key,
       message_id
from decided
