-- For sessions of users whose role or database has standard_conforming_strings = off: there a backslash in a function of SQL is read
-- another way. The values are the same.
create or replace function dbos_async.digest(name text) returns bytea language sql immutable parallel safe as $$
    select sha256(replace(name, chr(92), chr(92) || chr(92))::bytea)
$$;
