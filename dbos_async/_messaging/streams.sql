-- Streams: rows with the offsets 0, 1, 2 … A row has a value, or several, or closes the stream, or takes back what stands before it.
-- Values never change.

-- fragment: tail
-- The last row of the stream. The search begins where this process knows a row.
left join lateral (
    select "offset", coalesce(count, 1) as count, closes, attempt from dbos_async.stream_entries
    where workflow_id = c.workflow_id and key_digest = dbos_async.digest(c.key) and "offset" >= c.written
    order by "offset" desc limit 1
) as tail on true

-- fragment: is_written
-- After :tail: a call inside a step may be a repetition, after its first answer was lost.
coalesce(tail.attempt = c.attempt, false) and exists (
    select from dbos_async.stream_entries
    where workflow_id = c.workflow_id and key_digest = dbos_async.digest(c.key) and "offset" >= c.written
      and attempt = c.attempt and act = c.write_seq)

-- ordered name: WRITE (workflow_id text, attempt bigint, branch text, number int, step text, verb text, key text,
--     value json, write_seq int, written int, digest bytea)
-- Writes one value. A call without a value closes the stream.
with calls as materialized (
    select c.*, s.verb as recorded_verb, s.key as recorded_key, s.error as recorded_error,
           case when not :is_owner_by_either then 'lost'
                when s.verb is not null then 'recorded'
                when c.number is null and :is_written then 'superseded'
                else 'done' end as outcome,
           coalesce(tail."offset" + tail.count - 1, -1) as tail, coalesce(tail.closes, false) as was_closed
    from :rows
    :fence_or_lock(c.workflow_id)
    :recorded_step(c.workflow_id)
    :tail
),
positioned as materialized (
    select *, tail + count(*) filter (where outcome = 'done') over earlier as "offset",
           was_closed or count(*) filter (where outcome = 'done' and value is null) over earlier
                         > (outcome = 'done' and value is null)::int as closed
    from calls
    window earlier as (partition by workflow_id, key order by n rows unbounded preceding)
),
recorded as (
    insert into dbos_async.steps (workflow_id, branch, number, verb, key, error, completed_at, place, asked_after)
    select workflow_id, branch, number, verb, key,
           case when closed and value is not null then :error('dbos_async.errors:StreamClosedError', workflow_id, key) end,
           clock_timestamp(), place, asked_after
    from positioned where outcome = 'done' and number is not null
),
written as (
    insert into dbos_async.stream_entries (workflow_id, key, "offset", value, closes, step, attempt, act)
    select workflow_id, key, "offset", value, value is null, step, attempt, write_seq
    from positioned where outcome = 'done' and not closed
),
news as (
    select n, digest, :news_of_value(attempt, "offset", value) as news
    from positioned where outcome = 'done' and not closed
),
announced as (:tell_news(news))
select n, case when outcome = 'superseded' then 'done' else outcome end as outcome, null::json as output,
       case when outcome = 'recorded' then recorded_error
            when outcome = 'done' and closed and value is not null
                then :error('dbos_async.errors:StreamClosedError', workflow_id, key) end as error,
       recorded_verb, recorded_key, case when outcome = 'done' and not closed then "offset" end as "offset"
from positioned, announced

-- name if usual: WRITE
-- A step writes to a stream that is not closed.
with positioned as materialized (
    select coalesce(tail."offset" + tail.count, 0) as "offset"
    from dbos_async.workflows as w
    left join lateral (
        select "offset", coalesce(count, 1) as count, closes from dbos_async.stream_entries
        where workflow_id = :workflow_id and key_digest = dbos_async.digest(:key) and "offset" >= :written
        order by "offset" desc limit 1
    ) as tail on true
    where w.id = :workflow_id and w.attempt = :attempt and w.status = 'PENDING' and tail.closes is not true
      and :number is not null
    limit 1
),
recorded as (
    insert into dbos_async.steps (workflow_id, branch, number, verb, key, completed_at, place, asked_after)
    select :workflow_id, :branch, :number, :verb, :key, clock_timestamp(), :place, :asked_after from positioned
),
written as (
    insert into dbos_async.stream_entries (workflow_id, key, "offset", value, closes, step, attempt, act)
    select :workflow_id, :key, "offset", :value, :value is null, :step, :attempt, :write_seq from positioned
)
select :n as n, 'done' as outcome, null::json as output, null::json as error, null::text as recorded_verb,
       null::text as recorded_key, "offset",
       pg_notify(:channel_of(:digest), '=' || encode(:digest, 'hex') || coalesce(:news_of_value(:attempt, "offset", :value), '.'))
           is not null as is_announced
from positioned

