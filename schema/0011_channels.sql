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

-- A role of an older release may have no right to read the new table, and this tells nobody what is in it.
create or replace function dbos_async.announce(digests bytea) returns void strict language plpgsql
    security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform dbos_async.notify('dbos_async', digests);
    perform dbos_async.notify('dbos_' || replace(secret::text, '-', ''), digests) from dbos_async.channels;
end
$$;
comment on function dbos_async.announce is
    'For statements of releases before the channels with secret names: tells processes of those, and of later ones, what changed.';

create function dbos_async.tell(channel text, digests bytea[], news text[]) returns void strict language plpgsql as $$
declare
    told text[] := array_fill(''::text, array[16]);
    one text;
    nth integer;
begin
    for place in 1 .. cardinality(digests) loop
        nth := (get_byte(digests[place], 0) >> 4) + 1;
        one := encode(digests[place], 'hex') || coalesce(news[place], '.');
        if octet_length(told[nth]) + octet_length(one) > 7900 then
            if pg_notify(channel || '_' || to_hex(nth - 1), '=' || told[nth]) is not null then null; end if;
            told[nth] := '';
        end if;
        told[nth] := told[nth] || one;
    end loop;
    for nth in 1 .. 16 loop
        if told[nth] <> '' and pg_notify(channel || '_' || to_hex(nth - 1), '=' || told[nth]) is not null then null; end if;
    end loop;
end
$$;
comment on function dbos_async.tell is
    'Tells whoever waits behind these digests of 8 bytes each, once the transaction commits, what has changed there: news of at most 2,100 bytes, or null for something to read. Each of the sixteen channels, by the first letter of the digest, gets as few notifications as hold it. dbos_async/_database/news.py reads them.';
