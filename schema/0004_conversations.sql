alter table dbos_async.messages add column answer json, add column answer_error json, add column answered_at timestamptz;
comment on column dbos_async.messages.answer is
    'What the receiver has answered to a question; null in other messages, and in questions without an answer.';
comment on column dbos_async.messages.answer_error is
    'The error that the one who asked gets instead of an answer: the receiver has refused.';
comment on column dbos_async.messages.answered_at is
    'When the answer or the refusal was stored. The first one counts.';
alter table dbos_async.messages add column copy_of uuid;
comment on column dbos_async.messages.copy_of is
    'The message of the same queue that redeliver has copied here. Whoever asked it waits for an answer to that one.';
create sequence dbos_async.delayed_seq;
create table dbos_async.delayed_messages (
    id uuid primary key,
    seq bigint not null,
    destination_id text collate "C" not null,
    due_at timestamptz not null,
    topic text collate "C" not null,
    payload json not null,
    idempotency_key text collate "C",
    idempotency_digest bytea generated always as (sha256(replace(idempotency_key, '\', '\\')::bytea)) stored,
    sender_id text collate "C",
    headers json,
    digest bytea not null,
    sent_at timestamptz not null default clock_timestamp(),
    born xid8 default pg_current_xact_id()
) with (autovacuum_vacuum_scale_factor = 0.02);
comment on table dbos_async.delayed_messages is
    'One message that is due later. At due_at an executor moves it to messages, where it gets its place in the queue; seq is the order of sending, for messages that are due at the same time. digest is the key that the move announces.';
create index delayed_messages_due on dbos_async.delayed_messages (due_at);
create index delayed_messages_destination on dbos_async.delayed_messages (destination_id, due_at, seq);
create unique index delayed_messages_idempotency_key on dbos_async.delayed_messages (destination_id, idempotency_digest)
    where idempotency_digest is not null;
alter table dbos_async.workflows add column due_at timestamptz;
comment on column dbos_async.workflows.due_at is
    'When a workflow whose start was delayed becomes PENDING, or became it; null in others.';
alter table dbos_async.workflows drop constraint workflows_status_check;
-- Not valid: the rows that are there need no check, which would hold up everybody.
alter table dbos_async.workflows add constraint workflows_status_check check (status in (
    'PENDING', 'DELAYED', 'SUCCESS', 'ERROR', 'CANCELLED', 'REPLAY_MISMATCH', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')) not valid;
create index workflows_delayed on dbos_async.workflows (due_at) where status = 'DELAYED';
create or replace function dbos_async.delete_workflow(deleted_id text, its_attempt bigint) returns boolean language plpgsql as $$
begin
    -- Whoever writes to a workflow that has ended holds its row. The deletions come after that wait, and so they see what was
    -- written meanwhile, since each statement of a function looks anew.
    perform from dbos_async.workflows
        where id = deleted_id and attempt = its_attempt and ended_at is not null for update;
    if not found then
        return false;
    end if;
    -- Before the messages: what is being moved at this moment is one of those once this has waited for the move.
    delete from dbos_async.delayed_messages where destination_id = deleted_id;
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
