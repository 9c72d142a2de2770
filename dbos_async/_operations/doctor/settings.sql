-- Settings, as a new session of this role in this database has them, and the limits of connections.

-- name: SEE_SETTINGS (names json)
-- "whose" is where the value comes from if a role or a database has it, as the statement that resets it begins.
select :n as n, s.name, s.reset_val as value, s.unit, s.source, r.whose
from pg_settings as s
left join lateral (
    select case when d.setrole = 0 and d.setdatabase = 0 then 'alter role all'
                when d.setrole = 0 then 'alter database ' || quote_ident(current_database())
                when d.setdatabase = 0 then 'alter role ' || quote_ident(session_user)
                else 'alter role ' || quote_ident(session_user) || ' in database ' || quote_ident(current_database()) end as whose
    from pg_db_role_setting as d
    where d.setrole in (0, (select oid from pg_roles where rolname = session_user))
      and d.setdatabase in (0, (select oid from pg_database where datname = current_database()))
      and exists (select from unnest(d.setconfig) as c(word) where split_part(word, '=', 1) = s.name)
    order by d.setrole <> 0 desc, d.setdatabase <> 0 desc
    limit 1
) as r on s.source in ('global', 'database', 'user', 'database user')
where s.name in (select json_array_elements_text(:names))

-- name: SEE_STANDBYS
select :n as n, count(*) as connected, count(*) filter (where sync_state in ('sync', 'quorum')) as synchronous,
       count(*) filter (where sync_state is null) as hidden
from pg_stat_replication

-- name: SEE_CONNECTIONS
select :n as n, current_setting('max_connections')::int as most,
       current_setting('superuser_reserved_connections')::int + coalesce(current_setting('reserved_connections', true)::int, 0)
           as reserved,
       (select sum(numbackends) from pg_stat_database)::int as used,
       (select datconnlimit from pg_database where datname = current_database()) as database_limit,
       (select numbackends from pg_stat_database where datname = current_database()) as database_used,
       (select rolconnlimit from pg_roles where rolname = session_user) as role_limit,
       (select count(*) from pg_stat_activity where usename = session_user and pid <> pg_backend_pid())::int as role_used,
       quote_ident(current_database()) as database, quote_ident(session_user) as role

-- name: SEE_MONITORING
-- Sessions of this database of which this role sees nothing but that they are there.
select :n as n, quote_ident(current_user) as role,
       (select count(*) from pg_stat_activity
        where datname = current_database() and query = '<insufficient privilege>')
           as hidden
