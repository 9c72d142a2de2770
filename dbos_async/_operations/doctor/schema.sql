-- The schema as it is in the catalogs, which any role may read.

-- name: SEE_SCHEMA
select :n as n,
       exists (select from pg_namespace where nspname = 'dbos_async') as has_schema,
       (select has_schema_privilege(oid, 'usage') from pg_namespace where nspname = 'dbos_async') as may_use,
       (select has_table_privilege(c.oid, 'select') from pg_class as c join pg_namespace as s on s.oid = c.relnamespace
        where s.nspname = 'dbos_async' and c.relname = 'migrations') as may_read,
       (select pg_has_role(nspowner, 'usage') from pg_namespace where nspname = 'dbos_async') as is_owner,
       (select quote_ident(pg_get_userbyid(nspowner)) from pg_namespace where nspname = 'dbos_async') as owner,
       has_database_privilege(current_database(), 'create') as may_create,
       quote_ident(current_user) as role, quote_ident(current_database()) as database

-- name: SEE_MIGRATIONS
select :n as n, number, name, requires_library from dbos_async.migrations order by number

-- name: SEE_OBJECTS
-- What is there, by kind and name. An index is sound once it is valid and ready.
select :n as n, 'index' as kind, c.relname::text as name, i.indisvalid and i.indisready as is_sound
from pg_class as c
join pg_namespace as s on s.oid = c.relnamespace
join pg_index as i on i.indexrelid = c.oid
where s.nspname = 'dbos_async'
union all
select :n, case when c.relkind = 'S' then 'sequence' else 'table' end, c.relname::text, c.relpersistence = 'p'
from pg_class as c
join pg_namespace as s on s.oid = c.relnamespace
where s.nspname = 'dbos_async' and c.relkind in ('r', 'p', 'S')
union all
select :n, 'function', p.proname::text, true
from pg_proc as p
join pg_namespace as s on s.oid = p.pronamespace
where s.nspname = 'dbos_async'

-- name: SEE_ADDITIONS
-- What others have added to the tables: triggers, and foreign keys that point to them.
select :n as n, 'trigger' as kind, t.tgname::text as name, c.relname::text as target, t.tgrelid::regclass::text as place
from pg_trigger as t
join pg_class as c on c.oid = t.tgrelid
join pg_namespace as s on s.oid = c.relnamespace
where s.nspname = 'dbos_async' and not t.tgisinternal and t.tgenabled <> 'D'
union all
select :n, 'foreign key', k.conname::text, c.relname::text, k.conrelid::regclass::text
from pg_constraint as k
join pg_class as c on c.oid = k.confrelid
join pg_namespace as s on s.oid = c.relnamespace
where s.nspname = 'dbos_async' and k.contype = 'f'
order by kind, name

-- name: SEE_ROW_SECURITY
select :n as n, c.relname::text as name
from pg_class as c
join pg_namespace as s on s.oid = c.relnamespace
where s.nspname = 'dbos_async' and c.relkind in ('r', 'p') and row_security_active(c.oid)
order by c.relname
