-- How workflows stand: one by its id, and all that fit a filter.

-- fragment: status_columns
w.id as workflow_id, w.name, w.status, w.owner as executor_id,
mod(w.attempt, 1000000) as attempt, w.generation, w.recoveries, w.parent_id, w.forked_from, w.application_version,
w.created_at, w.due_at, w.claimed_at, w.deadline, w.cancel_asked_at, w.ended_at, w.patches, :is_unclaimable as unclaimable

-- name: STATUS (id text)
select c.n, :status_columns, w.input, w.output, w.error
from :rows
cross join lateral (select * from dbos_async.workflows where id = c.id limit 1) as w

-- name: STATUS_IN_SHORT (id text)
-- The same without large values.
select c.n, :status_columns, :small(w.input) as input, :small(w.output) as output, :small(w.error) as error
from :rows
cross join lateral (select * from dbos_async.workflows where id = c.id limit 1) as w

-- fragment: in_this_round
-- Its round has it, and no page has shown it. The round before has shown what is not late for it.
(c.seen is null or not :is_late(w, created_at, seen, seen_floor))
and (c.shown is null or :is_late(w, created_at, shown, shown_floor))

-- fragment: goes_on
:in_this_round and (w.created_at, w.id) > (coalesce(c.from_time, '-infinity'), coalesce(c.from_id, ''))

-- fragment: goes_back
:in_this_round and (w.created_at, w.id) < (coalesce(c.from_time, 'infinity'), coalesce(c.from_id, ''))

-- fragment: in_next_round
c.seen is not null and w.created_at >= c.seen_floor and :is_late(w, created_at, seen, seen_floor)

-- fragment: in_next_round_back
-- From the newest to the oldest, a list does not come to what was made after it had begun.
:in_next_round and w.created_at < c.began

-- fragment: chosen(condition, direction)
-- Workflows by the index of the times, by those of the few that have not succeeded, or by their ids.
select * from (
    select w.* from dbos_async.workflows as w
    where c.ids is null and not c.are_few and :condition and :fits
    order by w.created_at :direction, w.id :direction limit c.most
) as by_time
union all
select * from (
    select w.* from (:few) as w
    where c.ids is null and c.are_few and :condition and :fits
    order by w.created_at :direction, w.id :direction limit c.most
) as by_status
union all
select * from (
    select w.* from unnest(c.ids) as i(id)
    cross join lateral (select * from dbos_async.workflows where id = i.id limit 1) as w
    where :condition and :fits
    order by w.created_at :direction, w.id :direction limit c.most
) as by_id

-- fragment: page(this_round, next_round, direction)
with calls as materialized (
    select c.n, c.id_prefix, c.since, c.until, c.parent_id, c.unclaimable, c.patch, c.without_patch, c.payloads, c.most, f.*, :are_few as are_few,
           c.shown::pg_snapshot as shown, c.shown_floor, c.seen::pg_snapshot as seen, c.seen_floor, c.began,
           coalesce(c.from_time, a.created_at) as from_time, coalesce(c.from_id, a.id) as from_id,
           c.after is not null and a.id is null as is_unknown, :page_columns
    from :rows
    :filters
    left join lateral (select created_at, id from dbos_async.workflows where id = c.after limit 1) as a on true
)
select c.n, c.is_unknown, c.snapshot::text as snapshot, c.now, c.floor, w.part, :status_columns,
       case when c.payloads then w.input end as input, case when c.payloads then w.output end as output,
       case when c.payloads then w.error end as error
from calls as c
left join lateral (
    select 0 as part, this.* from (:chosen(:this_round, :direction)) as this
    union all
    select 1 as part, next.* from (:chosen(:next_round, :direction)) as next
    order by part, created_at :direction, id :direction limit c.most
) as w on true
order by c.n, w.part, w.created_at :direction, w.id :direction

-- name: LIST (ids json, statuses json, names json, versions json, id_prefix text, since timestamptz, until timestamptz,
--     parent_id text, unclaimable boolean, patch text, without_patch text, payloads boolean, most int, after text, shown text,
--     shown_floor timestamptz, seen text, seen_floor timestamptz, began timestamptz, from_time timestamptz, from_id text)
:page(:goes_on, :in_next_round, asc)

-- name: LIST_NEWEST (ids json, statuses json, names json, versions json, id_prefix text, since timestamptz, until timestamptz,
--     parent_id text, unclaimable boolean, patch text, without_patch text, payloads boolean, most int, after text, shown text,
--     shown_floor timestamptz, seen text, seen_floor timestamptz, began timestamptz, from_time timestamptz, from_id text)
:page(:goes_back, :in_next_round_back, desc)
