-- Sequences that are behind their tables: logical replication and some copies carry the rows of a database and not its sequences.

-- fragment: highest(table, column)
-- The highest value in the last pages of a table, and in some that are spread over it. A sequence that is behind its table is behind
-- its latest rows, and those are at the end, or wherever older ones left room.
(select max(p.highest)
 from (select pg_relation_size(':table') / current_setting('block_size')::bigint as pages) as t
 cross join generate_series(0, 2 * :pages - 1) as k
 cross join lateral (select case when k < :pages then t.pages * k / :pages else t.pages - 1 + :pages - k end as page) as at
 cross join lateral (
    select max(:column) as highest from :table
    where ctid >= ('(' || at.page || ',0)')::tid and ctid < ('(' || at.page + 1 || ',0)')::tid) as p
 where at.page >= 0)

-- name: FIND_BEHIND (pages int)
-- The sequences that are behind some row, and what this role may do about it. The statement sees no row that came after it began, so
-- a sequence that is in use is not among them. Few pages of each table are read.
select :n as n, t.name, t.found, coalesce(s.last_value, 0) as at,
       has_sequence_privilege(t.sequence, 'usage, update') as may_draw, has_sequence_privilege(t.sequence, 'update') as may_set
from (
    select 'message_seq' as name, 'dbos_async.message_seq'::regclass as sequence, :highest(dbos_async.messages, seq) as found
    union all
    select 'event_seq', 'dbos_async.event_seq', :highest(dbos_async.events, seq)
    union all
    select 'delayed_seq', 'dbos_async.delayed_seq', :highest(dbos_async.delayed_messages, seq)
    union all
    select 'workflow_seq', 'dbos_async.workflow_seq', :highest(dbos_async.workflows, attempt / 1000000)
) as t
:sequences
where t.found > coalesce(s.last_value, 0)
order by t.name

-- fragment: sequences
join pg_class as k on k.oid = t.sequence
join pg_namespace as p on p.oid = k.relnamespace
join pg_sequences as s on s.schemaname = p.nspname and s.sequencename = k.relname

-- name: REPAIR (name text, margin bigint)
-- Sets a sequence so far behind the last row of its table that it does not go back, whatever others draw at this moment.
select :n as n, t.found, setval(t.sequence, t.found + :margin) as set_to
from (
    select case :name
               when 'message_seq' then (select max(seq) from dbos_async.messages)
               when 'event_seq' then (select max(seq) from dbos_async.events)
               when 'delayed_seq' then (select max(seq) from dbos_async.delayed_messages)
               else (select max(attempt) / 1000000 from dbos_async.workflows) end as found,
           to_regclass(case :name
               when 'message_seq' then 'dbos_async.message_seq'
               when 'event_seq' then 'dbos_async.event_seq'
               when 'delayed_seq' then 'dbos_async.delayed_seq'
               else 'dbos_async.workflow_seq' end) as sequence
    offset 0
) as t
:sequences
where t.found > coalesce(s.last_value, 0)
