-- Sends of which some are due later, and starts with a message.

-- ordered name: SEND_LATER (sender_id text, attempt bigint, branch text, number int, verb text, step_key text, id uuid,
--     destination_id text, topic text, payload json, headers json, digest bytea, local_executor_id text,
--     idempotency_key text, delay_seconds float8, sender_step text, name text, input json, application_version text,
--     trace_parent text, start_id uuid, timeout_seconds float8, reaches_children boolean, start_delay_seconds float8,
--     start_digest bytea)
-- SEND_BULK for messages of which some are due later, or for one message whose destination is started if it is not there ("name" is
-- the name of its function). A repetition finds the message where it is by now.
with moment as materialized (select clock_timestamp() as now),
messages as materialized (
    select c.*, :is_known as known, d.has_ended, coalesce(sent.id, duplicate.id, delayed.id) is not null as is_duplicate,
           :channel as channel,
           case when c.name is not null then coalesce(
               case when :is_known then there.name end,
               first_value(c.name) over (partition by c.destination_id, c.name is null order by c.n)) end as taken_name
    from :rows_with_index
    :destination
    :duplicate
    left join lateral (
        select l.id from dbos_async.delayed_messages as l
        where l.destination_id = c.destination_id and c.idempotency_key is not null
          and l.idempotency_digest = dbos_async.digest(c.idempotency_key) limit 1
    ) as delayed on true
    left join lateral (
        select id from dbos_async.messages where id = c.id and destination_id = c.destination_id limit 1
    ) as sent on true
    left join lateral (
        select name from dbos_async.workflows where id = c.destination_id and c.name is not null limit 1
    ) as there on true
),
calls as materialized (
    select c.*, s.verb as recorded_verb, s.key as recorded_key, s.output as recorded_output, s.error as recorded_error,
           case when not (c.sender_id is null or :is_owner_by_either) then 'lost'
                when s.verb is not null then 'recorded' else 'done' end as outcome,
           :inherited_deadline,
           case when unknown_id is not null then :error('dbos_async.errors:WorkflowNotFoundError', unknown_id)
                when taken_name <> name then
                    :error('dbos_async.errors:WorkflowConflictError', destination_id, taken_name, name) end as failure
    from (
        select n, sender_id, attempt, branch, number, verb, step_key, place, asked_after,
               min(destination_id) filter (where not known and name is null) as unknown_id,
               min(destination_id) as destination_id, min(name) as name, min(taken_name) as taken_name,
               to_json(array_agg(distinct destination_id) filter (where known and has_ended)) as ended_ids
        from messages group by n, sender_id, attempt, branch, number, verb, step_key, place, asked_after
    ) as c
    :fence_or_lock(c.sender_id)
    :recorded_step(c.sender_id)
),
recorded as (
    insert into dbos_async.steps (workflow_id, branch, number, verb, key, output, error, completed_at, place, asked_after)
    select sender_id, branch, number, verb, step_key, case when failure is null then ended_ids end, failure,
           clock_timestamp(), place, asked_after
    from calls where outcome = 'done' and number is not null
    order by sender_id, branch, number
),
-- Messages are numbered in the order of the calls. Keys are locked in the order of their names, so that no two batches deadlock.
numbered as materialized (
    select c.*, case when delay_seconds is null then nextval('dbos_async.message_seq')
                     else nextval('dbos_async.delayed_seq') end as seq
    from (
        select * from messages
        where (n in (select n from calls where outcome = 'done' and failure is null)) is true
        order by index
    ) as c
),
new_rows as materialized (
    select distinct on (destination_id) *, (select now from moment) + make_interval(secs => start_delay_seconds) as due_at
    from numbered where name is not null and not known order by destination_id, n
),
starts as (select due_at, start_digest as digest from new_rows),
started as (
    -- Another transaction may insert the row at this moment. Then the unique key rejects the batch, and its retry sees the row.
    insert into dbos_async.workflows
        (id, name, status, input, attempt, start_id, parent_id, parent_step, application_version, trace_parent, due_at, deadline,
         deadline_reaches_children)
    select destination_id, name, case when due_at is null then 'PENDING' else 'DELAYED' end, input,
           nextval('dbos_async.workflow_seq') * 1000000, start_id, sender_id, sender_step, application_version, trace_parent,
           due_at, least(coalesce(due_at, clock_timestamp()) + make_interval(secs => timeout_seconds), inherited_deadline),
           case when inherited_deadline is not null then true else reaches_children end
    from (select r.*, (select inherited_deadline from calls where n = r.n) as inherited_deadline from new_rows as r) as new_rows
),
sent as (
    insert into dbos_async.messages
        (id, seq, destination_id, topic, payload, idempotency_key, sender_id, headers)
    select id, seq, destination_id, topic, payload, idempotency_key, sender_id, headers
    from numbered where not is_duplicate and delay_seconds is null
    order by destination_id, dbos_async.digest(idempotency_key), seq
    :unless_repeated
),
delayed as (
    insert into dbos_async.delayed_messages
        (id, seq, destination_id, due_at, topic, payload, idempotency_key, sender_id, headers, digest)
    select id, seq, destination_id, (select now from moment) + make_interval(secs => delay_seconds), topic, payload,
           idempotency_key, sender_id, headers, digest
    from numbered where not is_duplicate and delay_seconds is not null
    order by destination_id, dbos_async.digest(idempotency_key), seq
    :unless_repeated
),
announced as (:tell_receivers(numbered where delay_seconds is null)),
announced_starts as (
    :tell_executors(starts where due_at is null)
)
select n, outcome, case when outcome = 'recorded' then recorded_output when failure is null then ended_ids end as output,
       case when outcome = 'recorded' then recorded_error else failure end as error, recorded_verb, recorded_key
from calls, announced, announced_starts
