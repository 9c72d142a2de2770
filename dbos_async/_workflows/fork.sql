-- fragment: is_earlier
-- Whether a row of a stream was written by an earlier generation of o, or of what o is a fork of. Steps of the same number wrote others.
(step = '0' or coalesce(attempt < o.began_as, false))

-- name: FORK (id text, fork_id text, start_path text, timeout_seconds float8, reaches_children boolean,
--     version text, digest bytea)
-- The copy has the steps whose results were received before the start step was asked for, their events and stream entries, and every
-- message. While one task alone calls verbs, these are the steps with lower numbers. Before step 1 there is nothing. A message that a
-- copied step received stays received, the others wait again in their order. Keys are copied as they are: the copy compares them
-- relative to its id and those of its originals. A wait that goes on and names the original begins anew, by the name of the copy.
-- Of streams the copy has what stands. Of a stream writer in the body of the workflow it has what was written before the last copied
-- barrier: the fork writes the rest. A stream that was trimmed begins in the copy where it begins in the original, if a copied step
-- may have written what is gone.
with original as materialized (
    select w.*, c.n, c.fork_id, p.start, c.timeout_seconds, c.reaches_children, c.version, c.digest, b.last,
           p.start = '{1}' or p.start[cardinality(p.start)] <= coalesce(b.last, case when cardinality(p.start) = 1 then 0 end) + 1
               as can_start
    from :rows
    cross join lateral (select string_to_array(c.start_path, '.')::int[] as start) as p
    cross join lateral (select * from dbos_async.workflows where id = c.id for key share) as w
    left join lateral (
        select number as last from dbos_async.steps
        where workflow_id = c.id and branch = array_to_string(trim_array(p.start, 1), '.') and number > 0
        order by number desc limit 1
    ) as b on true
),
taken as materialized (
    select o.fork_id as id, f.name, f.forked_from
    from original as o cross join lateral (
        select name, forked_from from dbos_async.workflows where id = o.fork_id limit 1
    ) as f
),
patches_kept as materialized (
    -- What was answered before the start step was asked for, and in doubt the others: a copied step may depend on them.
    select o.fork_id, jsonb_object_agg(p.name, p.place) as patches
    from original as o
    cross join lateral jsonb_each(o.patches) as p(name, place)
    cross join lateral (
        select dbos_async.path(place ->> 'branch', (place ->> 'number')::int) as path, (place ->> 'asked_after')::int as asked_after
    ) as called
    left join lateral (
        select true as is_recorded, asked_after from dbos_async.steps
        where workflow_id = o.id and branch = array_to_string(trim_array(o.start, 1), '.')
          and number = o.start[cardinality(o.start)] limit 1
    ) as at_start on true
    where o.start <> '{1}'
      and case when at_start.asked_after is not null
               then coalesce(called.asked_after, 0) <= greatest(at_start.asked_after, 0)
               when at_start.is_recorded then called.path < o.start and called.asked_after is null
               else called.path < o.start or called.asked_after is not null end
    group by o.fork_id
),
made as (
    insert into dbos_async.workflows
        (id, name, input, attempt, start_id, parent_id, parent_step, forked_from, application_version, trace_parent, deadline,
         patches, deadline_reaches_children)
    select fork_id, name, input, nextval('dbos_async.workflow_seq') * 1000000 + 1, gen_random_uuid(),
           parent_id, parent_step, id, coalesce(version, application_version), trace_parent,
           clock_timestamp() + make_interval(secs => timeout_seconds),
           (select k.patches from patches_kept as k where k.fork_id = original.fork_id), reaches_children
    from original where can_start and fork_id not in (select id from taken)
    returning id
),
kept_steps as materialized (
    select s.*, o.id, o.fork_id
    from original as o
    left join lateral (
        select true as is_recorded, asked_after from dbos_async.steps
        where workflow_id = o.id and dbos_async.path(branch, number) = o.start limit 1
    ) as at_start on true
    cross join lateral (
        select * from dbos_async.steps
        where workflow_id = o.id and number > 0 and o.start <> '{1}' and dbos_async.path(branch, number) <> o.start
          and not (completed_at is null and strpos(key, o.id) > 0)
          and case when at_start.asked_after is not null then coalesce(place, asked_after, 0) <= greatest(at_start.asked_after, 0)
                   else dbos_async.path(branch, number) < o.start
                        and (asked_after is null or at_start.is_recorded is null) end
    ) as s
    union all
    select s.*, o.id, o.fork_id  -- the notes of what earlier generations have received
    from original as o cross join lateral (
        select * from dbos_async.steps where workflow_id = o.id and branch = '' and number < 0
    ) as s
),
messages as materialized (
    select m.*, o.fork_id,
           (m.id, o.fork_id) in (select message_id, fork_id from kept_steps where message_id is not null) as stays_received
    from original as o cross join lateral (
        select * from dbos_async.messages
        where id = any (array(
                select id from dbos_async.messages where destination_id = o.id and received_at is null
                union all
                select message_id from dbos_async.steps where workflow_id = o.id and message_id is not null))
          and destination_id = o.id
        order by seq
    ) as m
),
messages_copied as (
    insert into dbos_async.messages
        (id, seq, destination_id, topic, payload, idempotency_key, sender_id, headers, sent_at, received_at, rejected,
         is_question, copy_of)
    select md5(fork_id || id)::uuid, nextval('dbos_async.message_seq'), fork_id, topic, payload, idempotency_key,
           sender_id, headers, sent_at, case when stays_received then received_at end, case when stays_received then rejected end,
           is_question, md5(fork_id || copy_of)::uuid
    from (select * from messages order by seq) as m where fork_id in (select id from made)
),
steps_copied as (
    insert into dbos_async.steps
        (workflow_id, branch, number, verb, key, output, error, message_id, deadline, started_at, completed_at, place,
         asked_after)
    select fork_id, branch, number, verb, key,
           output, error, md5(fork_id || message_id)::uuid, deadline, started_at, completed_at, place,
           asked_after
    from kept_steps where fork_id in (select id from made)
),
originals_noted as (
    insert into dbos_async.steps (workflow_id, branch, number, verb, key, output)
    select o.fork_id, '', 0, 'fork_workflow', o.id, to_json(o.forked_from || array(
        select json_array_elements_text(s.output) from dbos_async.steps as s
        where s.workflow_id = o.id and s.branch = '' and s.number = 0))
    from original as o where o.forked_from is not null and o.fork_id in (select id from made)
),
events_copied as (
    insert into dbos_async.events (workflow_id, key, seq, value, step, attempt, act, set_at)
    select fork_id, key, nextval('dbos_async.event_seq'), value, step, attempt, act, set_at
    from (
        select e.*, o.fork_id from original as o cross join lateral (
            select * from dbos_async.events
            where workflow_id = o.id
              and (step = '0' or string_to_array(step, '.')::int[] in (
                    select dbos_async.path(k.branch, k.number) from kept_steps as k where k.fork_id = o.fork_id))
            order by seq
        ) as e
    ) as e where fork_id in (select id from made)
),
trimmed_streams as materialized (
    select o.fork_id, t.key_digest, max(t.trimmed) as first
    from original as o cross join lateral (
        select key_digest, trimmed, step, :is_earlier as is_earlier from dbos_async.stream_entries
        where workflow_id = o.id and trimmed is not null
    ) as t
    group by o.fork_id, t.key_digest
    having bool_or(t.is_earlier or exists (
        select from kept_steps as k
        where k.fork_id = o.fork_id and dbos_async.path(k.branch, k.number) = string_to_array(t.step, '.')::int[]))
),
marks_copied as (
    insert into dbos_async.stream_entries
        (workflow_id, key, "offset", count, nth, step, attempt, act, written_at, trimmed)
    select o.fork_id, e.key, e."offset", e.count, e.nth, case when e.is_earlier then '0' else e.step end, e.attempt, e.act,
           e.written_at, e.trimmed
    from original as o
    cross join lateral (
        select *, :is_earlier as is_earlier from dbos_async.stream_entries where workflow_id = o.id and trimmed is not null
    ) as e
    where o.fork_id in (select id from made)
      and (o.fork_id, e.key_digest) in (select fork_id, key_digest from trimmed_streams)
),
streams_copied as (
    insert into dbos_async.stream_entries
        (workflow_id, key, "offset", value, batch, count, nth, closes, step, attempt, act, written_at)
    select fork_id, key,
           first + sum(coalesce(count, 1)) over (partition by fork_id, key order by "offset") - coalesce(count, 1),
           value, batch, count, nth, closes, case when is_earlier then '0' else step end, attempt, act, written_at
    from (
        select e.*, o.fork_id, coalesce(t.first, 0) as first from original as o cross join lateral (
            select *, :is_earlier as is_earlier from dbos_async.stream_entries as e
            where workflow_id = o.id and taken_back_by is null and rewinds_to is null and trimmed is null
              and (:is_earlier or exists (
                    select from kept_steps as k
                    where k.fork_id = o.fork_id and dbos_async.path(k.branch, k.number) = string_to_array(e.step, '.')::int[]
                      and (k.verb <> 'stream_writer' or exists (
                            select from kept_steps as f
                            where f.fork_id = o.fork_id and f.verb = 'flush_stream' and f.output ->> 'writer' = e.step
                              and (f.output ->> 'written')::int >= e.nth + e.count))))
        ) as e
        left join trimmed_streams as t on t.fork_id = o.fork_id and t.key_digest = e.key_digest
    ) as e where fork_id in (select id from made)
),
announced as (:tell_executors(original))
select o.n, o.can_start, o.last, t.name as taken_name, t.forked_from as taken_from
from original as o cross join announced left join taken as t on t.id = o.fork_id
