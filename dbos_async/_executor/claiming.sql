-- Claiming: an executor takes workflows that no executor owns.

-- name: CLAIM (executor_id text, workflow_names json, application_version text, most int)
-- The oldest unowned workflows that this executor knows. Rows that others lock at this moment are skipped, until the next claim; "more"
-- says whether there may be others behind them. A name is written as a range, and ordered by: where few names have long backlogs the
-- planner would read the index of all times for each other name.
with found as materialized (
    select w.ctid
    from json_array_elements_text(:workflow_names) as known(name)
    cross join lateral (
        select ctid, created_at from dbos_async.workflows
        where status = 'PENDING' and owner is null and name >= known.name and name <= known.name
          and (:application_version is null or application_version is null or application_version = :application_version)
        order by name, created_at limit :most
    ) as w
    order by w.created_at limit :most
),
locked as materialized (
    -- Found by ctid alone. The limit keeps the conditions outside, or the planner might read the index of all unowned workflows.
    select w.ctid
    from found as f
    cross join lateral (
        select ctid, status, owner from dbos_async.workflows where ctid = f.ctid limit 1 for update skip locked
    ) as w
    where w.status = 'PENDING' and w.owner is null
),
claimed as (
    update dbos_async.workflows
    set owner = :executor_id, attempt = attempt + 1, claimed_at = clock_timestamp(),
        application_version = coalesce(application_version, :application_version)
    where ctid = any (array(select ctid from locked))
    returning id, name, input, attempt, recoveries, trace_parent,
              extract(epoch from deadline - clock_timestamp())::float8 as seconds_left, generation,
              cancel_asked_at is not null as may_clean_up, patches
)
select :n as n, seen.count >= :most as more, claimed.*
from (select count(*) from found) as seen left join claimed on true

-- name: WAITING_NAMES (after text, most int)
-- The names after this one of workflows that no executor owns. They are found one after the other, each with one look into the index.
with recursive waiting(name) as (
    (select name from dbos_async.workflows where status = 'PENDING' and owner is null and name > :after order by name limit 1)
    union all
    select (select name from dbos_async.workflows where status = 'PENDING' and owner is null and name > w.name order by name limit 1)
    from waiting as w where w.name is not null
)
select :n as n, name from waiting where name is not null limit :most
