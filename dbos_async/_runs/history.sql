-- name: PAGE (workflow_id text, branch text, after int)
-- One page of one branch: at most 1,000 steps or 1 MiB. "more" says whether to come back, "has_places" whether the order of results
-- is recorded. Once it is, every further step of the main task is asked for after a place, and other tasks have branches. "ends" is the
-- last step of each branch, told with the first page: a few are found one after the other, each with one look into the index, and
-- many by one scan. An empty page has one row without a number. A sleep is complete when it has a place, and when it is recorded that it
-- is over. Before that its time may have come: the run asks, which records that it is over, and no later run takes it for cut off. Rows
-- of an older release do not say whether a sleep is over: there it is when its time has come, or when the next step began after it,
-- whatever the clock says now.
select c.n, s.number, s.verb, s.key, s.output, s.error, s.message_id, s.completed, s.place, s.asked_after,
       coalesce(s.more, false) as more, o.has_places, o.ends
from :rows
cross join lateral (
    select coalesce((select true from dbos_async.steps where workflow_id = c.workflow_id and branch > '' limit 1), false)
           or coalesce((
               select place is not null or asked_after is not null from dbos_async.steps
               where workflow_id = c.workflow_id and branch = '' order by number desc limit 1), false) as has_places,
           case when c.branch = '' and c.after = 0 then (
               with recursive ends(branch, number) as (
                   (select branch, number from dbos_async.steps where workflow_id = c.workflow_id
                    order by branch desc, number desc limit 1)
                   union all
                   select s.branch, s.number
                   from ends as e
                   cross join lateral (
                       select branch, number from dbos_async.steps where workflow_id = c.workflow_id and branch < e.branch
                       order by branch desc, number desc limit 1
                   ) as s
                   where e.branch > ''
               )
               select case when count(*) <= 100 then coalesce(json_object_agg(branch, number), '{}')
                           else (
                               select json_object_agg(branch, number)
                               from (select branch, max(number) as number from dbos_async.steps
                                     where workflow_id = c.workflow_id group by branch) as all_ends) end
               from (select * from ends limit 101) as first_ends) end as ends
    offset 0  -- once for the page, and not for each of its rows
) as o
left join lateral (
    select p.*, p.fetched = 1000 or p.weight > 1048576 as more
    from (
        select t.*, count(*) over () as fetched,
               sum(t.bytes) over (order by t.number) as weight
        from (
            select number, verb, key, output, error, message_id, place, asked_after,
                   case when verb <> 'sleep' or place is not null or error is not null or output::text = 'true'
                        then completed_at is not null
                        when output is not null then false
                        when completed_at <= clock_timestamp() then true
                        else exists (
                            select from dbos_async.steps as later
                            where later.workflow_id = c.workflow_id and later.branch = c.branch
                              and later.number = steps.number + 1 and later.started_at >= steps.completed_at)
                   end as completed,
                   coalesce(pg_column_size(output), 0) + coalesce(pg_column_size(error), 0) + 64 as bytes
            from dbos_async.steps
            where workflow_id = c.workflow_id and branch = c.branch and number > c.after
            order by number
            limit 1000
        ) as t
    ) as p
    where p.weight - p.bytes < 1048576
) as s on true
order by c.n, s.number
