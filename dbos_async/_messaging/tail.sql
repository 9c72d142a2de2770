-- name: TAIL (workflow_id text, key text)
-- Where a stream ends at the moment, and whether it goes on. "stop" is null when nothing was written.
select c.n, w.status, coalesce(w.status in ('SUCCESS', 'ERROR', 'CANCELLED'), false) as ended,
       e.stop, coalesce(e.closes, false) as closes
from :rows
left join lateral (select status from dbos_async.workflows where id = c.workflow_id limit 1) as w on true
left join lateral (
    select "offset" + case when closes then 0 else coalesce(count, 1) end as stop, closes from dbos_async.stream_entries
    where workflow_id = c.workflow_id and key_digest = dbos_async.digest(c.key)
    order by "offset" desc limit 1
) as e on true
