-- What a workflow's life is made of: generations, patches, and an end that reaches its children or leaves time to clean up.
alter table dbos_async.workflows
    add column generation integer not null default 1, add column patches jsonb,
    add column deadline_reaches_children boolean, add column cancel_asked_at timestamptz;
comment on column dbos_async.workflows.generation is
    'How often continue_as_new has begun the workflow anew, and one more. Its steps are those of this generation.';
comment on column dbos_async.workflows.patches is
    'The names for which patched has answered true in this generation, null before the first. Each with the place of its first call, for forks: after which number of which branch, and after which place (as steps.asked_after).';
comment on column dbos_async.workflows.deadline_reaches_children is
    'True: what it starts gets its deadline, and hands that on. Null in other workflows.';
comment on column dbos_async.workflows.cancel_asked_at is
    'When it was asked to end, with time to clean up until deadline; null in others.';

alter table dbos_async.workflows add column began_as bigint;
comment on column dbos_async.workflows.began_as is
    'The attempt by which the present generation began; null in the first. What an earlier attempt has written is of an earlier generation.';
alter table dbos_async.messages add column is_question boolean;
comment on column dbos_async.messages.is_question is
    'True: the sender waits for an answer. Null in other messages, and in those of an older schema.';

comment on column dbos_async.steps.number is
    'Its number in its branch, from 1. Other rows are notes: 0 says of what a fork is a copy; one below 0 keeps a message that an earlier generation has received, and says in output through which generation.';

create function dbos_async.end_generation(continued_id text, ended integer, unseen uuid[]) returns integer language plpgsql as $$
declare
    kept uuid[];
    last_generations integer[];
    awaited text[];
begin
    -- Each statement of a function looks anew, so all that the caller waited for is seen.
    update dbos_async.messages set received_at = null where id = any (unseen) and destination_id = continued_id;
    select array_agg(s.output ->> 'message_id') into awaited
    from dbos_async.steps as s
    join dbos_async.workflows as w on w.id = s.workflow_id and w.ended_at is null
    where s.verb = 'ask' and s.completed_at is null and s.workflow_id = any (array(
        select m.sender_id from dbos_async.steps as r
        join dbos_async.messages as m on m.id = r.message_id and m.is_question
        where r.workflow_id = continued_id and r.message_id is not null));
    select array_agg(id order by last, id), array_agg(last order by last, id) into kept, last_generations
    from (
        select r.id,
               case when m.rejected is not null or (m.is_question and coalesce(original.answered_at, m.answered_at) is null)
                         or m.id::text = any (awaited) then ended + 2
                    when r.last is not null then r.last
                    when m.idempotency_key is not null or m.is_question or m.answered_at is not null then ended + 1 end as last
        from (
            select message_id as id, case when number < 0 then (output #>> '{}')::integer end as last
            from dbos_async.steps where workflow_id = continued_id and message_id is not null and (message_id = any (unseen)) is not true
        ) as r
        cross join lateral (
            select * from dbos_async.messages where id = r.id and destination_id = continued_id limit 1
        ) as m
        left join lateral (
            select answered_at from dbos_async.messages where id = m.copy_of and destination_id = continued_id limit 1
        ) as original on true
    ) as received
    where last > ended;
    delete from dbos_async.messages
        where id = any (array(select message_id from dbos_async.steps where workflow_id = continued_id and message_id is not null))
          and destination_id = continued_id and (id = any (kept || unseen)) is not true;
    delete from dbos_async.steps where workflow_id = continued_id and number <> 0;
    insert into dbos_async.steps (workflow_id, branch, number, verb, key, output, message_id)
        select continued_id, '', -place::integer, 'keep_message', '', to_json(last), id
        from unnest(kept, last_generations) with ordinality as k(id, last, place);
    -- Only the latest values are ever read again. A fork may begin anywhere in the present generation, and has them.
    delete from dbos_async.events as e
        where workflow_id = continued_id and exists (
            select from dbos_async.events as later
            where later.workflow_id = continued_id and later.key_digest = e.key_digest and later.seq > e.seq);
    update dbos_async.events set step = '0' where workflow_id = continued_id and step <> '0';
    -- The next generation has steps of the same numbers, which must not go on with what these have written. In the order in which a
    -- trim locks rows.
    perform from dbos_async.stream_entries
        where workflow_id = continued_id and nth is not null order by key_digest, "offset" for update;
    update dbos_async.stream_entries set nth = null where workflow_id = continued_id and nth is not null;
    return coalesce(cardinality(kept), 0);
end
$$;
comment on function dbos_async.end_generation is
    'Removes the steps of a generation and the messages that they have received, for a caller that holds the row of the workflow. What no run has seen of these messages goes back to its place in the queue. Notes, which are rows of steps with negative numbers, keep some of these messages, and say in output through which generation: one with an idempotency key, and an answered question, through the next one; a question without an answer or whose asker, a workflow, still waits for it, and a message that was rejected, as long as it is that. Tells how many are kept.';
