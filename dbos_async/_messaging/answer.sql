-- Answers: each records the step of the one who answers and comes to lie in the row of the question, in one statement.

-- ordered name: ANSWER (workflow_id text, attempt bigint, branch text, number int, verb text, step_key text, message_id uuid,
--     answer json, answer_error json)
-- The answer locks the row of the question, and the first one counts. A copy that redeliver has made is answered at its original,
-- where the one who asked waits. A step may repeat its call when the result was lost: it hears that the same answer lies there.
with calls as materialized (
    select c.*, s.verb as recorded_verb, s.key as recorded_key, s.output as recorded_output, s.error as recorded_error,
           received.question_id,
           case when not :is_owner_by_either then 'lost'
                when s.verb is not null then 'recorded' else 'done' end as outcome
    from :rows
    :fence_or_lock(c.workflow_id)
    :recorded_step(c.workflow_id)
    left join lateral (
        select coalesce(copy_of, id) as question_id from dbos_async.messages
        where id = c.message_id and destination_id = c.workflow_id limit 1
    ) as received on true
),
decided as materialized (
    select c.*, coalesce(m.answered_at is null and c.turn = 1, false) and m.id is not null as counts,
           case when m.id is null then :error('dbos_async.errors:MessageNotFoundError', c.message_id) end as missing_error,
           case when m.id is null then null
                when m.answered_at is null and c.turn = 1 then 'true'::json
                when c.number is null
                     and coalesce(m.answer, m.answer_error)::text = coalesce(c.answer, c.answer_error)::text then '"same"'::json
                else 'false'::json end as told,
           substr(uuid_send(m.id), 9) as digest
    from (
        select *, row_number() over (partition by question_id order by n) as turn
        from calls where outcome = 'done'
        order by question_id, turn
    ) as c
    left join lateral (
        select id, answered_at, answer, answer_error from dbos_async.messages
        where id = c.question_id and destination_id = c.workflow_id
        for update
    ) as m on true
),
recorded as (
    insert into dbos_async.steps (workflow_id, branch, number, verb, key, output, error, completed_at, place, asked_after)
    select workflow_id, branch, number, verb, step_key, told, missing_error, clock_timestamp(), place, asked_after
    from decided where number is not null
    order by workflow_id, branch, number
),
answered as (
    -- These rows are locked, and they had no answer when they were locked.
    update dbos_async.messages as m
    set (answer, answer_error) = (
            select d.answer, d.answer_error from decided as d where d.counts and d.question_id = m.id limit 1),
        answered_at = clock_timestamp()
    where id = any (array(select question_id from decided where counts))
      and destination_id = any (array(select workflow_id from decided where counts))
),
announced as (:tell_waiters(decided where counts))
select n, outcome, told as output, missing_error as error, recorded_verb, recorded_key,
       case when counts then question_id end as question_id
from decided, announced
union all
select n, outcome, recorded_output, recorded_error, recorded_verb, recorded_key, null
from calls where outcome <> 'done'
