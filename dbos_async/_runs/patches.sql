-- The names for which a workflow goes the way of new code.

-- fragment: owned
-- The calls whose runs own their workflows. No row of a step decides, so a call locks the row of its workflow.
with owned as materialized (
    select c.*, w.name, w.start_id
    from (select * from :rows order by workflow_id) as c
    cross join lateral (
        select name, start_id, attempt, status from dbos_async.workflows where id = c.workflow_id for no key update
    ) as w
    where w.attempt = c.attempt and w.status = 'PENDING'
)

-- name: PATCH (workflow_id text, attempt bigint, patches json)
-- A name that is there keeps its place: the call was repeated.
:owned,
patched as (
    -- Always an update, since the row is there and locked. As an insert it finds its row by the primary key, whatever the plan.
    insert into dbos_async.workflows as w (id, name, input, start_id, attempt, patches)
    select workflow_id, name, '{}', start_id, attempt, patches::jsonb from owned
    on conflict (id) do update set patches = excluded.patches || coalesce(w.patches, '{}')
)
select c.n, case when c.n in (select n from owned) then 'done' else 'lost' end as outcome
from :numbers

-- name: UNPATCH (workflow_id text, attempt bigint, names json, digest bytea)
-- These names were recorded too early. The workflow waits for its next run.
:owned,
given_back as (
    -- Always an update, as above.
    insert into dbos_async.workflows as w (id, name, input, start_id, attempt, patches)
    select workflow_id, name, '{}', start_id, attempt,
           (select jsonb_object_agg(taken, null) from json_array_elements_text(names) as taken)
    from owned
    on conflict (id) do update
        set patches = nullif(w.patches - array(select jsonb_object_keys(excluded.patches)), '{}'),
            owner = null, attempt = w.attempt + 1
),
announced as (:tell_executors(owned))
select c.n, case when c.n in (select n from owned) then 'done' else 'lost' end as outcome
from :numbers cross join announced
