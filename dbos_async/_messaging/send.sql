-- Sends: each records the sender's step, stores the messages and announces them, in one statement.

-- fragment: told_if_ended(has_ended)
-- What a send tells its caller, as its output.
case when :has_ended then 'true'::json end

-- fragment: numbered_sends
-- The calls of a send of one message: the sender's steps are recorded, and the messages numbered.
with calls as materialized (
    select c.*, s.verb as recorded_verb, s.key as recorded_key, s.output as recorded_output, s.error as recorded_error,
           :is_known as known, d.has_ended,
           :channel as channel,
           case when not (c.sender_id is null or :is_owner_by_either) then 'lost'
                when s.verb is not null then 'recorded' else 'done' end as outcome
    from :rows
    :destination
    :fence_or_lock(c.sender_id)
    :recorded_step(c.sender_id)
),
recorded as (
    insert into dbos_async.steps (workflow_id, branch, number, verb, key, output, error, completed_at, place, asked_after)
    select sender_id, branch, number, verb, step_key, :told_if_ended(has_ended),
           case when not known then :error('dbos_async.errors:WorkflowNotFoundError', destination_id) end,
           clock_timestamp(), place, asked_after
    from calls where outcome = 'done' and number is not null
    order by sender_id, branch, number
),
numbered as materialized (
    select *, nextval('dbos_async.message_seq') as seq, clock_timestamp() as sent_at
    from calls where outcome = 'done' and known
)

-- fragment: owns_its_workflow
-- Whether the run of the receive, d, still owns its workflow, w.
d.receiver_number is not null and w.attempt = d.receiver_attempt and w.status = 'PENDING'

-- fragment: deliver(verb, key, output)
-- The receive that waits gets its message.
insert into dbos_async.steps as s
    (workflow_id, branch, number, verb, key, message_id, completed_at, place, output)
select destination_id, receiver_branch, receiver_number, :verb, :key, id, clock_timestamp(), receiver_place, :output
from receivers order by destination_id, receiver_branch, receiver_number
on conflict (workflow_id, branch, number) do update
    set output = excluded.output, message_id = excluded.message_id, completed_at = excluded.completed_at,
        place = excluded.place
    where s.completed_at is null and s.verb = excluded.verb and s.key = excluded.key

-- fragment: stored_sends
-- After the CTEs `numbered` and `delivered`: the messages are stored and announced.
sent as (
    insert into dbos_async.messages (id, seq, destination_id, topic, payload, sender_id, headers, sent_at, is_question, received_at)
    select id, seq, destination_id, topic, payload, sender_id, headers, sent_at, nullif(verb = 'ask', false),
           case when id in (select message_id from delivered) then clock_timestamp() end
    from numbered
    :unless_repeated
),
announced as (:tell_receivers(numbered))
select n, outcome, case when outcome = 'recorded' then recorded_output else :told_if_ended(has_ended) end as output,
       case when outcome = 'recorded' then recorded_error
            when not known then :error('dbos_async.errors:WorkflowNotFoundError', destination_id) end as error,
       recorded_verb, recorded_key, id in (select message_id from delivered) as delivered

-- ordered name: SEND (sender_id text, attempt bigint, branch text, number int, verb text, step_key text, id uuid,
--     destination_id text, topic text, payload json, headers json, digest bytea, local_executor_id text,
--     receiver_attempt bigint, receiver_branch text, receiver_number int,
--     receiver_place int)
-- One message, from a workflow or to a receive that waits in the sender's process. That receive gets the message at once.
:numbered_sends,
-- The receive that waits gets its message, unless an earlier message is in the queue.
receivers as materialized (
    select d.*
    from numbered as d
    cross join lateral (
        select attempt, status from dbos_async.workflows where id = d.destination_id limit 1
    ) as w
    left join lateral (
        select id from dbos_async.messages
        where destination_id = d.destination_id and topic_digest = dbos_async.digest(d.topic) and received_at is null
        limit 1
    ) as earlier on true
    where :owns_its_workflow and earlier.id is null
      and not exists (
            select from numbered as o where o.destination_id = d.destination_id and o.topic = d.topic and o.seq < d.seq)
),
delivered as (
    :deliver('recv', topic, payload)
    returning message_id
),
:stored_sends
from calls, announced

