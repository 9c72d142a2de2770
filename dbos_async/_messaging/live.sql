-- name: READ (workflow_id text, key text, start int, most int)
-- One page of a stream: at most "most" values or 1 MiB. A row without an offset has only the status of the workflow.
select c.n, w.status, coalesce(w.status in ('SUCCESS', 'ERROR', 'CANCELLED'), false) as ended,
       coalesce(w.status in ('REPLAY_MISMATCH', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED'), false) as parked,
       e."offset", e.value, e.closes,
       coalesce(e.fetched = c.most or e.weight > 1048576, false) as more
from :rows
left join lateral (select status from dbos_async.workflows where id = c.workflow_id limit 1) as w on true
left join lateral (
    select p.*
    from (
        select t.*, count(*) over () as fetched, sum(t.bytes) over (order by t."offset") as weight
        from (
            select "offset", value, closes, coalesce(pg_column_size(value), 0)::bigint as bytes
            from dbos_async.stream_entries
            where workflow_id = c.workflow_id and key_digest = dbos_async.digest(c.key) and "offset" >= c.start
            order by "offset" limit c.most
        ) as t
    ) as p
    where p.weight - p.bytes < 1048576
) as e on true
order by c.n, e."offset"
