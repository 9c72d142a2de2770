-- What server this is, as the doctor sees it after connecting.

-- name: SEE_SERVER
select :n as n, current_setting('server_version_num')::int as version_number, current_setting('server_version') as version,
       current_setting('server_encoding') as encoding, pg_is_in_recovery() as is_standby,
       (select reset_val from pg_settings where name = 'default_transaction_read_only') = 'on' as is_read_only,
       session_user::text as role, current_database()::text as database,
       (select ssl from pg_stat_ssl where pid = pg_backend_pid()) as is_encrypted,
       inet_server_addr() is null as is_local

-- name: SEE_CLOCK
select :n as n, extract(epoch from clock_timestamp())::float8 as at
