-- The first of several waits: which one it is, what it brings and the step of the workflow are recorded in one statement.

-- fragment: is_ready
-- After the look-ups of :first_ready: whether this wait has come to its end. Of steps the process itself knows.
case w.kind when 'topic' then m.id is not null
            when 'event' then e.seq is not null or coalesce(t.status in ('SUCCESS', 'ERROR', 'CANCELLED'), w.after > 0)
            when 'stream' then s."offset" is not null or t.status is null or t.status in ('SUCCESS', 'ERROR', 'CANCELLED')
            when 'workflow' then t.status is distinct from 'PENDING' and t.status is distinct from 'DELAYED'
            else w.is_ready end

-- fragment: brings
-- What the wait brings. An event or a stream that has ended brings no value, and a handle brings itself.
case when m.id is not null then json_build_object(
         'id', m.id, 'destination_id', c.workflow_id, 'topic', nullif(w.key, ''), 'payload', m.payload,
         'sender_id', m.sender_id, 'sent_at', m.sent_at, 'headers', coalesce(m.headers, '{}'))
     when e.seq is not null then json_build_object('version', e.seq, 'set_at', e.set_at, 'value', e.value)
     when s."offset" is not null and not s.closes then json_build_object('offset', s."offset", 'value', s.value)
     when w.kind = 'stream' then json_build_object('end', coalesce(s."offset", w.after)) end

-- fragment: first_ready
-- The first wait that is ready, in the order of the caller, with its index from 0. Messages of losers are locked until the commit,
-- and not changed.
left join lateral (
    select w.index - 1 as index, w.key as topic, m.id as message_id, m.headers, m.sent_at,
           w.kind = 'stream' and t.status is null as is_unknown, w.id as target_id, w.key, w.after,
           case when s.is_trimmed then :first_there(w.id, w.key) end as first,
           json_build_object('index', w.index - 1, 'value', :brings) as output
    from rows from (json_to_recordset(c.waits) as (kind text, id text, key text, after bigint, is_ready boolean))
        with ordinality as w (kind, id, key, after, is_ready, index)
    left join lateral (
        select id, payload, sender_id, sent_at, headers from dbos_async.messages
        where w.kind = 'topic' and destination_id = c.workflow_id and topic_digest = dbos_async.digest(w.key)
          and received_at is null
        order by seq limit 1
        for update
    ) as m on true
    left join lateral (
        select seq, value, set_at from dbos_async.events
        where w.kind = 'event' and workflow_id = w.id and key_digest = dbos_async.digest(w.key) and seq > w.after
        order by seq desc limit 1
    ) as e on true
    left join lateral (
        select greatest("offset", w.after) as "offset", closes, trimmed is not null as is_trimmed,
               case when batch is null then value else batch[greatest(w.after - "offset", 0)::int + 1] end as value
        from :stream_from(w.id, w.key, w.after)
          and w.kind = 'stream' and taken_back_by is null and rewinds_to is null
        order by "offset" limit 1
    ) as s on true
    left join lateral (
        select status from dbos_async.workflows
        where w.kind in ('event', 'stream', 'workflow') and id = w.id limit 1
    ) as t on true
    where :is_ready
    order by w.index limit 1
) as r on true

-- fragment: nothing_is_recorded
-- In the place of :recorded_wait, for a new step.
cross join (
    select null::text as verb, null::text as key, null::json as output, null::json as error, null::uuid as message_id,
           null::timestamptz as deadline, null::timestamptz as completed_at
) as s

-- fragment: completes_the_wait
on conflict (workflow_id, branch, number) do update
    set output = excluded.output, error = excluded.error, message_id = excluded.message_id,
        completed_at = excluded.completed_at, place = excluded.place
    where s.completed_at is null and excluded.completed_at is not null
      and s.verb = excluded.verb and s.key = excluded.key

-- fragment: no_row_is_there

-- fragment: first_of(what_is_recorded, unless_it_is)
with calls as materialized (
    select c.*, :is_owner as is_owner,
           :wait_columns, s.message_id as recorded_message_id
    from :rows
    :fence(c.workflow_id)
    :what_is_recorded
),
decided as materialized (
    select c.*, r.index, r.topic, r.message_id, r.headers, r.sent_at, r.is_unknown, r.target_id, r.key, r.after, r.first, r.output,
           r.index is null and coalesce(c.deadline <= clock_timestamp(), false) as expired,
           row_number() over (partition by r.message_id order by c.n) as turn
    from (select * from calls where :is_waiting('wait_first', step_key)) as c
    :first_ready
),
ready as materialized (
    -- Of waits side by side, one takes a message. The others poll again.
    select *, expired or (index is not null and (message_id is null or turn = 1)) as is_ready,
           case when is_unknown then :error('dbos_async.errors:WorkflowNotFoundError', target_id)
                when first is not null then :error('dbos_async.errors:StreamTrimmedError', target_id, key, after, first) end
               as first_error
    from decided
),
recorded as (
    insert into dbos_async.steps as s
        (workflow_id, branch, number, verb, key, output, error, message_id, deadline, completed_at, place, asked_after)
    select workflow_id, branch, number, 'wait_first', step_key, case when is_ready and first_error is null then output end,
           case when is_ready then first_error end, case when is_ready then message_id end, deadline,
           case when is_ready then clock_timestamp() end, case when is_ready then place end, asked_after
    from ready
    where is_ready or recorded_verb is null
    order by workflow_id, branch, number
    :unless_it_is
    returning workflow_id, branch, number
),
outcomes as materialized (
    select r.n, r.workflow_id, r.message_id, r.output, r.headers, r.sent_at, r.first_error, r.deadline,
           case when r.is_ready and (r.workflow_id, r.branch, r.number) in (
                    select workflow_id, branch, number from recorded) then 'done'
                when r.is_ready or r.index is not null then 'again'
                else 'wait' end as outcome
    from ready as r
),
received as (
    -- These rows are locked, and they were unreceived when they were locked.
    update dbos_async.messages set received_at = clock_timestamp()
    where id = any (array(select message_id from outcomes where outcome = 'done' and message_id is not null))
      and destination_id = any (array(select workflow_id from outcomes where outcome = 'done' and message_id is not null))
)
select n, outcome, case when first_error is null then output end as output, first_error as error,
       extract(epoch from deadline - clock_timestamp())::float8 as seconds_left,
       null::text as recorded_verb, null::text as recorded_key, message_id, headers,
       extract(epoch from clock_timestamp() - sent_at)::float8 as age
from outcomes
union all
select n, case when is_owner then 'recorded' else 'lost' end, recorded_output, recorded_error, null,
       recorded_verb, recorded_key, recorded_message_id, null, null
from calls
where not (:is_waiting('wait_first', step_key))

-- ordered name: FIRST_WAITING (workflow_id text, attempt bigint, branch text, number int, step_key text, waits json,
--     timeout_seconds float8)
-- For any wait: its step may be recorded already, or have begun to wait.
:first_of(:recorded_wait, :completes_the_wait)

-- ordered name: FIRST (workflow_id text, attempt bigint, branch text, number int, step_key text, waits json,
--     timeout_seconds float8)
-- For a new wait: nothing is recorded of its step yet.
:first_of(:nothing_is_recorded, :no_row_is_there)
