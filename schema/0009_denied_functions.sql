create or replace function dbos_async.incarnation() returns text language plpgsql stable as $$
declare
    timeline text := '';
begin
    begin
        timeline := ' ' || left(pg_walfile_name(pg_current_wal_lsn()), 8);
    exception when others then  -- some managed servers do not tell; those start anew when they are promoted
    end;
    return extract(epoch from pg_postmaster_start_time()) || timeline;
exception when insufficient_privilege then  -- then the library waits for whole leases, whether connections are lost or not
    return 'unknown' || timeline;
end
$$;
