-- Sleeps.

-- fragment: sleep(end, seconds_left)
-- The step is recorded when the sleep begins, with the time at which it is complete, by the database's clock.
-- It has no place before it is over.
with calls as materialized (
    select c.*, :is_owner as is_owner,
           s.verb as recorded_verb, s.key as recorded_key, s.deadline
    from :rows
    :fence(c.workflow_id)
    left join lateral (
        select verb, key, deadline from dbos_async.steps
        where workflow_id = c.workflow_id and branch = c.branch and number = c.number limit 1
    ) as s on true
),
recorded as (
    insert into dbos_async.steps (workflow_id, branch, number, verb, key, deadline, completed_at, asked_after)
    select workflow_id, branch, number, 'sleep', '', ends_at, ends_at, asked_after
    from (select *, :end as ends_at from calls) as c
    where is_owner and recorded_verb is null
    order by workflow_id, branch, number
)
select n,
       case when not is_owner then 'lost'
            when recorded_verb is not null and deadline <= clock_timestamp() then 'recorded'
            else 'wait' end as outcome,
       null::json as output, null::json as error, recorded_verb, recorded_key,
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
