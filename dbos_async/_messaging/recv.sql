-- Receives: each picks the message, records the receiver's step with it, and marks it received, in one statement.
-- The row of the step decides: a completed step takes nothing.

-- fragment: received_output
-- What the step records of the message: the payload, or all of the envelope.
case when c.verb = 'recv' then m.payload
     when m.id is not null then json_build_object(
         'id', m.id, 'destination_id', c.workflow_id, 'topic', nullif(c.topic, ''), 'payload', m.payload,
         'sender_id', m.sender_id, 'sent_at', m.sent_at, 'headers', coalesce(m.headers, '{}')) end

-- fragment: age
-- For how many seconds the message was stored before it was received. This and its headers are for telemetry.
extract(epoch from clock_timestamp() - sent_at)::float8

-- fragment: oldest_unreceived
-- Receives side by side take side by side: the second one skips the message that the first one picks.
left join lateral (
    select id, payload, sender_id, sent_at, headers from dbos_async.messages
    where destination_id = c.workflow_id and topic_digest = dbos_async.digest(c.topic) and received_at is null
    order by seq offset c.turn - 1 limit 1
    for update
) as m on true

-- fragment: output_while_waiting
-- What the step says while it waits: the attempt of its run, if a sender of another process may complete it.
case when may_be_handed then to_json(attempt) end

-- ordered name: TAKE_WAITING (workflow_id text, attempt bigint, branch text, number int, verb text, topic text,
--     timeout_seconds float8, may_be_handed boolean)
-- For any receive: its step may be recorded already, or have begun to wait.
with calls as materialized (
    select c.*, :is_owner as is_owner,
           :wait_columns, s.message_id as recorded_message_id
    from :rows
    :fence(c.workflow_id)
    :recorded_wait
),
turns as materialized (
    select *, row_number() over (partition by workflow_id, topic order by n) as turn
    from calls
    where :is_waiting(verb, topic)
),
decided as materialized (
    select c.*, m.id as message_id, m.headers, m.sent_at,
           m.id is null and coalesce(c.deadline <= clock_timestamp(), false) as expired,
           :received_output as output
    from (select * from turns order by workflow_id, topic, turn) as c
    :oldest_unreceived
),
recorded as (
    insert into dbos_async.steps as s
        (workflow_id, branch, number, verb, key, output, message_id, deadline, completed_at, place, asked_after)
    select workflow_id, branch, number, verb, topic,
           case when message_id is not null or expired then output else :output_while_waiting end, message_id, deadline,
           case when message_id is not null or expired then clock_timestamp() end,
           case when message_id is not null or expired then place end, asked_after
    from decided
    where message_id is not null or expired or recorded_verb is null
    order by workflow_id, branch, number
    on conflict (workflow_id, branch, number) do update
        set output = excluded.output, message_id = excluded.message_id, completed_at = excluded.completed_at,
            place = excluded.place
        where s.completed_at is null and excluded.completed_at is not null
          and s.verb = excluded.verb and s.key = excluded.key
    returning workflow_id, branch, number
),
outcomes as materialized (
    select d.n, d.workflow_id, d.message_id, d.output, d.headers, d.sent_at, d.deadline,
           case when (d.workflow_id, d.branch, d.number) in (select workflow_id, branch, number from recorded)
                then case when d.message_id is not null or d.expired then 'done' else 'wait' end
                when d.message_id is null and not d.expired and d.recorded_verb is not null then 'wait'
                else 'again' end as outcome
    from decided as d
),
received as (
    -- These rows are locked, and they were unreceived when they were locked.
    update dbos_async.messages set received_at = clock_timestamp()
    where id = any (array(select message_id from outcomes where outcome = 'done' and message_id is not null))
      and destination_id = any (array(select workflow_id from outcomes where outcome = 'done' and message_id is not null))
)
select n, outcome, output, null::json as error,
       extract(epoch from deadline - clock_timestamp())::float8 as seconds_left,
       null::text as recorded_verb, null::text as recorded_key, message_id, headers, :age as age
from outcomes
union all
select n, case when is_owner then 'recorded' else 'lost' end, recorded_output, recorded_error, null,
       recorded_verb, recorded_key, recorded_message_id, null, null
from calls
where not (:is_waiting(verb, topic))

