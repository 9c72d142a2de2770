-- Whether a run still owns its workflow.

-- name: STILL_OWNED (id text, attempt bigint)
select c.n, :is_owner as is_owner, w.status
from :rows
left join lateral (select attempt, status from dbos_async.workflows where id = c.id limit 1) as w on true
