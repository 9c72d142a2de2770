alter table dbos_async.executors add column running_steps json;
comment on column dbos_async.executors.running_steps is
    'The steps under way of this executor that are not recorded yet and have run for some seconds, or are tried again: "at", when it said so, and "steps" by the ids of their workflows. For people: nothing depends on it.';
alter table dbos_async.workflows add column born xid8;
alter table dbos_async.workflows alter column born set default pg_current_xact_id();
comment on column dbos_async.workflows.born is
    'The transaction that made the row: a list knows by it what was committed after a page was read. Null in rows of an older schema.';
alter table dbos_async.messages add column born xid8;
alter table dbos_async.messages alter column born set default pg_current_xact_id();
comment on column dbos_async.messages.born is
    'The transaction that made the row, as for workflows.';
