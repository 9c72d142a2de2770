-- Channels for notifications whose names nobody can guess.
create table dbos_async.channels (
    is_only boolean primary key default true check (is_only),
    secret uuid not null default gen_random_uuid()
);
comment on table dbos_async.channels is
    'One row: what makes the names of the channels for notifications. Whoever may connect to a database may notify any channel whose name he knows, and readers believe what they are notified of.';
insert into dbos_async.channels default values;

create function dbos_async.notify(channel text, digests bytea) returns void strict language plpgsql as $$
begin
    for place in 1 .. length(digests) by 3200 loop
        -- Said as an expression it needs no query of its own.
        if pg_notify(channel, encode(substr(digests, place, 3200), 'hex')) is not null then null; end if;
    end loop;
end
$$;
comment on function dbos_async.notify is
    'Tells whoever listens to this channel, once the transaction commits, that something changed behind these digests of 8 bytes each: 16 hex letters in the notification, 400 digests to each, since its payload ends at 8,000 bytes.';

create or replace function dbos_async.announce(digests bytea) returns void strict language plpgsql as $$
begin
    perform dbos_async.notify('dbos_async', digests);
    perform dbos_async.notify('dbos_' || replace(secret::text, '-', ''), digests) from dbos_async.channels;
end
$$;
comment on function dbos_async.announce is
    'For statements of releases before the channels with secret names: tells processes of those, and of later ones, what changed.';