-- fragment: waiting_elsewhere
-- The receive in which d, the destination, waits in another process for just this message: the last step of its main task says that
-- the run which owns it may be handed one, and its queue is empty. A message to a workflow that nobody owns waits in the queue.
left join lateral (
    select s.number
    from (
        select number, verb, key, output, completed_at from dbos_async.steps
        where workflow_id = :destination_id and branch = '' order by number desc limit 1
    ) as s
    where d.status = 'PENDING' and d.owner <> coalesce(:local_executor_id, '') and :local_executor_id is distinct from ''
      and s.verb = 'recv' and s.key = :topic and s.completed_at is null and s.output::text = d.attempt::text
      and not exists (
            select from dbos_async.messages
            where destination_id = :destination_id and topic_digest = dbos_async.digest(:topic) and received_at is null)
) as waiting on true

-- fragment: handed
-- After the CTE `destination`: that step gets the message, unless it has another one meanwhile, or was abandoned. Never an insert: the
-- step may be gone, and another generation of the workflow may have one of this number.
handed as (
    update dbos_async.steps set output = :payload, message_id = :id, completed_at = clock_timestamp()
    where workflow_id = :destination_id and branch = '' and number = (select number from destination)
      and completed_at is null and output::text = (select attempt::text from destination)
    returning number
)

-- fragment: is_told
-- After the CTE `handed`: tells the process of the receiver, with the message if its step has it and it is short.
case when channel is not null then pg_notify(channel, case
    when h.number is null or octet_length(:payload::text) + coalesce(octet_length(:headers::text), 0) > 6000
    then encode(:digest, 'hex')
    else '=' || encode(:digest, 'hex') || 'h' || attempt || ',' || h.number || ':36,' || length(:payload::text) || ','
         || coalesce(length(:headers::text)::text, '-') || ':' || :id || concat(:payload::text, :headers::text) end) is not null end
    as is_announced
from destination left join handed as h on true

-- name if usual: SEND
-- A step sends to a workflow that has not ended, and that does not wait in this process.
with destination as materialized (
    select :channel_to(d.owner, :local_executor_id) as channel, d.attempt, waiting.number
    from dbos_async.workflows as w
    cross join lateral (
        select owner, status, attempt from dbos_async.workflows where id = :destination_id and ended_at is null limit 1
    ) as d
    :waiting_elsewhere
    where w.id = :sender_id and w.attempt = :attempt and w.status = 'PENDING' and :number is not null
      and (:receiver_attempt, :receiver_branch, :receiver_number, :receiver_place) is null
    limit 1
),
recorded as (
    insert into dbos_async.steps (workflow_id, branch, number, verb, key, completed_at, place, asked_after)
    select :sender_id, :branch, :number, :verb, :step_key, clock_timestamp(), :place, :asked_after from destination
),
:handed,
sent as (
    insert into dbos_async.messages (id, seq, destination_id, topic, payload, sender_id, headers, is_question, received_at)
    select :id, nextval('dbos_async.message_seq'), :destination_id, :topic, :payload, :sender_id, :headers,
           nullif(:verb = 'ask', false), case when exists (select from handed) then clock_timestamp() end
    from destination
)
select :n as n, 'done' as outcome, null::json as output, null::json as error, null::text as recorded_verb,
       null::text as recorded_key, false as delivered,
       :is_told

-- ordered name: SEND_TO_FIRST (sender_id text, attempt bigint, branch text, number int, verb text, step_key text, id uuid,
--     destination_id text, topic text, payload json, headers json, digest bytea, local_executor_id text,
--     receiver_attempt bigint, receiver_branch text, receiver_number int, receiver_key text, receiver_index int,
--     receiver_topics json, receiver_place int)
-- SEND to a wait for the first of several. The topics are those up to that of the message: none of them may have an earlier one.
:numbered_sends,
receivers as materialized (
    select d.*,
           json_build_object('index', d.receiver_index, 'value', json_build_object(
               'id', d.id, 'destination_id', d.destination_id, 'topic', nullif(d.topic, ''), 'payload', d.payload,
               'sender_id', d.sender_id, 'sent_at', d.sent_at, 'headers', coalesce(d.headers, '{}'))) as won
    from numbered as d
    cross join lateral (
        select attempt, status from dbos_async.workflows where id = d.destination_id limit 1
    ) as w
    left join lateral (
        select m.id
        from json_array_elements_text(d.receiver_topics) as t (topic)
        cross join lateral (
            select id from dbos_async.messages
            where destination_id = d.destination_id and topic_digest = dbos_async.digest(t.topic) and received_at is null
            limit 1
        ) as m
        limit 1
    ) as earlier on true
    where :owns_its_workflow and earlier.id is null
      and not exists (select from numbered as o where o.destination_id = d.destination_id and o.seq < d.seq)
),
delivered as (
    :deliver('wait_first', receiver_key, won)
    returning message_id, output
),
:stored_sends,
       (select output from delivered where message_id = id) as delivered_output
