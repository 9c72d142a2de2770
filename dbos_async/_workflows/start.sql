-- Starts: each inserts the row of a workflow, together with the parent's step when a workflow starts it.

-- fragment: taken
-- The workflow that has the id already. In a transaction of the user whose snapshot is older than this statement, it may be gone: then
-- the lock is refused.
left join lateral (
    select name, start_id, attempt from dbos_async.workflows where id = c.id limit 1
) as t on true
left join lateral (
    select w.id from dbos_async.workflows as w
    where w.id = c.id and current_setting('transaction_isolation') <> 'read committed' for key share
) as kept on true

-- name: START_BY_ID (id text, name text, input json, owner text, application_version text, trace_parent text,
--     start_id uuid, timeout_seconds float8, reaches_children boolean, digest bytea)
-- For an id that the user chose, and for repetitions: there may be a row already. Any executor claims a row without an owner; a row
-- with an owner is its first attempt there.
with calls as materialized (
    select c.*, coalesce(t.name, first_value(c.name) over (partition by c.id order by c.n)) as taken_name,
           t.name is not null as taken, coalesce(t.start_id = c.start_id and mod(t.attempt, 1000000) = 1, false) as taken_by_this,
           case when t.start_id = c.start_id then t.attempt / 1000000
                else nextval('dbos_async.workflow_seq') end * 1000000 as attempts
    from :rows
    :taken
),
new_rows as materialized (
    select distinct on (id) * from calls where taken_name = name and not taken order by id, n
),
inserted as (
    -- Another transaction may insert the row at this moment. Then the unique key rejects the batch, and its retry sees the row.
    insert into dbos_async.workflows
        (id, name, input, owner, attempt, start_id, application_version, trace_parent, claimed_at, deadline,
         deadline_reaches_children)
    select id, name, input, owner, attempts + case when owner is null then 0 else 1 end, start_id,
           application_version, trace_parent, case when owner is not null then clock_timestamp() end,
           clock_timestamp() + make_interval(secs => timeout_seconds), reaches_children
    from new_rows
),
announced as (:tell_executors(new_rows where owner is null))
select n, 'done' as outcome, null::json as output,
       case when taken_name <> name then :error('dbos_async.errors:WorkflowConflictError', id, taken_name, name) end as error,
       taken_by_this or n in (select n from new_rows) as started, attempts
from calls, announced

-- name: START (id text, name text, input json, owner text, application_version text, trace_parent text,
--     start_id uuid, timeout_seconds float8, reaches_children boolean, digest bytea)
-- For ids that this process made just now.
with calls as materialized (
    select c.*, nextval('dbos_async.workflow_seq') * 1000000 as attempts
    from :rows
),
inserted as (
    insert into dbos_async.workflows
        (id, name, input, owner, attempt, start_id, application_version, trace_parent, claimed_at, deadline,
         deadline_reaches_children)
    select id, name, input, owner, attempts + case when owner is null then 0 else 1 end, start_id,
           application_version, trace_parent, case when owner is not null then clock_timestamp() end,
           clock_timestamp() + make_interval(secs => timeout_seconds), reaches_children
    from calls
),
announced as (:tell_executors(calls where owner is null))
select n, 'done' as outcome, null::json as output, null::json as error, true as started, attempts
from calls, announced

-- fragment: calls(may_start)
-- The calls with what is recorded of them, the record of each, and the rows to insert.
with calls as materialized (
    select c.*, s.verb as recorded_verb, s.key as recorded_key, s.output as recorded_output, s.error as recorded_error,
           case when not :may_start then 'lost'
                when s.verb is not null then 'recorded' else 'done' end as outcome,
           coalesce(t.name, first_value(c.name) over (partition by c.id order by c.n)) as taken_name,
           t.name is not null as taken, coalesce(t.start_id = c.start_id and mod(t.attempt, 1000000) = 1, false) as taken_by_this,
           case when t.start_id = c.start_id then t.attempt / 1000000
                else nextval('dbos_async.workflow_seq') end * 1000000 as attempts,
           :inherited_deadline
    from :rows
    :fence_or_lock(c.parent_id)
    :recorded_step(c.parent_id)
    :taken
),
checked as materialized (
    select *, case when taken_name <> name then :error('dbos_async.errors:WorkflowConflictError', id, taken_name, name)
           end as conflict
    from calls
),
recorded as (
    insert into dbos_async.steps (workflow_id, branch, number, verb, key, output, error, completed_at, place, asked_after)
    select parent_id, branch, number, 'start_workflow', name,
           case when conflict is null then to_json(id) end, conflict, clock_timestamp(), place, asked_after
    from checked where outcome = 'done' and number is not null
    order by parent_id, branch, number
),
new_rows as materialized (
    select distinct on (id) * from checked
    where outcome = 'done' and conflict is null and not taken order by id, n
)

-- fragment: hands_on
-- Whether what the new workflow starts inherits its deadline.
case when inherited_deadline is not null then true else reaches_children end

-- fragment: is_owner_or_outside
(c.parent_id is null or :is_owner_by_either)

-- ordered name: START_CHILD (parent_id text, attempt bigint, branch text, number int, parent_step text, id text, name text,
--     input json, owner text, application_version text, trace_parent text, start_id uuid, timeout_seconds float8,
--     reaches_children boolean, digest bytea)
-- For a child: the step of the parent and the row of the child are inserted together.
:calls(:is_owner_by_either),
inserted as (
    -- Another transaction may insert the row at this moment. Then the unique key rejects the batch, and its retry sees the row.
    insert into dbos_async.workflows
        (id, name, input, owner, attempt, start_id, parent_id, parent_step, application_version, trace_parent,
         claimed_at, deadline, deadline_reaches_children)
    select id, name, input, owner, attempts + case when owner is null then 0 else 1 end, start_id,
           parent_id, parent_step, application_version, trace_parent,
           case when owner is not null then clock_timestamp() end,
           least(clock_timestamp() + make_interval(secs => timeout_seconds), inherited_deadline), :hands_on
    from new_rows
),
announced as (:tell_executors(new_rows where owner is null))
select n, outcome, case when outcome = 'recorded' then recorded_output else to_json(id) end as output,
       case when outcome = 'recorded' then recorded_error else conflict end as error,
       recorded_verb, recorded_key, taken_by_this or n in (select n from new_rows) as started, attempts
from checked, announced

-- ordered name: START_DELAYED (parent_id text, attempt bigint, branch text, number int, parent_step text, id text, name text,
--     input json, application_version text, trace_parent text, start_id uuid, timeout_seconds float8, reaches_children boolean,
--     delay_seconds float8)
-- For any caller: the workflow is there now, and begins later. Its deadline counts from then.
:calls(:is_owner_or_outside),
inserted as (
    -- Another transaction may insert the row at this moment. Then the unique key rejects the batch, and its retry sees the row.
    insert into dbos_async.workflows
        (id, name, status, input, attempt, start_id, parent_id, parent_step, application_version, trace_parent, due_at, deadline,
         deadline_reaches_children)
    select id, name, 'DELAYED', input, attempts, start_id, parent_id, parent_step, application_version, trace_parent,
           due_at, least(due_at + make_interval(secs => timeout_seconds), inherited_deadline), :hands_on
    from (select *, clock_timestamp() + make_interval(secs => delay_seconds) as due_at from new_rows) as new_rows
)
select n, outcome, case when outcome = 'recorded' then recorded_output else to_json(id) end as output,
       case when outcome = 'recorded' then recorded_error else conflict end as error,
       recorded_verb, recorded_key
from checked
