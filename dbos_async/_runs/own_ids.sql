-- name: OWN_IDS (id text)
-- Of what a workflow is a fork. A fork of a fork also has a step 0, which names the originals before that.
select c.n, w.forked_from, s.output as earlier
from :rows
left join lateral (select forked_from from dbos_async.workflows where id = c.id limit 1) as w on true
left join lateral (
    select output from dbos_async.steps where workflow_id = c.id and branch = '' and number = 0 limit 1
) as s on true
