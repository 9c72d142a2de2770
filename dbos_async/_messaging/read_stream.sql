-- Reading a stream inside a workflow: what is recorded is how far the reader came.

-- fragment: stream_page(target_id, key, start)
-- One page of a stream: the rows until there are 500 values or 1 MiB. "count" says how far it goes: what was taken back counts, too.
left join lateral (
    select case when not bool_or(l.is_trimmed) then max(l."offset" + l.count) filter (where not l.closes) - :start end as count,
           bool_or(l.closes) as closed, case when bool_or(l.is_trimmed) then :first_there(:target_id, :key) end as first
    from (
        select e.*, sum(e.bytes) over (order by e."offset") - e.bytes as bytes_before,
               sum(e.count) over (order by e."offset") - e.count as count_before
        from (
            select "offset", closes, trimmed is not null as is_trimmed, coalesce(count, 1) as count,
                   coalesce(pg_column_size(value), 0)::bigint + coalesce(pg_column_size(batch), 0) as bytes
            from :stream_from(:target_id, :key, :start) and taken_back_by is null
            order by "offset" limit 500
        ) as e
    ) as l
    where l.bytes_before < 1048576 and l.count_before < 500
) as p on true

-- ordered name: FOLLOW (workflow_id text, attempt bigint, branch text, number int, verb text, step_key text, target_id text,
--     key text, start int, timeout_seconds float8)
-- READ inside a workflow: the reader's step records from where to where it read, and how that ended.
with calls as materialized (
    select c.*, :is_owner as is_owner,
           :wait_columns,
           t.status is not null as known, coalesce(t.status in ('SUCCESS', 'ERROR', 'CANCELLED'), false) as ended,
           coalesce(p.count, 0) as count, coalesce(p.closed, false) as closed, p.first
    from :rows
    :fence(c.workflow_id)
    :recorded_wait
    left join lateral (select status from dbos_async.workflows where id = c.target_id limit 1) as t on true
    :stream_page(c.target_id, c.key, c.start)
),
decided as materialized (
    select *, count > 0 or first is not null or closed or ended or not known
              or coalesce(deadline <= clock_timestamp(), false) as ready,
           json_build_object('offset', start, 'count', count, 'first', first, 'end',
               case when not known then 'unknown'
                    when first is not null then 'trimmed'
                    when closed or (ended and count = 0) then 'closed'
                    when count = 0 then 'timeout' end) as boundary
    from calls
    where :is_waiting(verb, step_key)
),
:record_wait(verb, boundary)

-- ordered name: FOLLOW_ANY (workflow_id text, attempt bigint, branch text, number int, step_key text, streams json,
--     timeout_seconds float8)
-- FOLLOW for several streams: [[which, workflow id, key, start], …]. The first in this order that has something to tell is read.
with calls as materialized (
    select c.*, :is_owner as is_owner,
           :wait_columns,
           f.which, f.start, f.known, f.ended, coalesce(p.count, 0) as count, coalesce(p.closed, false) as closed, p.first
    from :rows
    :fence(c.workflow_id)
    :recorded_wait
    left join lateral (
        select a.*, t.status is not null as known, coalesce(t.status in ('SUCCESS', 'ERROR', 'CANCELLED'), false) as ended
        from json_array_elements(c.streams) with ordinality as s(stream, turn)
        cross join lateral (
            select (s.stream ->> 0)::int as which, s.stream ->> 1 as target_id, s.stream ->> 2 as key,
                   (s.stream ->> 3)::int as start
        ) as a
        left join lateral (select status from dbos_async.workflows where id = a.target_id limit 1) as t on true
        left join lateral (
            -- The last row of a stream stands.
            select "offset" + coalesce(count, 1) as stop from dbos_async.stream_entries
            where workflow_id = a.target_id and key_digest = dbos_async.digest(a.key)
            order by "offset" desc limit 1
        ) as e on true
        where e.stop > a.start or t.status is null or t.status in ('SUCCESS', 'ERROR', 'CANCELLED')
        order by t.status is not null, s.turn limit 1
    ) as f on true
    :stream_page(f.target_id, f.key, f.start)
),
decided as materialized (
    select *, which is not null or coalesce(deadline <= clock_timestamp(), false) as ready,
           json_build_object('stream', which, 'offset', coalesce(start, 0), 'count', count, 'first', first, 'end',
               case when which is null then 'timeout'
                    when not known then 'unknown'
                    when first is not null then 'trimmed'
                    when closed or (ended and count = 0) then 'closed' end) as boundary
    from calls
    where :is_waiting('read_streams', step_key)
),
:record_wait('read_streams', boundary)
