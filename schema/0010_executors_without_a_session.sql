-- Behind a pooler in transaction mode an executor has no session of the server, and holds no lock that shows that it is alive.
alter table dbos_async.executors add column keeps_session boolean not null default true;
comment on column dbos_async.executors.keeps_session is
    'Whether the executor holds its liveness lock while it is alive. If not, only its renewals show that it is.';
