-- Fragments for the statements of all files. `sql.py` explains the syntax, docs/anatomy-of-a-statement.md the skeleton.

-- fragment: fence(workflow_id)
-- The fence: the run may write only while the workflow's row has the attempt of the run. The limit keeps this a look-up by index.
left join lateral (
    select attempt, status from dbos_async.workflows where id = :workflow_id limit 1
) as w on true

-- fragment: is_owner
-- After :fence: whether the run of this call still owns its workflow.
coalesce(w.attempt = c.attempt and w.status = 'PENDING', false)

-- fragment: fence_or_lock(workflow_id)
-- A call with a number is a step: the row of the step decides, and looking at the fence is enough. A call without a number is made
-- inside a step. No row of its own decides, so it locks the row of its workflow until the commit.
left join lateral (
    select attempt, status, deadline, deadline_reaches_children from dbos_async.workflows
    where id = :workflow_id and c.number is not null limit 1
) as w on true
left join lateral (
    select attempt, status, deadline, deadline_reaches_children from dbos_async.workflows
    where id = :workflow_id and c.number is null for share
) as locked on true

-- fragment: is_owner_by_either
-- After :fence_or_lock: whether the run of this call still owns its workflow.
case when c.number is null then coalesce(locked.attempt = c.attempt and locked.status = 'PENDING', false)
     else :is_owner end

-- fragment: inherited_deadline
-- After :fence_or_lock: the deadline that a workflow hands on to what it starts, null for none.
case when w.deadline_reaches_children or locked.deadline_reaches_children then coalesce(w.deadline, locked.deadline) end
    as inherited_deadline

-- fragment: recorded_step(workflow_id)
-- What is recorded of this step already. A new call has no record, and does not look for one.
left join lateral (
    select verb, key, output, error from dbos_async.steps
    where workflow_id = :workflow_id and branch = c.branch and number = c.number limit 1
) as s on true

-- fragment if new: recorded_step(workflow_id)
cross join (select null::text as verb, null::text as key, null::json as output, null::json as error) as s

-- fragment: unless_repeated
-- A repeated call finds its own rows. For a new call a row that is there already is an error, which makes it a repeated call.
on conflict do nothing

-- fragment if new: unless_repeated

-- fragment: tell_executors(source)
-- The body of a CTE. All executors are told what changed behind the digests of the source: each digest once, in one notification.
select dbos_async.notify('__channel___x', string_agg(distinct digest, '')) from :source

-- fragment for one row: tell_executors(source)
select count(pg_notify('__channel___x', encode(digest, 'hex'))) from (select * from :source) as changed where digest is not null

-- fragment: tell_receivers(source)
-- The same for messages, on the channels of the source: see :channel.
select count(dbos_async.notify(channel, digests)) from (
    select channel, string_agg(distinct digest, '') as digests from :source group by channel
) as changed

-- fragment for one row: tell_receivers(source)
select count(pg_notify(channel, encode(digest, 'hex'))) from (select * from :source) as changed where channel is not null

-- fragment: channel_of(digest)
-- Who waits for a value, an event, an end or an answer listens to one of sixteen channels, by the first letter of its digest.
'__channel___' || to_hex(get_byte(:digest, 0) >> 4)

-- fragment: tell_waiters(source)
-- The same for values, events, ends and answers.
select count(dbos_async.notify(channel, digests)) from (
    select :channel_of(digest) as channel, string_agg(distinct digest, '') as digests from :source group by 1
) as changed

-- fragment for one row: tell_waiters(source)
select count(pg_notify(:channel_of(digest), encode(digest, 'hex'))) from :source

-- fragment: tell_news(source)
-- The same, with what has changed: the columns of the source are n, digest and news, which `news.py` explains.
select dbos_async.tell('__channel__', array_agg(digest order by n), array_agg(news order by n)) from :source

-- fragment for one row: tell_news(source)
select count(pg_notify(:channel_of(digest), '=' || encode(digest, 'hex') || coalesce(news, '.'))) from :source

-- fragment: is_news(text)
-- Whether this fits into a notification beside others.
octet_length(:text) <= 2000

-- fragment: tell_of_ends(source)
-- The same for workflows that were ended by others than their runs: the executors that run them are told, too.
select count(dbos_async.notify(channel, digests)) from (
    select channel, string_agg(distinct digest, '') as digests
    from (
        select :channel_of(digest) as channel, digest from :source
        union all
        select '__channel___to_' || right(owner, 12), digest from :source where owner is not null
    ) as each group by channel
) as changed

-- fragment: some_live_executor_knows
-- Whether a live executor has the name of w, a workflow, and runs its version.
exists (
    select 1 from dbos_async.executors as e
    where e.lease_until > clock_timestamp() and w.name = any (e.workflow_names)
      and (e.application_version is null or w.application_version is null
           or e.application_version = w.application_version))

