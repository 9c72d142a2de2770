-- The rights of roles on the schema. The catalogs say them, which any role may read.

-- name: LACKING (role text, needed json)
-- The rights that a role lacks (null: the role that asks), one row for each object, with the statement that gives them. An object that
-- is not there lacks nothing. "needed" has kinds, names and rights of objects; the schema itself has no name. The kinds "server" and
-- "view" are functions and views of the server.
with needed as materialized (
    select coalesce(:role, current_user) as role, k.kind, k.name, k.rights, s.oid as schema, quote_ident(s.nspname) as quoted
    from json_to_recordset(:needed) as k(kind text, name text, rights text[])
    join pg_namespace as s on s.nspname = 'dbos_async'
),
missing(role, kind, name, target, missing) as (
    select k.role, k.kind, k.quoted, 'schema ' || k.quoted,
           (select string_agg(r, ', ' order by place) from unnest(k.rights) with ordinality as w(r, place)
            where not has_schema_privilege(k.role, k.schema, r))
    from needed as k where k.kind = 'schema'
    union all
    select k.role, k.kind, k.name, k.quoted || '.' || quote_ident(k.name),
           (select string_agg(r, ', ' order by place) from unnest(k.rights) with ordinality as w(r, place)
            where not has_table_privilege(k.role, c.oid, r))
    from needed as k
    join pg_class as c on c.relnamespace = k.schema and c.relname = k.name and c.relkind in ('r', 'p')
    where k.kind = 'table'
    union all
    select k.role, k.kind, k.name, 'sequence ' || k.quoted || '.' || quote_ident(k.name),
           (select string_agg(r, ', ' order by place) from unnest(k.rights) with ordinality as w(r, place)
            where not case when c.relkind = 'S' then has_sequence_privilege(k.role, c.oid, r) end)
    from needed as k
    join pg_class as c on c.relnamespace = k.schema and c.relname = k.name and c.relkind = 'S'
    where k.kind = 'sequence'
    union all
    select k.role, k.kind, k.name,
           'function ' || k.quoted || '.' || quote_ident(k.name) || '(' || oidvectortypes(p.proargtypes) || ')',
           (select string_agg(r, ', ' order by place) from unnest(k.rights) with ordinality as w(r, place)
            where not has_function_privilege(k.role, p.oid, r))
    from needed as k
    join pg_proc as p on p.pronamespace = k.schema and p.proname = k.name
    where k.kind = 'function'
    union all
    select k.role, k.kind, k.name, 'function pg_catalog.' || k.name, 'execute'
    from needed as k
    where k.kind = 'server' and not has_function_privilege(k.role, to_regprocedure('pg_catalog.' || k.name), 'execute')
    union all
    select k.role, k.kind, k.name, 'pg_catalog.' || k.name, 'select'
    from needed as k
    where k.kind = 'view' and not has_table_privilege(k.role, to_regclass('pg_catalog.' || k.name), 'select')
)
select :n as n, role, kind, name, target, missing,
       'grant ' || missing || ' on ' || target || ' to ' || quote_ident(role) || ';' as repair
from missing where missing is not null order by kind, target

-- name: FIND_ROLE (role text)
-- The name of a role as SQL writes it.
select :n as n, quote_ident(rolname) as quoted from pg_roles where rolname = :role
