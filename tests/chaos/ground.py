"""What the fault suite puts into its database: roles without special rights, a clock that can be moved, triggers that refuse.

The library's statements find their functions by the search path, so functions before those of Postgres move the clock for them, and
for the defaults of the tables, which are made later.
"""

from __future__ import annotations

APPLICATION = "dbos_app"
"""The role whose rights the executors and the client have. Each is a member under its own name; through a pooler it is them all."""

CLOCK = """
    create schema chaos_clock;
    create table chaos_clock.shift (by interval not null);
    insert into chaos_clock.shift values ('0');
    create function chaos_clock.clock_timestamp() returns timestamptz language plpgsql volatile as $$ begin
        return pg_catalog.clock_timestamp() + (select by from chaos_clock.shift);
    end $$;
    create function chaos_clock.statement_timestamp() returns timestamptz language plpgsql stable as $$ begin
        return pg_catalog.statement_timestamp() + (select by from chaos_clock.shift);
    end $$;
    create function chaos_clock.now() returns timestamptz language plpgsql stable as $$ begin
        return pg_catalog.now() + (select by from chaos_clock.shift);
    end $$;
    grant usage on schema chaos_clock to public;
    grant select on chaos_clock.shift to public;
    alter database postgres set search_path = chaos_clock, pg_catalog, public;
"""

SHIFT = "update chaos_clock.shift set by = make_interval(secs => {})"

RIGHTS = f"""
    create role {APPLICATION};
    grant usage on schema dbos_async to {APPLICATION};
    grant select, insert, update, delete on all tables in schema dbos_async to {APPLICATION};
    grant usage on all sequences in schema dbos_async to {APPLICATION};
"""

LIVES = """
    create table chaos.lives (
        number bigint generated always as identity,
        at float8 not null default extract(epoch from pg_catalog.clock_timestamp()),
        what text not null, launch text not null, executor text not null, by text not null);

    -- The definer may write here; the session user is the executor that has done it.
    create function chaos.note_life() returns trigger language plpgsql security definer as $$ begin
        if tg_op = 'INSERT' then
            insert into chaos.lives (what, launch, executor, by) values ('appeared', new.id, new.executor_id, session_user);
        else
            insert into chaos.lives (what, launch, executor, by) values ('removed', old.id, old.executor_id, session_user);
        end if;
        return null;
    end $$;
    create trigger chaos after insert or delete on dbos_async.executors for each row execute function chaos.note_life();

    create function chaos.refuse() returns trigger language plpgsql as $$
    declare
        -- Its arguments: the code; which rows: all, half of the ids, or every other time; the column of the id.
        concerned jsonb := case when tg_op = 'DELETE' then to_jsonb(old) else to_jsonb(new) end;
    begin
        -- The suite itself is the superuser, and is not refused.
        if session_user <> 'postgres' and (
            tg_argv[1] = 'all' or (tg_argv[1] = 'half' and hashtext(concerned ->> tg_argv[2]) % 2 = 0)
            or (tg_argv[1] = 'sometimes' and random() < 0.5)) then
            raise exception 'the fault suite refuses this' using errcode = tg_argv[0];
        end if;
        return case when tg_op = 'DELETE' then old else new end;
    end $$;
    grant usage on schema chaos to public;
    grant insert on chaos.notes to public;
"""


def as_role(url: str, name: str) -> str:
    """The URL of a server with another role."""
    return url.replace("//postgres@", f"//{name}@", 1)
