-- Sleeps.

-- fragment: sleep(end, seconds_left)
-- The step is recorded when the sleep begins, with the time at which it is complete, by the database's clock.
-- It has no place before it is over. The output says whether the run has slept to the end: clocks may be set back, so times do not tell
-- a sleep that is over from one that was cut off.
with calls as materialized (
    select c.*, :is_owner as is_owner,
           s.verb as recorded_verb, s.key as recorded_key, s.deadline,
           coalesce(s.verb = 'sleep' and s.deadline <= clock_timestamp(), false) as is_over, s.is_asleep
    from :rows
    :fence(c.workflow_id)
    left join lateral (
        select verb, key, deadline, output::text = 'false' as is_asleep from dbos_async.steps
        where workflow_id = c.workflow_id and branch = c.branch and number = c.number limit 1
    ) as s on true
),
recorded as (
    insert into dbos_async.steps (workflow_id, branch, number, verb, key, output, deadline, completed_at, asked_after)
    select workflow_id, branch, number, 'sleep', '', 'false', ends_at, ends_at, asked_after
    from (select *, :end as ends_at from calls) as c
    where is_owner and recorded_verb is null
    order by workflow_id, branch, number
),
woken as (
    -- Always an update, since the row is there. As an insert it finds its row by the primary key, whatever the plan.
    insert into dbos_async.steps as s (workflow_id, branch, number, verb, key, output)
    select workflow_id, branch, number, 'sleep', '', 'true' from calls where is_owner and is_over and is_asleep
    order by workflow_id, branch, number
    on conflict (workflow_id, branch, number) do update set output = excluded.output where s.verb = excluded.verb and s.error is null
)
select n,
       case when not is_owner then 'lost'
            when is_over then 'recorded'
            else 'wait' end as outcome,
       case when is_over then 'true'::json end as output, null::json as error, recorded_verb, recorded_key,
       coalesce(extract(epoch from deadline - clock_timestamp())::float8, :seconds_left) as seconds_left
from calls

-- fragment: after_seconds
clock_timestamp() + make_interval(secs => seconds)

-- fragment: until_then
extract(epoch from moment - clock_timestamp())::float8

-- ordered name: SLEEP (workflow_id text, attempt bigint, branch text, number int, seconds float8)
:sleep(:after_seconds, seconds)

-- ordered name: SLEEP_UNTIL (workflow_id text, attempt bigint, branch text, number int, moment timestamptz)
:sleep(moment, :until_then)

-- name: CUT_OFF (workflow_id text, attempt bigint, branch text, number int)
-- The run was cancelled in its sleep, although the record may say by now that it has slept to the end.
with owned as materialized (
    select c.*
    from :rows
    cross join lateral (
        select attempt, status from dbos_async.workflows where id = c.workflow_id for share
    ) as w
    where w.attempt = c.attempt and w.status = 'PENDING'
),
cut_off as (
    -- Always an update, since the row is there.
    insert into dbos_async.steps as s (workflow_id, branch, number, verb, key, output)
    select workflow_id, branch, number, 'sleep', '', 'false' from owned
    order by workflow_id, branch, number
    on conflict (workflow_id, branch, number) do update set output = excluded.output where s.verb = excluded.verb and s.error is null
)
select c.n, case when c.n in (select n from owned) then 'done' else 'lost' end as outcome
from :numbers
