-- Events: every value is a row of its own, and the latest row is the value.

-- ordered name: SET_EVENT (workflow_id text, attempt bigint, branch text, number int, step text, key text, value json,
--     write_seq int, digest bytea)
with calls as materialized (
    select c.*, s.verb as recorded_verb, s.key as recorded_key,
           case when not :is_owner_by_either then 'lost'
                when s.verb is not null then 'recorded'
                when coalesce((latest.attempt, latest.act) >= (c.attempt, c.write_seq), false) then 'superseded'
                else 'done' end as outcome
    from :rows
    :fence_or_lock(c.workflow_id)
    :recorded_step(c.workflow_id)
    -- A call inside a step may be a repetition that comes too late, after its first answer was lost: a later value supersedes it.
    left join lateral (
        select attempt, act from dbos_async.events
        where workflow_id = c.workflow_id and key_digest = dbos_async.digest(c.key) and c.number is null
        order by seq desc limit 1
    ) as latest on true
),
recorded as (
    insert into dbos_async.steps (workflow_id, branch, number, verb, key, completed_at, place, asked_after)
    select workflow_id, branch, number, 'set_event', key, clock_timestamp(), place, asked_after
    from calls where outcome = 'done' and number is not null
    order by workflow_id, branch, number
),
numbered as materialized (
    select *, nextval('dbos_async.event_seq') as seq, clock_timestamp() as set_at
    from (select * from calls where outcome = 'done' order by n) as in_order
),
put as (
    insert into dbos_async.events (workflow_id, key, seq, value, step, attempt, act, set_at)
    select workflow_id, key, seq, value, step, attempt, write_seq, set_at from numbered
),
news as (
    select n, digest, :news_of_event(attempt, seq, set_at, value) as news from numbered
),
announced as (:tell_news(news))
select n, case when outcome = 'superseded' then 'done' else outcome end as outcome, null::json as output, null::json as error,
       recorded_verb, recorded_key
from calls, announced

-- name if usual: SET_EVENT
-- A step sets it.
with numbered as materialized (
    select nextval('dbos_async.event_seq') as seq, clock_timestamp() as set_at
    from dbos_async.workflows
    where id = :workflow_id and attempt = :attempt and status = 'PENDING' and :number is not null
    limit 1
),
recorded as (
    insert into dbos_async.steps (workflow_id, branch, number, verb, key, completed_at, place, asked_after)
    select :workflow_id, :branch, :number, 'set_event', :key, clock_timestamp(), :place, :asked_after from numbered
),
put as (
    insert into dbos_async.events (workflow_id, key, seq, value, step, attempt, act, set_at)
    select :workflow_id, :key, seq, :value, :step, :attempt, :write_seq, set_at from numbered
)
select :n as n, 'done' as outcome, null::json as output, null::json as error, null::text as recorded_verb,
       null::text as recorded_key,
       pg_notify(:channel_of(:digest), '=' || encode(:digest, 'hex') || coalesce(:news_of_event(:attempt, seq, set_at, :value), '.'))
           is not null as is_announced
from numbered

-- fragment: version_after(workflow_id)
-- The latest value of the event, if it is later than the version that the caller has seen, and the status of its workflow. A
-- workflow that had a version and is not there any more has ended, and was deleted.
left join lateral (
    select value, seq, set_at from dbos_async.events
    where workflow_id = :workflow_id and key_digest = dbos_async.digest(c.key) and seq > c.seen order by seq desc limit 1
) as e on true
left join lateral (select status, attempt from dbos_async.workflows where id = :workflow_id limit 1) as t on true

-- fragment: has_ended
-- After :version_after: whether the event gets no later value.
coalesce(t.status in ('SUCCESS', 'ERROR', 'CANCELLED'), c.seen > 0)

-- name: READ_EVENT (workflow_id text, key text, seen bigint)
select c.n, e.value, e.seq, e.set_at, t.status, :has_ended as ended, t.attempt
from :rows
:version_after(c.workflow_id)

-- ordered name: AWAIT_EVENT (workflow_id text, attempt bigint, branch text, number int, verb text, step_key text, target_id text,
--     key text, seen bigint, timeout_seconds float8)
-- READ_EVENT inside a workflow: what was read is the outcome of the reader's step.
with calls as materialized (
    select c.*, :is_owner as is_owner,
           :wait_columns,
           e.value, e.seq, e.set_at, :has_ended as ended
    from :rows
    :fence(c.workflow_id)
    :recorded_wait
    :version_after(c.target_id)
),
decided as materialized (
    select *, value is not null or ended or coalesce(deadline <= clock_timestamp(), false) as ready,
           case when verb = 'get_event' then value
                when value is not null
                    then json_build_object('value', value, 'version', seq, 'set_at', set_at, 'ended', ended)
                else json_build_object('ended', ended) end as found
    from calls
    where :is_waiting(verb, step_key)
),
:record_wait(verb, found)

-- name: ALL_EVENTS (workflow_id text)
select c.n, e.key, e.value
from :rows
cross join lateral (
    select distinct on (key_digest) key, value from dbos_async.events
    where workflow_id = c.workflow_id order by key_digest, seq desc
) as e
