"""Forking: a copy of a workflow that goes on from one of its steps, while the original stays as it is."""

from __future__ import annotations

import re
from typing import Any

from dbos_async._database.database import Database
from dbos_async._database.statement import Statement
from dbos_async._database.wakeups import UNOWNED_KEY
from dbos_async._runs.start_options import assigned
from dbos_async._runs.step import read
from dbos_async._serialization.ids import ordered_id
from dbos_async._workflows.handle import WorkflowHandle
from dbos_async.errors import InvalidArgumentError, WorkflowConflictError, WorkflowNotFoundError
from dbos_async.keys import check_key

FORK = Statement(
    "FORK",
    """
    -- The copy has the steps below the start, what they said and wrote, and every message: those that a copied step took stay
    -- taken, the others wait again, in their order. Where a step names the workflow itself, the copy's names the copy.
    with original as materialized (
        select w.*, c.fork_id, p.start, c.version, c.digest
        from unnest($1::int[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[])
            as c(n, id, fork_id, start_path, version, digest)
        cross join lateral (select string_to_array(c.start_path, '.')::int[] as start) as p
        cross join lateral (select * from dbos_async.workflows where id = c.id for key share) as w
    ),
    taken as materialized (
        select o.fork_id as id, f.name, f.forked_from
        from original as o cross join lateral (
            select name, forked_from from dbos_async.workflows where id = o.fork_id limit 1
        ) as f
    ),
    made as (
        insert into dbos_async.workflows
            (id, name, input, attempt, start_id, parent_id, parent_step, forked_from, application_version, trace_parent)
        select fork_id, name, input, nextval('dbos_async.workflow_seq') * 1000000 + 1, gen_random_uuid(),
               parent_id, parent_step, id, coalesce(version, application_version), trace_parent
        from original where not exists (select 1 from taken)
        returning id
    ),
    kept as materialized (
        select s.*, o.id, o.fork_id from original as o cross join lateral (
            select * from dbos_async.steps
            where workflow_id = o.id and dbos_async.path(branch, number) < o.start
        ) as s
    ),
    letters as materialized (
        select m.*, o.fork_id,
               coalesce(m.id in (select message_id from kept where message_id is not null), false) as stays_taken
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
            (id, seq, destination_id, topic, payload, idempotency_key, sender_id, headers, sent_at, received_at, rejected)
        select md5(fork_id || id)::uuid, nextval('dbos_async.message_seq'), fork_id, topic, payload, idempotency_key,
               sender_id, headers, sent_at, case when stays_taken then received_at end, case when stays_taken then rejected end
        from (select * from letters order by seq) as l where exists (select 1 from made)
    ),
    steps_copied as (
        insert into dbos_async.steps
            (workflow_id, branch, number, verb, key, output, error, message_id, deadline, started_at, completed_at)
        select fork_id, branch, number, verb,
               case when verb = 'get_result' and key = id then fork_id
                    when verb = 'send' and (key = id or starts_with(key, id || ' (')) then
                        fork_id || substr(key, char_length(id) + 1)
                    when verb in ('get_event', 'read_stream') and right(key, char_length(id) + 4) = ' of ' || id
                        then left(key, -char_length(id)) || fork_id
                    else key end,
               output, error, md5(fork_id || message_id)::uuid, deadline, started_at, completed_at
        from kept where exists (select 1 from made)
    ),
    events_copied as (
        insert into dbos_async.events (workflow_id, key, seq, value, step, attempt, act, set_at)
        select fork_id, key, nextval('dbos_async.event_seq'), value, step, attempt, act, set_at
        from (
            select e.*, o.fork_id from original as o cross join lateral (
                select * from dbos_async.events
                where workflow_id = o.id and string_to_array(step, '.')::int[] < o.start order by seq
            ) as e
        ) as said where exists (select 1 from made)
    ),
    streams_copied as (
        insert into dbos_async.stream_entries
            (workflow_id, key, "offset", value, closes, step, attempt, act, written_at)
        select fork_id, key, row_number() over (partition by key order by "offset") - 1, value, closes, step,
               attempt, act, written_at
        from (
            select e.*, o.fork_id from original as o cross join lateral (
                select * from dbos_async.stream_entries
                where workflow_id = o.id and string_to_array(step, '.')::int[] < o.start
            ) as e
        ) as written where exists (select 1 from made)
    ),
    announced as (select dbos_async.announce(string_agg(distinct digest, '')) from original)
    select ($1::int[])[1] as n, o.id, t.name as taken_name, t.forked_from as taken_from
    from original as o cross join announced left join taken as t on true
    """,
)

_PATH = re.compile(r"[0-9]+(\.[0-9]+)*")


async def fork(
    database: Database, workflow_id: str, start_step: int | str, application_version: str | None
) -> WorkflowHandle[Any]:
    """Start a copy of a workflow that goes on from one of its steps."""
    check_key(workflow_id, "workflow_id")
    start = str(start_step)
    if type(start_step) not in (int, str) or _PATH.fullmatch(start) is None or start == "0":
        raise InvalidArgumentError(
            f"start_step must be the number of a step as list_workflow_steps shows it (4, or '4.1.2') and is {start_step!r:.100}."
        )
    ticket = assigned.get()
    new_id = str(ordered_id()) if ticket is None else ticket.use()
    # In a workflow the id of the copy is recorded first, so that a replay makes no second one.
    fork_id: str = await read(database, "fork_workflow", workflow_id, lambda: _same(new_id), str)

    async def find() -> str:
        row = workflow_id, fork_id, start, application_version, UNOWNED_KEY
        answer = await database.call(FORK, [row], partition=fork_id, wakes=[UNOWNED_KEY])
        if not answer:
            raise WorkflowNotFoundError(workflow_id)
        _, _, taken_name, taken_from = answer[0]
        if taken_name is not None and taken_from != workflow_id:
            raise WorkflowConflictError(fork_id, taken_name, f"a fork of {workflow_id}")
        return fork_id

    await read(database, "fork_workflow", fork_id, find, str)
    return WorkflowHandle(database, fork_id)


async def _same(text: str) -> str:
    return text
