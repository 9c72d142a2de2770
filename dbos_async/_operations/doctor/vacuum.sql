-- Vacuum: whether it runs, what it has left, and what holds it back.

-- name: SEE_TABLES
select :n as n, t.relname::text as name, t.n_live_tup as live, t.n_dead_tup as dead,
       extract(epoch from clock_timestamp() - greatest(t.last_vacuum, t.last_autovacuum))::float8 as vacuumed_ago,
       coalesce((select option_value::boolean from pg_options_to_table(c.reloptions) where option_name = 'autovacuum_enabled'), true)
           as is_on,
       pg_relation_size(c.oid) as bytes,
       -- What the rows would take if they lay close together. Only an estimate, from what ANALYZE has seen.
       (select case when c.reltuples > 0
               then c.reltuples * (28 + sum(s.avg_width * (1 - s.null_frac))) * 100
                    / coalesce((select option_value::int from pg_options_to_table(c.reloptions) where option_name = 'fillfactor'), 100)
               end
        from pg_stats as s where s.schemaname = 'dbos_async' and s.tablename = t.relname)::float8 as needed
from pg_stat_all_tables as t
join pg_class as c on c.oid = t.relid
where t.schemaname = 'dbos_async'
order by t.relname

-- name: SEE_AUTOVACUUM
select :n as n, name from pg_settings where name in ('autovacuum', 'track_counts') and reset_val = 'off'

-- name: SEE_AGE
select :n as n, age(datfrozenxid) as transactions, mxid_age(datminmxid) as row_locks from pg_database where datname = current_database()

-- name: SEE_HOLDERS (old_seconds float8)
-- What keeps dead rows from being removed: transactions that have been open for so long, of sessions and prepared ones.
select :n as n, 'session' as kind, pid::text as name, usename::text as role, application_name as application, state,
       extract(epoch from clock_timestamp() - xact_start)::float8 as seconds
from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() and backend_type <> 'autovacuum worker'
  and xact_start < clock_timestamp() - make_interval(secs => :old_seconds)
union all
select :n, 'prepared', gid, owner::text, null, null, extract(epoch from clock_timestamp() - prepared)::float8
from pg_prepared_xacts
where database = current_database() and prepared < clock_timestamp() - make_interval(secs => :old_seconds)
order by seconds desc

-- name: SEE_SLOTS
-- Replication slots that nobody reads: they keep the log of the server, and some of them dead rows.
select :n as n, slot_name::text as name, slot_type as kind, wal_status,
       case when not pg_is_in_recovery() then pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) end::float8 as bytes,
       coalesce(xmin, catalog_xmin) is not null as holds_rows
from pg_replication_slots
where not active and not temporary
order by bytes desc nulls last

-- name: SEE_LOCKS (old_seconds float8)
-- Who holds a lock on a table of the schema that others wait for, or locks of rows for long.
select distinct on (l.pid) :n as n, l.pid, c.relname::text as name, l.mode, a.usename::text as role,
       a.application_name as application, a.state, extract(epoch from clock_timestamp() - a.xact_start)::float8 as seconds
from pg_locks as l
join pg_class as c on c.oid = l.relation
join pg_namespace as s on s.oid = c.relnamespace
left join pg_stat_activity as a on a.pid = l.pid
where l.locktype = 'relation' and l.granted and l.pid <> pg_backend_pid()
  and l.database = (select oid from pg_database where datname = current_database())
  and s.nspname = 'dbos_async' and c.relkind in ('r', 'p')
  and (l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
       or l.mode in ('RowShareLock', 'RowExclusiveLock') and a.xact_start < clock_timestamp() - make_interval(secs => :old_seconds))
  and coalesce(a.backend_type, '') <> 'autovacuum worker'
order by l.pid, l.mode in ('RowShareLock', 'RowExclusiveLock'), l.mode, c.relname

-- name: SEE_QUEUE
select :n as n, pg_notification_queue_usage() as share