-- fragment: values_from(count)
-- The values of a call as an array, without the first ones, which are stored already.
cross join lateral (
    select array(
        select v.value from json_array_elements(c.batch) with ordinality as v(value, place)
        where place > coalesce(:count, 0) order by place) as entries
) as v

-- ordered name: APPEND (workflow_id text, attempt bigint, branch text, number int, step text, verb text, key text, batch json,
--     first int, output json, write_seq int, written int, digest bytea)
-- Writes several values in one row. "first" says how many values the stream writer of this step has written before them. What of
-- them is stored already, or comes with an earlier call of this statement, is left out, so values may come again. Without "first"
-- they are values of write_stream_many.
with calls as materialized (
    select c.*, s.verb as recorded_verb, s.key as recorded_key, s.output as recorded_output, s.error as recorded_error,
           case when not :is_owner_by_either then 'lost'
                when s.verb is not null then 'recorded'
                when c.number is null and c.first is null and :is_written then 'superseded'
                else 'done' end as outcome,
           coalesce(tail."offset" + tail.count - 1, -1) as tail, coalesce(tail.closes, false) as was_closed, writer.stored
    from :rows
    :fence_or_lock(c.workflow_id)
    :recorded_step(c.workflow_id)
    :tail
    left join lateral (
        select nth + count as stored from dbos_async.stream_entries
        where workflow_id = c.workflow_id and key_digest = dbos_async.digest(c.key) and step = c.step and nth is not null
          and taken_back_by is null and c.first is not null
        order by "offset" desc limit 1
    ) as writer on true
),
compared as materialized (
    select *, greatest(stored - first, max(first + json_array_length(batch))
                           filter (where outcome = 'done' and not was_closed and json_array_length(batch) > 0)
                           over earlier - first,
                       0) as stored_of_these
    from calls
    window earlier as (partition by workflow_id, key, step order by n rows between unbounded preceding and 1 preceding)
),
new as materialized (
    select c.*, first + stored_of_these as nth, v.entries,
           outcome = 'done' and was_closed and cardinality(v.entries) > 0 as is_refused,
           outcome = 'done' and not was_closed and cardinality(v.entries) > 0 as is_written
    from compared as c
    :values_from(c.stored_of_these)
),
positioned as materialized (
    select *, tail + 1 + coalesce(sum(cardinality(entries)) filter (where is_written) over earlier, 0)::int as "offset"
    from new
    window earlier as (partition by workflow_id, key order by n rows between unbounded preceding and 1 preceding)
),
recorded as (
    insert into dbos_async.steps (workflow_id, branch, number, verb, key, output, error, completed_at, place, asked_after)
    select workflow_id, branch, number, verb, key, case when not is_refused then output end,
           case when is_refused then :error('dbos_async.errors:StreamClosedError', workflow_id, key) end,
           clock_timestamp(), place, asked_after
    from positioned where outcome = 'done' and number is not null
),
written as (
    insert into dbos_async.stream_entries (workflow_id, key, "offset", batch, count, nth, step, attempt, act)
    select workflow_id, key, "offset", entries, cardinality(entries), nth, step, attempt, write_seq
    from positioned where is_written
),
news as (
    select n, digest, case when :is_news(batch::text) then 'v' || attempt || ',' || "offset" || ':' || (
        select string_agg(length(value::text)::text, ',' order by place) || ':' || string_agg(value::text, '' order by place)
        from unnest(entries) with ordinality as e(value, place)) end as news
    from positioned where is_written
),
announced as (:tell_news(news))
select n, case when outcome = 'superseded' then 'done' else outcome end as outcome,
       case when outcome = 'recorded' then recorded_output when not is_refused then output end as output,
       case when outcome = 'recorded' then recorded_error
            when is_refused then :error('dbos_async.errors:StreamClosedError', workflow_id, key) end as error,
       recorded_verb, recorded_key, case when is_written then "offset" end as "offset", cardinality(entries) as count
from positioned, announced

