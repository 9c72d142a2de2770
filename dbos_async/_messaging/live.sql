-- name: READ (workflow_id text, key text, start int, most int, until int)
-- One page of a stream: the rows from the value at "start" on, until there are "most" values or 1 MiB. A row without an offset has
-- only the status of the workflow. "until" is null for what stands now. A replay sets it to the end of what an earlier run has read,
-- and sees what stood then: all that was taken back since was taken back by a row behind that end. "first" is where the stream
-- begins, if the row is one that has lost its values.
select c.n, w.status, w.attempt, coalesce(w.status in ('SUCCESS', 'ERROR', 'CANCELLED'), false) as ended,
       coalesce(w.status in ('REPLAY_MISMATCH', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED'), false) as parked,
       e."offset", e.value, e.batch, e.closes, e.rewinds_to, e.copy_of,
       case when e.trimmed is not null then :first_there(c.workflow_id, c.key) end as first,
       coalesce(e.fetched = c.most or e.weight > 1048576 or e.amount > c.most, false) as more
from :rows
left join lateral (select status, attempt from dbos_async.workflows where id = c.workflow_id limit 1) as w on true
left join lateral (
    select p.*
    from (
        select t.*, count(*) over () as fetched, sum(t.bytes) over (order by t."offset") as weight,
               sum(t.count) over (order by t."offset") as amount
        from (
            select "offset", value, batch, closes, rewinds_to, copy_of, trimmed, coalesce(count, 1) as count,
                   coalesce(pg_column_size(value), 0)::bigint + coalesce(pg_column_size(batch), 0) as bytes
            from :stream_from(c.workflow_id, c.key, c.start)
              and (taken_back_by is null or taken_back_by >= c.until)
              and (c.until is null or "offset" < c.until or trimmed is not null)
            order by "offset" limit c.most
        ) as t
    ) as p
    where p.weight - p.bytes < 1048576 and p.amount - p.count < c.most
) as e on true
order by c.n, e."offset"
