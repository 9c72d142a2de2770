-- Families: a workflow, what it has started, what that has started, and on.

-- name: CHILDREN (id text)
-- What a workflow has started. A fork was started by nobody: it has the parent of its original, and is no child. What a workflow starts
-- to clean up belongs to its clean-up, and is left alone as long as that goes on.
select c.n, w.id, w.ended_at is not null as has_ended
from :rows
left join lateral (
    select cancel_asked_at from dbos_async.workflows where id = c.id and status = 'PENDING' limit 1
) as p on true
cross join lateral (
    select id, ended_at from dbos_async.workflows
    where parent_id = c.id and forked_from is null and created_at <= coalesce(p.cancel_asked_at, 'infinity')
) as w

-- name: STARTING
-- The transactions that may be starting a workflow for another one at this moment: they write to both tables. A statement takes its
-- locks before its snapshot, so a transaction that is not in this list sees at least what this statement saw.
select c.n, array(
    select virtualtransaction from pg_locks
    where mode = 'RowExclusiveLock' and granted and pid is distinct from pg_backend_pid()
      and database = (select oid from pg_database where datname = current_database())
      and relation in ('dbos_async.steps'::regclass, 'dbos_async.workflows'::regclass)
    group by virtualtransaction having count(distinct relation) = 2
) as writers
from :numbers
