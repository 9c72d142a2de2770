-- The first tables of dbos_async. Forward only: a later change is a later file.
-- Ids and keys are compared byte by byte (collate "C"): they are names, not words.
-- What every step inserts has no check constraints, which each statement would prepare anew: the library checks names and keys.
-- No index but the primary key has a workflow's id in it where a plan made on an empty table could mistake it for one.

create function dbos_async.digest(name text) returns bytea language sql immutable parallel safe as $$
    select sha256(replace(name, '\', '\\')::bytea)
$$;
comment on function dbos_async.digest is
    'What an index knows a key by: two names of 512 characters each can be too long for one index entry. The columns say the same without this function, which would be parsed anew for each insert.';

create table dbos_async.executors (
    id text collate "C" primary key,
    executor_id text collate "C" not null,
    application_version text,
    workflow_names text[] not null,
    lease_until timestamptz not null,
    lost_at timestamptz,
    started_at timestamptz not null default clock_timestamp()
);
comment on table dbos_async.executors is
    'One launched DBOS, and the names of the workflows that it can run. It is alive while lease_until lies ahead of the database clock; while its connection is open it also holds the advisory lock of its id. lost_at is when somebody first saw that lock free: a hint, taken back by the next heartbeat.';

create table dbos_async.servers (
    incarnation text collate "C" primary key,
    seen_at timestamptz not null default clock_timestamp()
);
comment on table dbos_async.servers is
    'One life of the database server, from a start or a promotion to the next, and when an executor first saw it. Right after that nobody has come back yet, so nobody counts as dead before one whole lease.';

create function dbos_async.incarnation() returns text language plpgsql stable as $$
begin
    return extract(epoch from pg_postmaster_start_time()) || ' ' || left(pg_walfile_name(pg_current_wal_lsn()), 8);
exception when others then  -- some managed servers do not tell; those start anew when they are promoted
    return extract(epoch from pg_postmaster_start_time());
end
$$;
comment on function dbos_async.incarnation is
    'What tells one life of the server from the next: when it started, and the timeline, which changes when a standby is promoted.';

create function dbos_async.path(branch text, number integer) returns integer[] language sql immutable parallel safe as $$
    select string_to_array(branch, '.')::integer[] || number
$$;
comment on function dbos_async.path is
    'Where a step stands: 4 before 4.1.2 before 5.';

create sequence dbos_async.workflow_seq;
create table dbos_async.workflows (
    id text collate "C" primary key check (char_length(id) between 1 and 512),
    name text collate "C" not null check (char_length(name) between 1 and 512),
    status text collate "C" not null default 'PENDING' check (status in (
        'PENDING', 'SUCCESS', 'ERROR', 'CANCELLED', 'REPLAY_MISMATCH', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')),
    input json not null,
    output json,
    error json,
    owner text collate "C",
    attempt bigint not null,
    recoveries integer not null default 0,
    start_id uuid not null,
    parent_id text collate "C",
    parent_step text collate "C",
    forked_from text collate "C",
    application_version text,
    trace_parent text,
    created_at timestamptz not null default clock_timestamp(),
    claimed_at timestamptz,
    deadline timestamptz,
    ended_at timestamptz
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
comment on table dbos_async.workflows is
    'One workflow: a durable call of a registered function. owner is the executors.id that runs it, null when any executor that knows the name may claim it; attempt is the fence: it grows by one at each claim, and a write in the name of an older attempt does nothing; its last six digits count the runs, those before tell the workflow from a deleted one of the same id. recoveries counts executors that died under it in a row without a new step. start_id is the start call that made the row. At its deadline a workflow that has not ended is cancelled.';
create index workflows_unowned on dbos_async.workflows (name, created_at) where status = 'PENDING' and owner is null;
create index workflows_owned on dbos_async.workflows (owner) where status = 'PENDING' and owner is not null;
create index workflows_due on dbos_async.workflows (deadline) where deadline is not null and ended_at is null;
create index workflows_created on dbos_async.workflows (created_at);
create index workflows_parent on dbos_async.workflows (parent_id) where parent_id is not null;

create table dbos_async.steps (
    workflow_id text collate "C" not null,
    branch text collate "C" not null,
    number integer not null,
    verb text collate "C" not null,
    key text collate "C" not null,
    output json,
    error json,
    message_id uuid,
    deadline timestamptz,
    started_at timestamptz not null default now(),
    completed_at timestamptz,
    primary key (workflow_id, branch, number)
) with (fillfactor = 80);
comment on table dbos_async.steps is
    'One numbered act of a workflow. branch is the task that acted: empty for the main one, the path of the step after which the task was started and its rank there (4.1) for another. The row is the arbiter: an effect happens together with the insert (or the completion) of its step, or not at all. completed_at is null while a wait has begun and not ended.';

create sequence dbos_async.message_seq;
create table dbos_async.messages (
    id uuid primary key,
    seq bigint not null,
    destination_id text collate "C" not null,
    topic text collate "C" not null,
    topic_digest bytea not null generated always as (sha256(replace(topic, '\', '\\')::bytea)) stored,
    payload json not null,
    idempotency_key text collate "C",
    idempotency_digest bytea generated always as (sha256(replace(idempotency_key, '\', '\\')::bytea)) stored,
    sender_id text collate "C",
    headers json,
    sent_at timestamptz not null default clock_timestamp(),
    received_at timestamptz,
    rejected json
-- What was received stays in the index of the unreceived until a vacuum, and every receive of that queue walks past it.
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02);
comment on table dbos_async.messages is
    'One message to one workflow, kept after it was received. topic is empty when it was sent without one. seq is its place in the queue. received_at is null until a step took it; that step names it in message_id. rejected is the error of a receiver that could not read the payload.';
create index messages_unreceived on dbos_async.messages (destination_id, topic_digest, seq) where received_at is null;
create unique index messages_idempotency_key on dbos_async.messages (destination_id, idempotency_digest)
    where idempotency_digest is not null;

create sequence dbos_async.event_seq;
create table dbos_async.events (
    workflow_id text collate "C" not null,
    key text collate "C" not null,
    key_digest bytea not null generated always as (sha256(replace(key, '\', '\\')::bytea)) stored,
    seq bigint not null,
    value json not null,
    step text collate "C" not null,
    attempt bigint not null,
    act integer not null,
    set_at timestamptz not null default clock_timestamp(),
    primary key (workflow_id, key_digest, seq)
);
comment on table dbos_async.events is
    'One value that a workflow gave one of its events. The row with the highest seq is the value; the earlier ones are what the workflow had said before. act is the place of this saying among those of one run (attempt): what a step says late, after its answer was lost, does not come behind what was said after it.';

create table dbos_async.stream_entries (
    workflow_id text collate "C" not null,
    key text collate "C" not null,
    key_digest bytea not null generated always as (sha256(replace(key, '\', '\\')::bytea)) stored,
    "offset" integer not null,
    value json,
    closes boolean not null default false,
    step text collate "C" not null,
    attempt bigint not null,
    act integer not null,
    written_at timestamptz not null default clock_timestamp(),
    primary key (workflow_id, key_digest, "offset")
);
comment on table dbos_async.stream_entries is
    'One value of a stream, never changed. Offsets are 0, 1, 2 … without a gap. A row that closes has no value and stands after the last one. act is its place among what one run (attempt) said and wrote, as for events.';

create function dbos_async.delete_workflow(deleted_id text, its_attempt bigint) returns boolean language plpgsql as $$
begin
    -- Whoever writes to a workflow that has ended holds its row. The deletions come after that wait, and so they see what was
    -- written meanwhile, since each statement of a function looks anew.
    perform from dbos_async.workflows
        where id = deleted_id and attempt = its_attempt and ended_at is not null for update;
    if not found then
        return false;
    end if;
    delete from dbos_async.messages
        where id = any (array(
                select id from dbos_async.messages where destination_id = deleted_id and received_at is null
                union all
                select message_id from dbos_async.steps where workflow_id = deleted_id and message_id is not null))
          and destination_id = deleted_id;
    delete from dbos_async.steps where workflow_id = deleted_id;
    delete from dbos_async.events where workflow_id = deleted_id;
    delete from dbos_async.stream_entries where workflow_id = deleted_id;
    delete from dbos_async.workflows where id = deleted_id;
    return true;
end
$$;
comment on function dbos_async.delete_workflow is
    'Removes a workflow that has ended, with its messages, steps, events and streams; false when it has not, or goes on as another attempt.';

create function dbos_async.announce(digests bytea) returns void strict language plpgsql as $$
begin
    for place in 1 .. length(digests) by 3200 loop
        -- Said as an expression it needs no query of its own.
        if pg_notify('dbos_async', encode(substr(digests, place, 3200), 'hex')) is not null then null; end if;
    end loop;
end
$$;
comment on function dbos_async.announce is
    'Tells every listener, once the transaction commits, that something changed behind these digests of 8 bytes each: 16 hex letters in the notification, 400 digests to each, since its payload ends at 8,000 bytes.';