from calls, announced

-- name: SEND_EXTERNAL (id uuid, destination_id text, topic text, payload json, headers json, digest bytea,
--     local_executor_id text)
-- One message from outside of workflows: there is no step to record.
with messages as materialized (
    select c.*, :is_known as known, d.has_ended,
           :channel as channel
    from :rows
    :destination
),
sent as (
    insert into dbos_async.messages (id, seq, destination_id, topic, payload, headers)
    select id, nextval('dbos_async.message_seq'), destination_id, topic, payload, headers from messages where known
    :unless_repeated
),
announced as (:tell_receivers(messages where known))
select n, 'done' as outcome, :told_if_ended(has_ended) as output,
       case when not known then :error('dbos_async.errors:WorkflowNotFoundError', destination_id) end as error
from messages, announced

-- name if usual: SEND_EXTERNAL
-- To a workflow that has not ended.
with destination as materialized (
    select :channel_to(d.owner, :local_executor_id) as channel, d.attempt, waiting.number
    from (
        select owner, status, attempt from dbos_async.workflows where id = :destination_id and ended_at is null limit 1
    ) as d
    :waiting_elsewhere
),
:handed,
sent as (
    insert into dbos_async.messages (id, seq, destination_id, topic, payload, headers, received_at)
    select :id, nextval('dbos_async.message_seq'), :destination_id, :topic, :payload, :headers,
           case when exists (select from handed) then clock_timestamp() end
    from destination
)
select :n as n, 'done' as outcome, null::json as output, null::json as error,
       :is_told

-- ordered name: SEND_BULK (sender_id text, attempt bigint, branch text, number int, verb text, step_key text, id uuid,
--     destination_id text, topic text, payload json, headers json, digest bytea, local_executor_id text,
--     idempotency_key text)
-- Several messages with one sender's step, a row each: all of them are stored, or none. Also for messages with an idempotency key.
with messages as materialized (
    select c.*, :is_known as known, d.has_ended, duplicate.id is not null as is_duplicate,
           :channel as channel
    from :rows_with_index
    :destination
    :duplicate
),
calls as materialized (
    select c.*, s.verb as recorded_verb, s.key as recorded_key, s.output as recorded_output, s.error as recorded_error,
           case when not (c.sender_id is null or :is_owner_by_either) then 'lost'
                when s.verb is not null then 'recorded' else 'done' end as outcome
    from (
        select n, sender_id, attempt, branch, number, verb, step_key, place, asked_after,
               min(destination_id) filter (where not known) as unknown_id,
               to_json(array_agg(distinct destination_id) filter (where known and has_ended)) as ended_ids
        from messages group by n, sender_id, attempt, branch, number, verb, step_key, place, asked_after
    ) as c
    :fence_or_lock(c.sender_id)
    :recorded_step(c.sender_id)
),
recorded as (
    insert into dbos_async.steps (workflow_id, branch, number, verb, key, output, error, completed_at, place, asked_after)
    select sender_id, branch, number, verb, step_key, case when unknown_id is null then ended_ids end,
           case when unknown_id is not null then :error('dbos_async.errors:WorkflowNotFoundError', unknown_id) end,
           clock_timestamp(), place, asked_after
    from calls where outcome = 'done' and number is not null
    order by sender_id, branch, number
),
-- Messages are numbered in the order of the calls. Keys are locked in the order of their names, so that no two batches deadlock.
numbered as materialized (
    select c.*, nextval('dbos_async.message_seq') as seq
    from (
        select * from messages
        where (n in (select n from calls where outcome = 'done' and unknown_id is null)) is true
        order by index
    ) as c
),
sent as (
    insert into dbos_async.messages
        (id, seq, destination_id, topic, payload, idempotency_key, sender_id, headers, is_question)
    select id, seq, destination_id, topic, payload, idempotency_key, sender_id, headers, nullif(verb = 'ask', false)
    from numbered where not is_duplicate order by destination_id, dbos_async.digest(idempotency_key), seq
    :unless_repeated
),
announced as (:tell_receivers(numbered))
select n, outcome, case when outcome = 'recorded' then recorded_output when unknown_id is null then ended_ids end as output,
       case when outcome = 'recorded' then recorded_error
            when unknown_id is not null then :error('dbos_async.errors:WorkflowNotFoundError', unknown_id) end as error,
       recorded_verb, recorded_key
from calls, announced
