-- Which executor removes old workflows: one at a time.

-- fragment: is_mine
-- Whether this executor may remove workflows now, by r, the row of retention. Without the row it may. One that holds it for longer
-- than anybody does has another clock, and so has one that was through with them in the future.
coalesce(r.holder = c.executor_id, false)
or ((r.holder is null or r.held_until <= clock_timestamp() or r.held_until > clock_timestamp() + make_interval(secs => c.hold_seconds))
    and (r.passed_at is null or r.passed_at > clock_timestamp()
         or r.passed_at + make_interval(secs => greatest(c.pause_seconds, c.pauses * r.looked_seconds)) <= clock_timestamp()))

-- name: HOLD (executor_id text, hold_seconds float8, pause_seconds float8, pauses float8)
-- Takes the turn, or keeps it. An answer without a row: another executor has it, or it is not time yet.
with calls as materialized (
    select c.* from :rows
    left join lateral (select * from dbos_async.retention where is_only limit 1) as r on true
    where :is_mine
),
held as (
    insert into dbos_async.retention as r (holder, held_until)
    select executor_id, clock_timestamp() + make_interval(secs => hold_seconds) from calls
    on conflict (is_only) do update set holder = excluded.holder, held_until = excluded.held_until
        where exists (select from calls as c where :is_mine)
    returning holder
)
select c.n from calls as c cross join held

-- name: PASSED (executor_id text, looked_seconds float8)
-- This executor is through with all workflows, and leaves the next turn to whoever comes first.
with passed as (
    update dbos_async.retention as r
    set holder = null, held_until = null, passed_at = clock_timestamp(), looked_seconds = :looked_seconds
    where r.is_only and r.holder = :executor_id
    returning holder
)
select :n as n from passed