-- ordered name: TAKE (workflow_id text, attempt bigint, branch text, number int, verb text, topic text,
--     timeout_seconds float8, may_be_handed boolean)
-- For a new receive: nothing is recorded of its step yet.
with calls as materialized (
    select c.*, :is_owner as is_owner,
           clock_timestamp() + make_interval(secs => c.timeout_seconds) as deadline
    from :rows
    :fence(c.workflow_id)
),
decided as materialized (
    select c.*, m.id as message_id, m.headers, m.sent_at,
           m.id is not null or coalesce(c.deadline <= clock_timestamp(), false) as ready,
           :received_output as output
    from (
        select *, row_number() over (partition by workflow_id, topic order by n) as turn from calls where is_owner
    ) as c
    :oldest_unreceived
),
recorded as (
    insert into dbos_async.steps
        (workflow_id, branch, number, verb, key, output, message_id, deadline, completed_at, place, asked_after)
    select workflow_id, branch, number, verb, topic, case when ready then output else :output_while_waiting end, message_id,
           deadline, case when ready then clock_timestamp() end, case when ready then place end, asked_after
    from decided
    order by workflow_id, branch, number
),
received as (
    -- These rows are locked, and they were unreceived when they were locked.
    update dbos_async.messages set received_at = clock_timestamp()
    where id = any (array(select message_id from decided where message_id is not null))
      and destination_id = any (array(select workflow_id from decided where message_id is not null))
)
select n, case when ready then 'done' else 'wait' end as outcome, output, null::json as error,
       extract(epoch from deadline - clock_timestamp())::float8 as seconds_left,
       null::text as recorded_verb, null::text as recorded_key, message_id, headers, :age as age
from decided
union all
select n, 'lost', null, null, null, null, null, null, null, null from calls where not is_owner

-- name if usual: TAKE
-- A recv with time to wait, of a run that owns its workflow.
with decided as materialized (
    select m.*, clock_timestamp() + make_interval(secs => :timeout_seconds) as deadline
    from dbos_async.workflows as w
    left join lateral (
        select id as message_id, payload, headers, sent_at from dbos_async.messages
        where destination_id = :workflow_id and topic_digest = dbos_async.digest(:topic) and received_at is null
        order by seq limit 1
        for update
    ) as m on true
    where w.id = :workflow_id and w.attempt = :attempt and w.status = 'PENDING'
      and :verb = 'recv' and coalesce(:timeout_seconds, 1) > 0
    limit 1
),
recorded as (
    insert into dbos_async.steps
        (workflow_id, branch, number, verb, key, output, message_id, deadline, completed_at, place, asked_after)
    select :workflow_id, :branch, :number, :verb, :topic,
           case when message_id is not null then payload when :may_be_handed then to_json(:attempt) end, message_id, deadline,
           case when message_id is not null then clock_timestamp() end, case when message_id is not null then :place end,
           :asked_after
    from decided
),
received as (
    -- The row is locked, and it was unreceived when it was locked.
    update dbos_async.messages set received_at = clock_timestamp()
    where id = any (array(select message_id from decided where message_id is not null)) and destination_id = :workflow_id
)
select :n as n, case when message_id is null then 'wait' else 'done' end as outcome, payload as output, null::json as error,
       extract(epoch from deadline - clock_timestamp())::float8 as seconds_left,
       null::text as recorded_verb, null::text as recorded_key, message_id, headers, :age as age
from decided

-- name: CLOSE (workflow_id text, branch text, number int)
-- A receive is abandoned, or is not to be handed a message any more. Tells which message its step has, if one came before.
with held as materialized (
    select c.n, s.place, s.message_id, s.completed_at
    from (select * from :rows order by workflow_id, branch, number) as c
    cross join lateral (
        select ctid as place, message_id, completed_at from dbos_async.steps
        where workflow_id = c.workflow_id and branch = c.branch and number = c.number
        for update
    ) as s
),
closed as (
    update dbos_async.steps set output = null where ctid = any (array(select place from held where completed_at is null))
)
select c.n, (select message_id from held where n = c.n limit 1) as message_id from :numbers

-- name: PUT_BACK (workflow_id text, attempt bigint, branch text, number int, verb text, topic text, message_id uuid)
-- A receive was abandoned after it had taken its message. The message becomes unreceived again, and the step has begun and not
-- ended. No row of its own decides, so the call locks the row of its workflow until the commit.
with calls as materialized (
    select c.*, coalesce(locked.attempt = c.attempt and locked.status = 'PENDING', false) as is_owner,
           s.message_id as taken_id
    from (
        select * from :rows
        order by workflow_id, branch, number
    ) as c
    left join lateral (
        select attempt, status from dbos_async.workflows where id = c.workflow_id for share
    ) as locked on true
    -- The step may not be recorded yet: a send that only might have delivered a message to it is put back, too.
    left join lateral (
        select message_id from dbos_async.steps
        where workflow_id = c.workflow_id and branch = c.branch and number = c.number limit 1
    ) as s on true
),
undone as (
    -- Always an update, since the row is there. As an insert it finds its row by the primary key, whatever the plan.
    insert into dbos_async.steps as s (workflow_id, branch, number, verb, key, message_id)
    select workflow_id, branch, number, verb, topic, message_id from calls
    where is_owner and taken_id = message_id
    order by workflow_id, branch, number
    on conflict (workflow_id, branch, number) do update
        set output = null, message_id = null, completed_at = null, place = null
        where s.message_id = excluded.message_id
    returning workflow_id, branch, number
),
unreceived as (
    update dbos_async.messages set received_at = null
    where id = any (array(
            select message_id from calls
            where (workflow_id, branch, number) in (select workflow_id, branch, number from undone)))
      and destination_id = any (array(select workflow_id from undone))
)
select n from calls
