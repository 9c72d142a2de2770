-- The end of a generation and the begin of the next one, in one transaction.

-- name: CONTINUE (id text, attempt bigint, generation int, input json, owner text, application_version text,
--     unseen json, digest bytea)
-- A call that is repeated after its result was lost finds the next generation begun. The last six digits of an attempt count runs: long
-- before they are used up, the attempt takes new first digits, as that of a new workflow.
with calls as materialized (
    select * from :rows
),
owned as materialized (
    select c.*, w.name, w.start_id, dbos_async.end_generation(
               c.id, c.generation, array(select json_array_elements_text(c.unseen)::uuid)) as kept,
           case when mod(c.attempt, 1000000) < 900000 then c.attempt + 1
                else nextval('dbos_async.workflow_seq') * 1000000 + 2 end as next_attempt
    from (select * from calls order by id) as c
    cross join lateral (
        select name, start_id, attempt, status from dbos_async.workflows where id = c.id for no key update
    ) as w
    where w.attempt = c.attempt and w.status = 'PENDING'
),
continued as (
    -- Always an update, since the row is there and locked. As an insert it finds its row by the primary key, whatever the plan.
    insert into dbos_async.workflows as w (id, name, input, start_id, attempt, owner, application_version, generation)
    select id, name, input, start_id, next_attempt, owner, application_version, generation + 1 from owned
    on conflict (id) do update
        set input = excluded.input, attempt = excluded.attempt, began_as = excluded.attempt, generation = excluded.generation,
            owner = excluded.owner, recoveries = 0, patches = null, output = null, error = null,
            claimed_at = case when excluded.owner is null then w.claimed_at else clock_timestamp() end,
            application_version = coalesce(excluded.application_version, w.application_version)
    returning id, attempt, trace_parent, extract(epoch from deadline - clock_timestamp())::float8 as seconds_left,
              cancel_asked_at is not null as may_clean_up
),
announced as (:tell_executors(owned))
select c.n, w.attempt, w.trace_parent, w.seconds_left, w.may_clean_up
from calls as c
cross join announced
left join lateral (
    select attempt, trace_parent, seconds_left, may_clean_up from continued where id = c.id
    union all
    select attempt, trace_parent, extract(epoch from deadline - clock_timestamp())::float8, cancel_asked_at is not null
    from dbos_async.workflows
    where id = c.id and status = 'PENDING' and owner = c.owner and generation = c.generation + 1 and attempt = began_as
) as w on true

-- name: WRITERS_NOW (id text)
-- The transactions that write at this moment, and the messages that steps of a workflow have received. One that is idle between two statements, and one that is prepared, is no statement of a run.
select c.n, array(
    select distinct w.virtualtransaction
    from (select virtualtransaction, pid from :writing) as w
    left join lateral (select state from pg_stat_get_activity(w.pid) as s where s.pid = w.pid) as a on true
    where w.pid is not null and not starts_with(coalesce(a.state, ''), 'idle in transaction')) as writers,
    array(select message_id from dbos_async.steps where workflow_id = c.id and number > 0 and message_id is not null) as received
from :rows
