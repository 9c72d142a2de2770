-- name: PLACE (workflow_id text, attempt bigint, branch text, number int, verb text, key text, place int,
--     after int)
-- A recorded result is released to the run at this place, or was received by no run: null. A row of an older release also learns
-- after which place it was asked for. No row of its own decides, so the call locks the row of its workflow.
with owned as materialized (
    select c.*, s.is_recorded
    from :rows
    cross join lateral (
        select attempt, status from dbos_async.workflows where id = c.workflow_id for share
    ) as w
    left join lateral (
        select true as is_recorded from dbos_async.steps
        where workflow_id = c.workflow_id and branch = c.branch and number = c.number limit 1
    ) as s on true
    where w.attempt = c.attempt and w.status = 'PENDING'
),
placed as (
    -- Always an update, since the row is there. As an insert it finds its row by the primary key, whatever the plan.
    insert into dbos_async.steps as s (workflow_id, branch, number, verb, key, place, asked_after)
    select workflow_id, branch, number, verb, key, place, after from owned where is_recorded
    order by workflow_id, branch, number
    on conflict (workflow_id, branch, number) do update
        set place = excluded.place, asked_after = coalesce(s.asked_after, excluded.asked_after)
)
select c.n, case when c.n in (select n from owned) then 'done' else 'lost' end as outcome
from :numbers
