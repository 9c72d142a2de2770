-- Everything of one workflow, row by row. Without a workflow there is nothing else.

-- name: EXPORT (id text)
select c.n, e.kind, e.row::text as row
from :rows
cross join lateral (
    (select 'workflow' as kind, row_to_json(w) as row from dbos_async.workflows as w where w.id = c.id)
    union all
    (select 'step', row_to_json(s) from dbos_async.steps as s
     where s.workflow_id = c.id order by s.branch, s.number)
    union all
    (select 'message', row_to_json(m) from dbos_async.messages as m
     where m.id = any (array(
             select id from dbos_async.messages where destination_id = c.id and received_at is null
             union all
             select message_id from dbos_async.steps where workflow_id = c.id and message_id is not null))
       and m.destination_id = c.id
     order by m.seq)
    union all
    (select 'delayed_message', row_to_json(d) from dbos_async.delayed_messages as d
     where d.destination_id = c.id order by d.due_at, d.seq)
    union all
    (select 'event', row_to_json(v) from dbos_async.events as v where v.workflow_id = c.id order by v.seq)
    union all
    (select 'stream_entry', row_to_json(r) from dbos_async.stream_entries as r
     where r.workflow_id = c.id order by r.key, r."offset")
) as e
