-- Streams: rows with the offsets 0, 1, 2 … that never change. A row without a value closes the stream.

-- ordered name: WRITE (workflow_id text, attempt bigint, branch text, number int, step text, verb text, key text,
--     value json, write_seq int, written int, digest bytea)
-- Writes one value. A call without a value closes the stream.
with calls as materialized (
    select c.*, s.verb as recorded_verb, s.key as recorded_key, s.error as recorded_error,
           case when not :is_owner_by_either then 'lost'
                when s.verb is not null then 'recorded'
                -- A call inside a step may be a repetition that comes too late, after its first answer was lost.
                when c.number is null and coalesce((tail.attempt, tail.act) >= (c.attempt, c.write_seq), false) then 'superseded'
                else 'done' end as outcome,
           coalesce(tail."offset", -1) as tail, coalesce(tail.closes, false) as was_closed
    from :rows
    :fence_or_lock(c.workflow_id)
    :recorded_step(c.workflow_id)
    left join lateral (
        select "offset", closes, attempt, act from dbos_async.stream_entries
        where workflow_id = c.workflow_id and key_digest = dbos_async.digest(c.key) and "offset" >= c.written
        order by "offset" desc limit 1
    ) as tail on true
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
announced as (
    select dbos_async.announce(:announced_keys(digest)) from positioned where outcome = 'done' and not closed
)
select n, case when outcome = 'superseded' then 'done' else outcome end as outcome, null::json as output,
       case when outcome = 'recorded' then recorded_error
            when outcome = 'done' and closed and value is not null
                then :error('dbos_async.errors:StreamClosedError', workflow_id, key) end as error,
       recorded_verb, recorded_key, case when outcome = 'done' and not closed then "offset" end as "offset"
from positioned, announced

-- fragment: stream_page(target_id, key, start)
-- One page of a stream: at most 500 values or 1 MiB.
left join lateral (
    select count(*) filter (where not l.closes) as count, bool_or(l.closes) as closed
    from (
        select e.*, sum(e.bytes) over (order by e."offset") - e.bytes as bytes_before
        from (
            select "offset", closes, coalesce(pg_column_size(value), 0)::bigint as bytes
            from dbos_async.stream_entries
            where workflow_id = :target_id and key_digest = dbos_async.digest(:key) and "offset" >= :start
            order by "offset" limit 500
        ) as e
    ) as l
    where l.bytes_before < 1048576
) as p on true

-- ordered name: FOLLOW (workflow_id text, attempt bigint, branch text, number int, step_key text, target_id text, key text,
--     start int, timeout_seconds float8)
-- READ inside a workflow: the reader's step records from where to where it read, and how that ended.
with calls as materialized (
    select c.*, :is_owner as is_owner,
           :wait_columns,
           t.status is not null as known, coalesce(t.status in ('SUCCESS', 'ERROR', 'CANCELLED'), false) as ended,
           coalesce(p.count, 0) as count, coalesce(p.closed, false) as closed
    from :rows
    :fence(c.workflow_id)
    :recorded_wait
    left join lateral (select status from dbos_async.workflows where id = c.target_id limit 1) as t on true
    :stream_page(c.target_id, c.key, c.start)
),
decided as materialized (
    select *, count > 0 or closed or ended or not known or coalesce(deadline <= clock_timestamp(), false) as ready,
           json_build_object('offset', start, 'count', count, 'end',
               case when not known then 'unknown'
                    when closed or (ended and count = 0) then 'closed'
                    when count = 0 then 'timeout' end) as boundary
    from calls
    where :is_waiting('read_stream', step_key)
),
:record_wait('read_stream', boundary)

-- ordered name: FOLLOW_ANY (workflow_id text, attempt bigint, branch text, number int, step_key text, streams json,
--     timeout_seconds float8)
-- FOLLOW for several streams: [[which, workflow id, key, start], …]. The first in this order that has something to tell is read.
with calls as materialized (
    select c.*, :is_owner as is_owner,
           :wait_columns,
           f.which, f.start, f.known, f.ended, coalesce(p.count, 0) as count, coalesce(p.closed, false) as closed
    from :rows
    :fence(c.workflow_id)
    :recorded_wait
    left join lateral (
        select (s.stream ->> 0)::int as which, s.stream ->> 1 as target_id, s.stream ->> 2 as key, (s.stream ->> 3)::int as start,
               t.status is not null as known, coalesce(t.status in ('SUCCESS', 'ERROR', 'CANCELLED'), false) as ended
        from json_array_elements(c.streams) with ordinality as s(stream, turn)
        left join lateral (select status from dbos_async.workflows where id = s.stream ->> 1 limit 1) as t on true
        left join lateral (
            select "offset" from dbos_async.stream_entries
            where workflow_id = s.stream ->> 1 and key_digest = dbos_async.digest(s.stream ->> 2)
              and "offset" >= (s.stream ->> 3)::int
            order by "offset" limit 1
        ) as e on true
        where e."offset" is not null or t.status is null or t.status in ('SUCCESS', 'ERROR', 'CANCELLED')
        order by t.status is not null, s.turn limit 1
    ) as f on true
    :stream_page(f.target_id, f.key, f.start)
),
decided as materialized (
    select *, which is not null or coalesce(deadline <= clock_timestamp(), false) as ready,
           json_build_object('stream', which, 'offset', coalesce(start, 0), 'count', count, 'end',
               case when which is null then 'timeout'
                    when not known then 'unknown'
                    when closed or (ended and count = 0) then 'closed' end) as boundary
    from calls
    where :is_waiting('read_streams', step_key)
),
:record_wait('read_streams', boundary)
