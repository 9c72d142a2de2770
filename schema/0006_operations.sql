-- What people look for who operate an application. Both indexes have few rows, and no other row pays for them.
create index workflows_in_trouble on dbos_async.workflows (status, created_at)
    where status in ('ERROR', 'REPLAY_MISMATCH', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED');
comment on index dbos_async.workflows_in_trouble is
    'Workflows that have failed or are parked, of which a person wants to know.';
create index messages_rejected on dbos_async.messages (destination_id, seq) where rejected is not null;
comment on index dbos_async.messages_rejected is
    'Messages whose receivers could not read them.';
