-- How many workflows and messages there are, and which executors.

-- name: COUNT_WORKFLOWS (ids json, statuses json, names json, versions json, id_prefix text, since timestamptz, until timestamptz,
--     parent_id text, unclaimable boolean, patch text, without_patch text)
with calls as materialized (
    select c.n, c.id_prefix, c.since, c.until, c.parent_id, c.unclaimable, c.patch, c.without_patch, f.*, :are_few as are_few
    from :rows
    :filters
)
select c.n, w.name, w.status, count(*) as count, count(*) filter (where :is_unclaimable) as unclaimable
from calls as c
cross join lateral (
    select w.* from dbos_async.workflows as w where c.ids is null and not c.are_few and :fits
    union all
    select w.* from (:few) as w where c.ids is null and c.are_few and :fits
    union all
    select w.* from unnest(c.ids) as i(id)
    cross join lateral (select * from dbos_async.workflows where id = i.id limit 1) as w
    where :fits
) as w
group by c.n, w.name, w.status
order by c.n, w.name, w.status

-- name: COUNT_MESSAGES
select c.n, nullif(m.topic, '') as topic, m.waiting, m.oldest_at, m.rejected
from :numbers
cross join lateral (
    select topic, count(*) filter (where is_waiting) as waiting, min(sent_at) filter (where is_waiting) as oldest_at,
           count(*) filter (where not is_waiting) as rejected
    from (
        select topic, sent_at, true as is_waiting from dbos_async.messages as m
        where received_at is null
          and exists (select from dbos_async.workflows as w where w.id = m.destination_id and w.ended_at is null)
        union all
        select topic, sent_at, false as is_waiting from dbos_async.messages where rejected is not null
    ) as either
    group by topic
) as m
order by c.n, m.topic

-- name: LIST_EXECUTORS
-- The owners are found one after the other, each with one look into the index.
with recursive owners(owner) as (
    (select owner from dbos_async.workflows
     where status = 'PENDING' and owner is not null order by owner limit 1)
    union all
    select (select owner from dbos_async.workflows
            where status = 'PENDING' and owner is not null and owner > o.owner order by owner limit 1)
    from owners as o where o.owner is not null
),
counted as materialized (
    select o.owner, (select count(*) from dbos_async.workflows where status = 'PENDING' and owner = o.owner) as workflows
    from owners as o where o.owner is not null
),
executors as materialized (
    select coalesce(e.id, c.owner) as id, coalesce(e.executor_id, substring(c.owner from '^(.*):[^:]*$'), c.owner) as executor_id,
           e.application_version, coalesce(e.workflow_names, '{}') as workflow_names, e.started_at, e.lease_until,
           coalesce(e.lease_until > clock_timestamp(), false) as is_live, coalesce(c.workflows, 0) as workflows
    from dbos_async.executors as e full join counted as c on c.owner = e.id
)
select c.n, e.* from :numbers cross join executors as e
order by c.n, e.started_at, e.id
