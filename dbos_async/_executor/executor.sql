-- Whether a run still owns its workflow.

-- name: STILL_OWNED (id text, attempt bigint)
select c.n, :is_owner as is_owner, w.status, w.cancel_asked_at is not null as may_clean_up
from :rows
left join lateral (select attempt, status, cancel_asked_at from dbos_async.workflows where id = c.id limit 1) as w on true