-- fragment: is_unclaimable
-- Whether w, a row of workflows, waits for an executor although no live one can run it.
w.status = 'PENDING' and w.owner is null and not :some_live_executor_knows

-- fragment: filters
-- The filters of a list, with their lists as arrays.
cross join lateral (
    select case when c.ids is not null then array(select json_array_elements_text(c.ids)) end as ids,
           case when c.statuses is not null then array(select json_array_elements_text(c.statuses)) end as statuses,
           case when c.names is not null then array(select json_array_elements_text(c.names)) end as names,
           case when c.versions is not null then array(select json_array_elements_text(c.versions)) end as versions
) as f

-- fragment: fits
(c.statuses is null or w.status = any (c.statuses))
and (c.names is null or w.name = any (c.names))
and (c.versions is null or w.application_version = any (c.versions))
and (c.id_prefix is null or starts_with(w.id, c.id_prefix))
and w.created_at >= coalesce(c.since, '-infinity')
and w.created_at < coalesce(c.until, 'infinity')
and (c.parent_id is null or w.parent_id = c.parent_id)
and (c.unclaimable is null or c.unclaimable = (:is_unclaimable))
and (c.patch is null or w.patches ? c.patch)
and (c.without_patch is null or not coalesce(w.patches ? c.without_patch, false))

