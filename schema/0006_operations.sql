-- What people look for who operate an application. Both indexes have few rows, and no other row pays for them.
create index workflows_in_trouble on dbos_async.workflows (status, created_at)
    where status in ('ERROR', 'REPLAY_MISMATCH', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED');
comment on index dbos_async.workflows_in_trouble is
    'Workflows that have failed or are parked, of which a person wants to know.';
create index messages_rejected on dbos_async.messages (destination_id, seq) where rejected is not null;
comment on index dbos_async.messages_rejected is
    'Messages whose receivers could not read them.';

create function dbos_async.purge_workflow(old_id text, its_attempt bigint) returns text language plpgsql as $$
begin
    -- Nobody is waited for: who sends to this workflow, resumes it or forks it at this moment holds its row, and goes first.
    perform from dbos_async.workflows
        where id = old_id and attempt = its_attempt and ended_at is not null for update skip locked;
    if found and dbos_async.delete_workflow(old_id, its_attempt) then
        return 'removed';
    end if;
    perform from dbos_async.workflows where id = old_id and attempt = its_attempt and ended_at is not null;
    return case when found then 'held' else 'gone' end;
end
$$;
comment on function dbos_async.purge_workflow is
    'Removes a workflow as delete_workflow does, unless another transaction holds its row. Tells what became of it: removed, held by another transaction, or gone: it has not ended, or is not there as this attempt.';

create table dbos_async.retention (
    is_only boolean primary key default true check (is_only),
    holder text collate "C",
    held_until timestamptz,
    passed_at timestamptz,
    looked_seconds float8
);
comment on table dbos_async.retention is
    'One row: which executor removes old workflows at this moment (holder is an executors.id), and until when the others leave that to it, unless it says so again. passed_at is when one of them was last through with all workflows, and looked_seconds how long it had looked for old ones.';