-- name: REWIND (workflow_id text, attempt bigint, step text, key text, batch json, write_seq int, written int, digest bytea)
-- The first values of a new attempt of a step. What earlier attempts wrote is taken back, and so is everything behind it. What
-- others wrote there follows as copies, and then these values. A run has one such call of a stream at a time.
with calls as materialized (
    select c.*, v.entries,
           case when not :is_owner then 'lost'
                when writer.is_new then 'superseded'
                else 'done' end as outcome,
           coalesce(tail."offset" + tail.count - 1, -1) as tail, coalesce(tail.closes, false) as was_closed,
           earlier."offset" as rewinds_to
    from :rows
    left join lateral (
        select attempt, status from dbos_async.workflows where id = c.workflow_id for share
    ) as w on true
    :tail
    left join lateral (
        select (attempt, act) >= (c.attempt, c.write_seq) as is_new from dbos_async.stream_entries
        where workflow_id = c.workflow_id and key_digest = dbos_async.digest(c.key) and step = c.step and nth is not null
          and taken_back_by is null
        order by "offset" desc limit 1
    ) as writer on true
    left join lateral (
        select "offset" from dbos_async.stream_entries
        where workflow_id = c.workflow_id and key_digest = dbos_async.digest(c.key) and step = c.step and nth is not null
          and taken_back_by is null
        order by "offset" limit 1
    ) as earlier on true
    :values_from(0)
),
rewinding as materialized (
    select *, tail + 1 as place_of_rewind from calls
    where outcome = 'done' and not was_closed and rewinds_to is not null
),
taken_back as materialized (
    select r.n, r.place_of_rewind, e.*,
           (e.step <> r.step or e.nth is null) and (e.value is not null or e.batch is not null) as is_kept
    from rewinding as r cross join lateral (
        select * from dbos_async.stream_entries
        where workflow_id = r.workflow_id and key_digest = dbos_async.digest(r.key) and "offset" >= r.rewinds_to
          and taken_back_by is null and (trimmed is null or (step = r.step and nth is not null))
        order by "offset" limit 2147483647
    ) as e
),
marked as (
    -- Always an update, unless a trim has removed the row at this moment. As an insert it finds its rows by the primary key, whatever
    -- the plan. A row without values stays, and is not the writer's any more.
    insert into dbos_async.stream_entries as e (workflow_id, key, "offset", step, attempt, act, taken_back_by, trimmed)
    select workflow_id, key, "offset", step, attempt, -1, place_of_rewind, trimmed from taken_back order by n, "offset"
    on conflict (workflow_id, key_digest, "offset") do update
        set taken_back_by = case when e.trimmed is null then excluded.taken_back_by end, nth = case when e.trimmed is null then e.nth end
        where e.trimmed is not distinct from excluded.trimmed
    returning act
),
undisturbed as (
    select dbos_async.repeat_if(count(*) filter (where act <> -1) < (select count(*) from taken_back)) from marked
),
rewound as (
    insert into dbos_async.stream_entries (workflow_id, key, "offset", rewinds_to, step, attempt, act)
    select workflow_id, key, place_of_rewind, rewinds_to, step, attempt, write_seq from rewinding
),
copies as materialized (
    select *, place_of_rewind + 1 + coalesce(sum(coalesce(count, 1)) over earlier, 0)::int as new_offset
    from taken_back where is_kept
    window earlier as (partition by n order by "offset" rows between unbounded preceding and 1 preceding)
),
copied as (
    insert into dbos_async.stream_entries (workflow_id, key, "offset", value, batch, count, nth, copy_of, step, attempt, act, written_at)
    select workflow_id, key, new_offset, value, batch, count, nth, coalesce(copy_of, "offset"), step, attempt, act, written_at
    from copies
),
positioned as materialized (
    select c.*, outcome = 'done' and not was_closed as is_open, cardinality(entries) > 0 or rewinds_to is not null as is_told,
           tail + 1 + case when r.n is not null then 1 else 0 end + coalesce(k.count, 0)::int as "offset"
    from calls as c
    left join (select n from rewinding) as r on r.n = c.n
    left join (select n, sum(coalesce(count, 1)) as count from copies group by n) as k on k.n = c.n
),
written as (
    insert into dbos_async.stream_entries (workflow_id, key, "offset", batch, count, nth, step, attempt, act)
    select workflow_id, key, "offset", entries, cardinality(entries), 0, step, attempt, write_seq
    from positioned where is_open and cardinality(entries) > 0
),
announced as (
    :tell_waiters(positioned where is_open and is_told)
)
select n, case when outcome = 'superseded' then 'done' else outcome end as outcome, null::json as output,
       case when outcome = 'done' and was_closed and (cardinality(entries) > 0 or rewinds_to is not null)
            then :error('dbos_async.errors:StreamClosedError', workflow_id, key) end as error,
       case when is_open and cardinality(entries) > 0 then "offset" end as "offset", cardinality(entries) as count,
       rewinds_to is not null as has_rewound
from positioned, announced, undisturbed

-- name: WRITTEN (workflow_id text, key text, step text)
-- What the stream writers of a step have written so far and what stands of it. "count" says how many values the last one had written
-- by the end of this row, of which some may be trimmed.
select c.n, e.batch, e.nth + e.count as count
from :rows
left join lateral (
    select nth, batch, count, "offset" from dbos_async.stream_entries
    where workflow_id = c.workflow_id and key_digest = dbos_async.digest(c.key) and step = c.step and nth is not null
      and taken_back_by is null
) as e on true
order by c.n, e."offset"