-- fragment: are_few
-- After :filters: whether only workflows are wanted of which there is an index.
f.statuses is not null and f.statuses <@ array['PENDING', 'DELAYED', 'ERROR', 'REPLAY_MISMATCH', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED']

-- fragment: few
-- The workflows that have an index of their own: those that go on, and those that a person looks for.
select * from dbos_async.workflows where status = 'PENDING' and owner is null
union all
select * from dbos_async.workflows where status = 'PENDING' and owner is not null
union all
select * from dbos_async.workflows where status = 'DELAYED'
union all
select * from dbos_async.workflows where status in ('ERROR', 'REPLAY_MISMATCH', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')

-- fragment: small(column)
-- A large value is left out: reading it would take longer than all the rest.
case when pg_column_size(:column) <= 65536 then :column end

-- fragment: is_large(column)
coalesce(pg_column_size(:column) > 65536, false)

-- fragment: error(type, arguments)
-- A recorded error of the package.
json_build_object('type', :type, 'args', json_build_array(:arguments))

-- fragment: recorded_wait
-- A wait that an earlier poll has begun, or the end of the step.
left join lateral (
    select verb, key, output, error, message_id, deadline, completed_at from dbos_async.steps
    where workflow_id = c.workflow_id and branch = c.branch and number = c.number limit 1
) as s on true

-- fragment: wait_columns
-- After :recorded_wait: what is recorded, and until when the step waits. The deadline of a wait that begins now is timeout_seconds
-- away; without a timeout it is null.
s.verb as recorded_verb, s.key as recorded_key, s.output as recorded_output, s.error as recorded_error, s.completed_at,
case when s.verb is null then clock_timestamp() + make_interval(secs => c.timeout_seconds) else s.deadline end as deadline

-- fragment: is_waiting(step_verb, step_key)
-- After :wait_columns: the step is new, or it is this very step and waits.
is_owner and completed_at is null
and (recorded_verb is null or (recorded_verb = :step_verb and recorded_key = :step_key))

-- fragment: record_wait(step_verb, result)
-- The end of a statement that waits for something else than a message: its CTE `decided` says whether the result is ready.
recorded as (
    insert into dbos_async.steps (workflow_id, branch, number, verb, key, output, deadline, completed_at, place, asked_after)
    select workflow_id, branch, number, :step_verb, step_key, case when ready then :result end, deadline,
           case when ready then clock_timestamp() end, case when ready then place end, asked_after
    from decided where recorded_verb is null
    order by workflow_id, branch, number
),
completed as (
    -- Always an update, since the wait has begun. As an insert it finds its row by the primary key, whatever the plan.
    insert into dbos_async.steps as s (workflow_id, branch, number, verb, key, output, completed_at, place)
    select workflow_id, branch, number, :step_verb, step_key, :result, clock_timestamp(), place
    from decided where ready and recorded_verb is not null
    order by workflow_id, branch, number
    on conflict (workflow_id, branch, number) do update
        set output = excluded.output, completed_at = excluded.completed_at, place = excluded.place
        where s.completed_at is null and s.verb = excluded.verb and s.key = excluded.key
    returning workflow_id, branch, number
)
select n,
       case when not ready then 'wait'
            when recorded_verb is null
                 or (workflow_id, branch, number) in (select workflow_id, branch, number from completed) then 'done'
            else 'again' end as outcome,
       :result as output, null::json as error,
       extract(epoch from deadline - clock_timestamp())::float8 as seconds_left,
       null::text as recorded_verb, null::text as recorded_key
from decided
union all
select n, case when is_owner then 'recorded' else 'lost' end, recorded_output, recorded_error, null,
       recorded_verb, recorded_key
from calls
where not (:is_waiting(:step_verb, step_key))

-- fragment: stream_from(target_id, key, start)
-- In the place of a table: the rows of a stream, from the one on that has the value at this offset.
dbos_async.stream_entries
where workflow_id = :target_id and key_digest = dbos_async.digest(:key)
  and "offset" >= coalesce((
        select before."offset" from dbos_async.stream_entries as before
        where before.workflow_id = :target_id and before.key_digest = dbos_async.digest(:key) and before."offset" <= :start
        order by before."offset" desc limit 1), 0)
  and "offset" + coalesce(count, 1) > :start

-- fragment: first_there(target_id, key)
-- The first offset that is there of a stream that was trimmed.
(select l.trimmed from dbos_async.stream_entries as l
 where l.workflow_id = :target_id and l.key_digest = dbos_async.digest(:key) and l."offset" = 0 limit 1)

-- fragment: destination
left join lateral (
    select w.id, w.owner, w.ended_at is not null as has_ended
    from dbos_async.workflows as w where w.id = c.destination_id limit 1
) as d on true
-- A workflow that has ended may be deleted at this moment. The lock makes the send and the deletion see each other. In a transaction
-- of the user whose snapshot is older than this statement, any workflow may be gone: then the lock is refused.
left join lateral (
    select w.id from dbos_async.workflows as w
    where w.id = c.destination_id and (d.has_ended or current_setting('transaction_isolation') <> 'read committed') for key share
) as kept on true

-- fragment: duplicate
-- The message that this destination has with this idempotency key.
left join lateral (
    select m.id from dbos_async.messages as m
    where m.destination_id = c.destination_id and c.idempotency_key is not null
      and m.idempotency_digest = dbos_async.digest(c.idempotency_key) limit 1
) as duplicate on true

-- fragment: is_known
-- After :destination: whether that workflow exists.
d.id is not null and (not d.has_ended or kept.id is not null)

-- fragment: channel_to(owner, local_executor_id)
-- The channel on which a message is announced: that of the executor which runs the destination, or of all. The sender's process wakes
-- a receiver that runs in it, and no other process waits for messages of that receiver. A sender that is in a transaction of the user
-- has '' as its local_executor_id: who runs the destination may be another one at the commit.
case when :owner is null or :local_executor_id = '' then '__channel___x'
     when :local_executor_id is distinct from :owner then '__channel___to_' || right(:owner, 12) end

-- fragment: channel
-- The same after :destination.
:channel_to(d.owner, c.local_executor_id)

-- fragment: news_of_value(attempt, offset, value)
-- What `news.py` reads of a value of a stream; null is the end of the stream, and what is too long is not told.
case when :value is null then 'c' || :attempt || ',' || :offset || '::'
     when :is_news(:value::text) then 'v' || :attempt || ',' || :offset || ':' || length(:value::text) || ':' || :value::text end

-- fragment: news_of_event(attempt, seq, set_at, value)
case when :is_news(:value::text) then 'e' || :attempt || ',' || :seq || ',' || (extract(epoch from :set_at) * 1000000)::bigint || ':'
     || length(:value::text) || ':' || :value::text end

-- fragment: page_columns
-- What the cursors of a page need (pages.py): what can be seen now, and before when everything was. A transaction that began to
-- write earlier is over by then.
pg_current_snapshot() as snapshot, clock_timestamp() as now,
clock_timestamp() - case when pg_snapshot_xmin(pg_current_snapshot()) = pg_snapshot_xmax(pg_current_snapshot())
                         then interval '1 minute' else interval '1 hour' end as floor

-- fragment: is_late(row, time, snapshot, floor)
-- Whether a row was committed after the snapshot of a round. A transaction of another server, whose tables were copied here, is none
-- that this server could have seen: what is still to come here made no row, and rows older than the floor are no late ones.
(not coalesce(pg_visible_in_snapshot(:row.born, c.:snapshot), true) and :row.:time >= c.:floor
 and :row.born < pg_snapshot_xmax(pg_current_snapshot()))

-- fragment: writing
-- In the place of a table: the locks of the transactions that write at this moment. A statement takes its locks before its snapshot, so
-- a transaction that is not here sees at least what this statement saw. A prepared transaction has no process.
pg_locks
where mode = 'RowExclusiveLock' and granted and pid is distinct from pg_backend_pid()
  and database = (select oid from pg_database where datname = current_database())
  and relation in ('dbos_async.steps'::regclass, 'dbos_async.messages'::regclass, 'dbos_async.delayed_messages'::regclass,
                   'dbos_async.events'::regclass, 'dbos_async.stream_entries'::regclass)
