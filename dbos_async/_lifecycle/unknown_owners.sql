-- Workflows of methods whose object or class no live executor has.

-- name: UNKNOWN_OWNERS (ranges json)
-- The names in these ranges of names (from, up to) under which workflows wait that no live executor can run. They are found one after
-- the other, each with one look into the index.
with recursive names(below, name) as (
    select r.below, (select min(name) from dbos_async.workflows
                     where status = 'PENDING' and owner is null and name >= r.first and name < r.below)
    from (
        select r.range ->> 0 as first, r.range ->> 1 as below from json_array_elements(:ranges) as r(range)
    ) as r
    union all
    select n.below, (select min(name) from dbos_async.workflows
                     where status = 'PENDING' and owner is null and name > n.name and name < n.below)
    from names as n where n.name is not null
)
select :n as n, w.name
from (select name, null::text as application_version from names where name is not null) as w
where not :some_live_executor_knows
