-- name: WAS_SENT (destination_id text, topic text, sender_ids text)
-- Whether a workflow of one of these ids has sent to this destination and topic. It is asked for steps of older releases alone, and
-- only if their key can be read in two ways.
select c.n, exists (
    select from dbos_async.messages as m
    where m.destination_id = c.destination_id and m.topic = c.topic
      and m.sender_id in (select json_array_elements_text(c.sender_ids::json))) as was_sent
from :rows
