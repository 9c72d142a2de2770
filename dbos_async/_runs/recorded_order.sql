-- name: ORDER (workflow_id text, after float8)
-- One page of the order in which steps were asked for and released: at least 5,000 steps, and all that were asked for after the
-- same place. A step that was asked for before there were places may have a place all the same.
select c.n, s.branch, s.number, s.place, s.asked_after, s.more
from :rows
cross join lateral (
    select p.*, count(*) over () >= 5000 as more
    from (
        select branch, number, place, asked_after
        from dbos_async.steps
        where workflow_id = c.workflow_id and (place is not null or asked_after is not null)
          and greatest(coalesce(asked_after, -1), -1) > c.after
        order by greatest(coalesce(asked_after, -1), -1)
        fetch first 5000 rows with ties
    ) as p
) as s
order by c.n, greatest(coalesce(s.asked_after, -1), -1)
