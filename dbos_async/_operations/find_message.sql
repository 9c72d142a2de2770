-- One message by its id: it is in the queues, or not due yet.

-- name: FIND_MESSAGE (id uuid)
select c.n, m.id, m.destination_id, nullif(m.topic, '') as topic, m.payload, m.sender_id, m.sent_at, m.headers, m.idempotency_key,
       m.received_at, m.rejected, m.answered_at, m.due_at
from :rows
cross join lateral (
    select id, destination_id, topic, payload, sender_id, sent_at, headers, idempotency_key, received_at, rejected, answered_at,
           null::timestamptz as due_at
    from dbos_async.messages where id = c.id
    union all
    select id, destination_id, topic, payload, sender_id, sent_at, headers, idempotency_key, null, null::json, null, due_at
    from dbos_async.delayed_messages where id = c.id
) as m
