-- What has changed, asked for without a notification. It only reads, each time by an index, so it works on a standby, too.

-- name: POLL (kind text, id text, key text, seen text)
-- Each row is something that this process waits for, and "seen" the version of it that the last poll has told. The answer has those
-- whose version is another one now. A version is null as long as there is nothing that a waiter would want to see. The
-- columns of each "order by" are said with their tables: a plain one would be the column of the answer, which is text.
with looked as materialized (
    select c.n, c.index, c.seen, case c.kind
        -- Of a queue: its oldest message that waits.
        when 'message' then (
            select m.seq::text from dbos_async.messages as m
            where destination_id = c.id and topic_digest = dbos_async.digest(c.key) and received_at is null
            order by m.seq limit 1)
        -- Of all queues: what waits in them, unless that is much.
        when 'queues' then (
            select case when count(*) <= 1000 then count(*) || ' ' || coalesce(bit_xor(hashint8extended(q.seq, 0)), 0) end
            from (
                select seq from dbos_async.messages where received_at is null
                order by destination_id, topic_digest, seq limit 1001
            ) as q)
        when 'event' then (
            select e.seq::text from dbos_async.events as e
            where workflow_id = c.id and key_digest = dbos_async.digest(c.key) order by e.seq desc limit 1)
        -- Of a stream: its last row. One that closes it and one that takes others back are rows behind these.
        when 'stream' then (
            select e."offset"::text from dbos_async.stream_entries as e
            where workflow_id = c.id and key_digest = dbos_async.digest(c.key) order by e."offset" desc limit 1)
        when 'answer' then (
            select 'answered' from dbos_async.messages where id = c.id::uuid and answered_at is not null limit 1)
        -- Of the end of a workflow: how it has ended or was parked, or that it is not there.
        when 'end' then nullif(coalesce((
            select case when status in ('PENDING', 'DELAYED') then '' else attempt || status end
            from dbos_async.workflows where id = c.id limit 1), 'not there'), '')
        -- Of a run here, with its fence as the key: that its workflow is not its own any more, or was asked to end.
        when 'run' then nullif(coalesce((
            select case when attempt = c.key::bigint and status = 'PENDING' and cancel_asked_at is null then ''
                        else attempt || status end
            from dbos_async.workflows where id = c.id limit 1), 'not there'), '')
        -- Of all runs of an executor: another version says that there are others, or that one of those has to be looked at.
        when 'runs' then (
            select count(*) || ' ' || bit_xor(hashtextextended(id, attempt + case when cancel_asked_at is null then 0 else 500000 end))
            from dbos_async.workflows where status = 'PENDING' and owner = c.id)
        -- Of the workflows that nobody owns: which ones there are, as far as a short look tells. The newest workflow of all is a part
        -- of it, since many that nobody can claim may come before one that somebody can.
        when 'unowned' then (
            select count(*) || ' ' || bit_xor(hashtextextended(u.id, u.attempt)) || ' ' || (
                select created_at from dbos_async.workflows order by created_at desc limit 1)
            from (
                select id, attempt from dbos_async.workflows where status = 'PENDING' and owner is null
                order by name, created_at limit 100
            ) as u)
        end as version
    from :rows_with_index
)
select n, index - 1 as index, version from looked where version is distinct from seen
