-- Steps whose effect lies outside of the database, and results that the receiver cannot read.

-- ordered name: RECORD (workflow_id text, attempt bigint, branch text, number int, verb text, key text, output json,
--     error json, took_seconds float8)
with calls as materialized (
    select c.*, s.verb as recorded_verb, s.key as recorded_key, s.output as recorded_output, s.error as recorded_error,
           case when not :is_owner then 'lost'
                when s.verb is not null then 'recorded' else 'done' end as outcome
    from :rows
    :fence(c.workflow_id)
    :recorded_step(c.workflow_id)
),
recorded as (
    insert into dbos_async.steps (workflow_id, branch, number, verb, key, output, error, started_at, completed_at, place,
                                  asked_after)
    select workflow_id, branch, number, verb, key, output, error,
           clock_timestamp() - make_interval(secs => took_seconds), clock_timestamp(), place, asked_after
    from calls where outcome = 'done'
    order by workflow_id, branch, number
)
select n, outcome, case when outcome = 'recorded' then recorded_output else output end as output,
       case when outcome = 'recorded' then recorded_error else error end as error, recorded_verb, recorded_key
from calls

-- ordered name: RECORD_REJECTION (workflow_id text, attempt bigint, branch text, number int, output json, error json)
-- The code cannot read the recorded output, and this error takes its place. The call locks the row of the workflow, so that no
-- executor that can read the output takes the workflow over in between.
with owned as materialized (
    select c.*, s.verb, s.key
    from :rows
    cross join lateral (
        select attempt, status from dbos_async.workflows where id = c.workflow_id for share
    ) as w
    left join lateral (
        select verb, key from dbos_async.steps
        where workflow_id = c.workflow_id and branch = c.branch and number = c.number limit 1
    ) as s on true
    where w.attempt = c.attempt and w.status = 'PENDING'
),
updated as (
    -- Always an update, since the row is there. As an insert it finds its row by the primary key, whatever the plan.
    insert into dbos_async.steps as s (workflow_id, branch, number, verb, key, output, error, place, asked_after)
    select workflow_id, branch, number, verb, key, output, error, place, asked_after from owned where verb is not null
    order by workflow_id, branch, number
    on conflict (workflow_id, branch, number) do update
        set output = excluded.output, error = excluded.error, place = excluded.place
    returning s.workflow_id, s.message_id, s.error
),
rejected as (
    update dbos_async.messages as m set rejected = (select u.error from updated as u where u.message_id = m.id limit 1)
    where id = any (array(select message_id from updated where message_id is not null))
      and destination_id = any (array(select workflow_id from updated where message_id is not null))
)
select c.n, case when c.n in (select n from owned) then 'done' else 'lost' end as outcome,
       null::json as output, null::json as error, null::text as recorded_verb, null::text as recorded_key
from :numbers
