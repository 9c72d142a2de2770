-- Questions: a message whose sender waits for an answer, which comes to lie in the row of the message.

-- fragment: recorded_ask
-- What is recorded of this step already. A new call has no record, and does not look for one.
left join lateral (
    select verb, key, output, error, completed_at from dbos_async.steps
    where workflow_id = c.workflow_id and branch = c.branch and number = c.number limit 1
) as s on true

-- fragment if new: recorded_ask
cross join (
    select null::text as verb, null::text as key, null::json as output, null::json as error, null::timestamptz as completed_at
) as s

-- fragment: is_overdue
coalesce(deadline <= clock_timestamp(), false)

-- fragment: record_answer(step_verb)
-- The end of a statement that waits for an answer. In its CTE `calls`, missing_error is what a message that is not there means. An
-- answer counts also if the workflow that gave it has ended since.
decided as materialized (
    select *, message_id is null or answered_at is not null or has_ended or :is_overdue as ready,
           case when message_id is null then missing_error
                when answered_at is not null then answer_error
                when has_ended then :error('dbos_async.errors:NotAnsweredError', asked_workflow_id, message_id)
                else :error('dbos_async.errors:AskTimeoutError', asked_workflow_id, message_id, timeout_seconds)
                end as result_error
    from calls
    where :is_waiting(:step_verb, step_key)
),
recorded as (
    insert into dbos_async.steps
        (workflow_id, branch, number, verb, key, output, error, deadline, completed_at, place, asked_after)
    select workflow_id, branch, number, :step_verb, step_key, case when ready then answer end,
           case when ready then result_error end, deadline, case when ready then clock_timestamp() end,
           case when ready then place end, asked_after
    from decided where recorded_verb is null
    order by workflow_id, branch, number
),
completed as (
    -- Always an update, since the wait has begun. As an insert it finds its row by the primary key, whatever the plan.
    insert into dbos_async.steps as s (workflow_id, branch, number, verb, key, output, error, completed_at, place)
    select workflow_id, branch, number, :step_verb, step_key, answer, result_error, clock_timestamp(), place
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
       answer as output, case when ready then result_error end as error,
       extract(epoch from deadline - clock_timestamp())::float8 as seconds_left,
       null::text as recorded_verb, null::text as recorded_key, message_id, asked_workflow_id
from decided
union all
select n, case when is_owner then 'recorded' else 'lost' end, recorded_output, recorded_error, null,
       recorded_verb, recorded_key, null, null
from calls
where not (:is_waiting(:step_verb, step_key))

-- ordered name: ASK (workflow_id text, attempt bigint, branch text, number int, step_key text, id uuid, destination_id text,
--     topic text, payload json, digest bytea, local_executor_id text, idempotency_key text, timeout_seconds float8, refused json,
--     headers json)
-- A question of a workflow. The message and the step, which waits from now on, are one commit. While it waits, its output says which
-- message it waits for; with an idempotency key that may be one that another transaction stores at this moment. A question that
-- cannot be stored comes as the error to record, `refused`.
with calls as materialized (
    select c.*, :is_owner as is_owner, s.verb as recorded_verb, s.key as recorded_key, s.output as recorded_output,
           s.error as recorded_error, s.completed_at, clock_timestamp() + make_interval(secs => c.timeout_seconds) as deadline,
           :is_known as known, d.has_ended, :channel as channel,
           earlier.id as earlier_id, coalesce(earlier.id, c.id) as message_id, earlier.answered_at, earlier.answer,
           earlier.answer_error
    from :rows
    :fence(c.workflow_id)
    :recorded_ask
    :destination
    left join lateral (
        select m.id, m.answered_at, m.answer, m.answer_error from dbos_async.messages as m
        where m.destination_id = c.destination_id and c.idempotency_key is not null
          and m.idempotency_digest = dbos_async.digest(c.idempotency_key) limit 1
    ) as earlier on true
),
decided as materialized (
    select *, refused is null and known and earlier_id is null as is_new,
           refused is not null or not known or answered_at is not null or has_ended or :is_overdue as ready,
           case when refused is not null then refused
                when not known then :error('dbos_async.errors:WorkflowNotFoundError', destination_id)
                when answered_at is not null then answer_error
                when has_ended then :error('dbos_async.errors:NotAnsweredError', destination_id, message_id)
                else :error('dbos_async.errors:AskTimeoutError', destination_id, message_id, timeout_seconds)
                end as result_error
    from calls where is_owner and recorded_verb is null
),
recorded as (
    insert into dbos_async.steps
        (workflow_id, branch, number, verb, key, output, error, deadline, completed_at, place, asked_after)
    select workflow_id, branch, number, 'ask', step_key,
           case when not ready then json_build_object('message_id', message_id, 'idempotency_key', idempotency_key)
                when refused is null and known then answer end,
           case when ready then result_error end, deadline, case when ready then clock_timestamp() end,
           case when ready then place end, asked_after
    from decided
    order by workflow_id, branch, number
),
numbered as materialized (
    select *, nextval('dbos_async.message_seq') as seq from decided where is_new
),
-- Keys are locked in the order of their names, as in SEND_BULK.
sent as (
    insert into dbos_async.messages (id, seq, destination_id, topic, payload, idempotency_key, sender_id, headers, is_question)
    select id, seq, destination_id, topic, payload, idempotency_key, workflow_id, headers, true
    from numbered order by destination_id, dbos_async.digest(idempotency_key), seq
    :unless_repeated
),
announced as (:tell_receivers(numbered))
select n, case when ready then 'done' else 'wait' end as outcome,
       case when ready and refused is null and known then answer end as output,
       case when ready then result_error end as error,
       extract(epoch from deadline - clock_timestamp())::float8 as seconds_left,
       null::text as recorded_verb, null::text as recorded_key, message_id, destination_id as asked_workflow_id
from decided, announced
union all
select n, case when not is_owner then 'lost'
               when completed_at is null and recorded_verb = 'ask' and recorded_key = step_key then 'again'
               else 'recorded' end,
       recorded_output, recorded_error, null, recorded_verb, recorded_key, null, null
from calls
where not is_owner or recorded_verb is not null

-- ordered name: AWAIT_ANSWER (workflow_id text, attempt bigint, branch text, number int, step_key text, destination_id text,
--     timeout_seconds float8)
-- The wait of a workflow that has asked. The step knows the message, the row of the message has the answer.
with calls as materialized (
    select c.*, :is_owner as is_owner, :wait_columns,
           m.id as message_id, m.answered_at, m.answer, m.answer_error,
           c.destination_id as asked_workflow_id, coalesce(d.has_ended, false) as has_ended,
           case when d.has_ended is null then :error('dbos_async.errors:WorkflowNotFoundError', c.destination_id)
                else :error('dbos_async.errors:NotAnsweredError', c.destination_id, asked.id) end as missing_error
    from :rows
    :fence(c.workflow_id)
    :recorded_wait
    left join lateral (
        select (s.output ->> 'message_id')::uuid as id, s.output ->> 'idempotency_key' as idempotency_key
        where s.completed_at is null and s.verb = 'ask'
    ) as asked on true
    left join lateral (
        select id, answered_at, answer, answer_error from dbos_async.messages
        where id = asked.id and destination_id = c.destination_id
        union all
        select id, answered_at, answer, answer_error from dbos_async.messages
        where destination_id = c.destination_id and asked.idempotency_key is not null
          and idempotency_digest = dbos_async.digest(asked.idempotency_key)
        limit 1
    ) as m on true
    left join lateral (
        select ended_at is not null as has_ended from dbos_async.workflows where id = c.destination_id limit 1
    ) as d on true
),
:record_answer('ask')

-- ordered name: GET_ANSWER (workflow_id text, attempt bigint, branch text, number int, step_key text, message_id uuid,
--     timeout_seconds float8)
-- The user gives nothing but the id, so this statement and READ_ANSWER do not name the destination.
with calls as materialized (
    select c.workflow_id, c.n, c.branch, c.number, c.step_key, c.timeout_seconds, c.place, c.asked_after,
           :is_owner as is_owner, :wait_columns,
           m.id as message_id, m.answered_at, m.answer, m.answer_error,
           m.destination_id as asked_workflow_id, coalesce(d.has_ended, false) as has_ended,
           :error('dbos_async.errors:MessageNotFoundError', c.message_id) as missing_error
    from :rows
    :fence(c.workflow_id)
    :recorded_wait
    left join lateral (
        select id, destination_id, answered_at, answer, answer_error from dbos_async.messages
        where id = (select coalesce(copy_of, id) from dbos_async.messages where id = c.message_id) limit 1
    ) as m on true
    left join lateral (
        select ended_at is not null as has_ended from dbos_async.workflows where id = m.destination_id limit 1
    ) as d on true
),
:record_answer('get_answer')

-- fragment: answer_now
m.id as message_id, m.destination_id as asked_workflow_id, m.answered_at is not null as is_answered, m.answer, m.answer_error

-- name: READ_ANSWER (message_id uuid)
-- What lies in the row of a message, for callers outside of workflows and in steps.
select c.n, :answer_now, d.has_ended
from :rows
left join lateral (
    select * from dbos_async.messages
    where id = (select coalesce(copy_of, id) from dbos_async.messages where id = c.message_id) limit 1
) as m on true
left join lateral (
    select ended_at is not null as has_ended from dbos_async.workflows where id = m.destination_id limit 1
) as d on true

-- name: READ_ANSWER_OF (message_id uuid, destination_id text, idempotency_key text)
-- The same after a send: the message with this key may be an earlier one.
select c.n, :answer_now, d.has_ended
from :rows
left join lateral (
    select * from dbos_async.messages where id = c.message_id and destination_id = c.destination_id
    union all
    select * from dbos_async.messages
    where destination_id = c.destination_id and c.idempotency_key is not null
      and idempotency_digest = dbos_async.digest(c.idempotency_key)
    limit 1
) as m on true
left join lateral (
    select ended_at is not null as has_ended from dbos_async.workflows where id = c.destination_id limit 1
) as d on true
