-- Everything of one workflow, kind by kind.

-- fragment: rows_of(table, condition)
select c.n, row_to_json(r)::text as row from :rows cross join lateral (select * from dbos_async.:table where :condition) as r

-- name: EXPORT_WORKFLOW (id text)
:rows_of(workflows, id = c.id)

-- name: EXPORT_STEPS (id text)
:rows_of(steps, workflow_id = c.id)
order by r.branch, r.number

-- name: EXPORT_MESSAGES (id text)
select c.n, row_to_json(r)::text as row
from :rows
cross join lateral (
    select * from dbos_async.messages
    where id = any (array(
            select id from dbos_async.messages where destination_id = c.id and received_at is null
            union all
            select message_id from dbos_async.steps where workflow_id = c.id and message_id is not null))
      and destination_id = c.id
) as r
order by r.seq

-- name: EXPORT_DELAYED_MESSAGES (id text)
:rows_of(delayed_messages, destination_id = c.id)
order by r.due_at, r.seq

-- name: EXPORT_EVENTS (id text)
:rows_of(events, workflow_id = c.id)
order by r.seq

-- name: EXPORT_STREAM_ENTRIES (id text)
:rows_of(stream_entries, workflow_id = c.id)
order by r.key, r."offset"
