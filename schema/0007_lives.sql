-- What a workflow's life is made of: generations, patches, and an end that reaches its children or leaves time to clean up.
alter table dbos_async.workflows
    add column generation integer not null default 1, add column patches jsonb,
    add column deadline_reaches_children boolean, add column cancel_asked_at timestamptz;
comment on column dbos_async.workflows.generation is
    'How often continue_as_new has begun the workflow anew, and one more. Its steps are those of this generation.';
comment on column dbos_async.workflows.patches is
    'The names for which patched has answered true in this generation, null before the first. Each with the place of its first call, for forks: after which number of which branch, and after which place (as steps.asked_after).';
comment on column dbos_async.workflows.deadline_reaches_children is
    'True: what it starts gets its deadline, and hands that on. Null in other workflows.';
comment on column dbos_async.workflows.cancel_asked_at is
    'When it was asked to end, with time to clean up until deadline; null in others.';
