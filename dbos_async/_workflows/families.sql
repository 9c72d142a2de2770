-- Families: a workflow, what it has started, what that has started, and on.

-- fragment: told(workflow_id)
-- When a workflow was told to end, by the step that carried the request, and the place of that in the order of results.
select completed_at as told_at, place from dbos_async.steps
where workflow_id = :workflow_id and starts_with(error::text, '{"type":"asyncio.exceptions:CancelledError"')

-- fragment: step_of_start
-- The step of the parent that has started w, if that is recorded.
select asked_after from dbos_async.steps
where workflow_id = c.id and branch = coalesce(substring(w.parent_step from '^(.*)[.]'), '')
  and number = substring(w.parent_step from '[0-9]+$')::integer

-- name: CHILDREN (id text)
-- What a workflow has started. A fork was started by nobody: it has the parent of its original, and is no child. What a workflow has
-- started since it was told to end belongs to its clean-up, and is left alone as long as that goes on. Starts that were under way
-- when it was told were asked for before.
select c.n, w.id, w.ended_at is not null as has_ended
from :rows
left join lateral (
    select cancel_asked_at from dbos_async.workflows where id = c.id and status = 'PENDING' limit 1
) as p on true
left join lateral (:told(c.id) and p.cancel_asked_at is not null order by completed_at limit 1) as t on true
cross join lateral (
    select id, parent_step, created_at, ended_at from dbos_async.workflows where parent_id = c.id and forked_from is null
) as w
left join lateral (:step_of_start and t.place is not null limit 1) as s on true
where t.told_at is null
   or case when s.asked_after is not null then s.asked_after < t.place else w.created_at <= t.told_at end

-- name: UNTOLD (id text)
-- Whether a workflow that was asked to end will be told by the run that it has.
select c.n, coalesce(p.is_asked and t.told_at is null, false) as is_untold
from :rows
left join lateral (
    select cancel_asked_at is not null as is_asked from dbos_async.workflows
    where id = c.id and status = 'PENDING' and owner is not null limit 1
) as p on true
left join lateral (:told(c.id) and p.is_asked limit 1) as t on true

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
