-- Steps whose effect lies outside of the database, and results that the receiver cannot read.

-- name: RECORD (workflow_id text, attempt bigint, branch text, number int, verb text, key text, output json,
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
    insert into dbos_async.steps (workflow_id, branch, number, verb, key, output, error, started_at, completed_at)
    select workflow_id, branch, number, verb, key, output, error,
           clock_timestamp() - make_interval(secs => took_seconds), clock_timestamp()
    from calls where outcome = 'done'
    order by workflow_id, branch, number
)
select n, outcome, case when outcome = 'recorded' then recorded_output else output end as output,
       case when outcome = 'recorded' then recorded_error else error end as error, recorded_verb, recorded_key
from calls

-- name: RECORD_REJECTION (workflow_id text, attempt bigint, branch text, number int, output json, error json)
-- The code cannot read the recorded output, and this error takes its place. The call locks the row of the workflow, so that no
-- executor that can read the output takes the workflow over in between.
with owned as materialized (
    select c.*
    from :rows
    cross join lateral (
        select attempt, status from dbos_async.workflows where id = c.workflow_id for share
    ) as w
    where w.attempt = c.attempt and w.status = 'PENDING'
),
updated as (
    update dbos_async.steps as s set output = o.output, error = o.error
    from owned as o
    where s.workflow_id = o.workflow_id and s.branch = o.branch and s.number = o.number
    returning s.workflow_id, s.message_id, s.error
),
rejected as (
    update dbos_async.messages as m set rejected = u.error from updated as u
    where m.id = u.message_id and m.destination_id = u.workflow_id
)
select c.n, case when c.n in (select n from owned) then 'done' else 'lost' end as outcome,
       null::json as output, null::json as error, null::text as recorded_verb, null::text as recorded_key
from :numbers
