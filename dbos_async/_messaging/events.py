"""Events: what a workflow has to say of itself, by key; the latest value counts, and can always be read.

Every value is a row of its own and the latest row is the value. A step's row decides whether a value is stored at all,
so the rows stand in the order in which the workflow said them.
"""

from __future__ import annotations

from typing import Any

from dbos_async._database.database import Database
from dbos_async._database.statement import Statement, optimistic
from dbos_async._database.wakeups import end_key, event_key, now
from dbos_async._runs.context import WorkflowContext, calling_context, in_workflow_or_step
from dbos_async._runs.issue import call_by, caller_columns, caller_in, issue
from dbos_async._runs.step import Step, read
from dbos_async._runs.waiting import wait
from dbos_async._serialization.values import decode_value, encode_value, size_error
from dbos_async.keys import Event, check_key, check_seconds, key_and_type

SET_EVENT = optimistic(
    "SET_EVENT",
    """
    with calls as materialized (
        select c.*, s.verb as recorded_verb, s.key as recorded_key,
               case when not case when c.number is null then coalesce(held.attempt = c.attempt and held.status = 'PENDING', false)
                                  else coalesce(w.attempt = c.attempt and w.status = 'PENDING', false) end then 'lost'
                    when s.verb is not null then 'recorded'
                    when coalesce((latest.attempt, latest.act) >= (c.attempt, c.act), false) then 'superseded'
                    else 'done' end as outcome
        from unnest($1::int[], $2::text[], $3::bigint[], $4::text[], $5::int[], $6::text[],
                    $7::text[], $8::json[], $9::int[], $10::bytea[])
            as c(n, workflow_id, attempt, branch, number, step, key, value, act, digest)
        left join lateral (
            select attempt, status from dbos_async.workflows where id = c.workflow_id and c.number is not null limit 1
        ) as w on true
        -- The inside of a step has no row that could decide, so it holds on to its workflow until the commit.
        left join lateral (
            select attempt, status from dbos_async.workflows where id = c.workflow_id and c.number is null for share
        ) as held on true
        left join lateral (the recorded step) as s on true
        -- Nor does it know whether this is said a second time, and too late, because the first answer was lost.
        left join lateral (
            select attempt, act from dbos_async.events
            where workflow_id = c.workflow_id and key_digest = dbos_async.digest(c.key) and c.number is null
            order by seq desc limit 1
        ) as latest on true
    ),
    recorded as (
        insert into dbos_async.steps (workflow_id, branch, number, verb, key, completed_at)
        select workflow_id, branch, number, 'set_event', key, clock_timestamp()
        from calls where outcome = 'done' and number is not null
        order by workflow_id, branch, number
    ),
    put as (
        insert into dbos_async.events (workflow_id, key, seq, value, step, attempt, act)
        select workflow_id, key, nextval('dbos_async.event_seq'), value, step, attempt, act
        from (select * from calls where outcome = 'done' order by n) as said
    ),
    announced as (select dbos_async.announce(string_agg(distinct digest, '')) from calls where outcome = 'done')
    select n, case when outcome = 'superseded' then 'done' else outcome end as outcome, null::json as output, null::json as error,
           recorded_verb, recorded_key
    from calls, announced
    """,
)

READ_EVENT = Statement(
    "READ_EVENT",
    """
    select c.n, e.value, coalesce(w.status in ('SUCCESS', 'ERROR', 'CANCELLED'), false) as ended
    from unnest($1::int[], $2::text[], $3::text[]) as c(n, workflow_id, key)
    left join lateral (
        select value from dbos_async.events
        where workflow_id = c.workflow_id and key_digest = dbos_async.digest(c.key) order by seq desc limit 1
    ) as e on true
    left join lateral (select status from dbos_async.workflows where id = c.workflow_id limit 1) as w on true
    """,
)

AWAIT_EVENT = Statement(
    "AWAIT_EVENT",
    """
    -- The same inside a workflow: what was read is the outcome of the reader's step.
    with calls as materialized (
        select c.*, coalesce(w.attempt = c.attempt and w.status = 'PENDING', false) as holds,
               s.verb as recorded_verb, s.key as recorded_key, s.output as recorded_output, s.error as recorded_error,
               s.completed_at,
               case when s.verb is null then clock_timestamp() + make_interval(secs => c.timeout_seconds)
                    else s.deadline end as deadline,
               e.value, coalesce(t.status in ('SUCCESS', 'ERROR', 'CANCELLED'), false) as ended
        from unnest($1::int[], $2::text[], $3::bigint[], $4::text[], $5::int[], $6::text[],
                    $7::text[], $8::text[], $9::float8[])
            as c(n, workflow_id, attempt, branch, number, step_key, target_id, key, timeout_seconds)
        left join lateral (
            select attempt, status from dbos_async.workflows where id = c.workflow_id limit 1
        ) as w on true
        left join lateral (
            select verb, key, output, error, deadline, completed_at from dbos_async.steps
            where workflow_id = c.workflow_id and branch = c.branch and number = c.number limit 1
        ) as s on true
        left join lateral (
            select value from dbos_async.events
            where workflow_id = c.target_id and key_digest = dbos_async.digest(c.key) order by seq desc limit 1
        ) as e on true
        left join lateral (select status from dbos_async.workflows where id = c.target_id limit 1) as t on true
    ),
    decided as materialized (
        select *, value is not null or ended or coalesce(deadline <= clock_timestamp(), false) as ripe
        from calls
        where holds and completed_at is null
          and (recorded_verb is null or (recorded_verb = 'get_event' and recorded_key = step_key))
    ),
    recorded as (
        insert into dbos_async.steps (workflow_id, branch, number, verb, key, output, deadline, completed_at)
        select workflow_id, branch, number, 'get_event', step_key, value, deadline,
               case when ripe then clock_timestamp() end
        from decided where recorded_verb is null
        order by workflow_id, branch, number
    ),
    completed as (
        -- Always an update, since the wait has begun. Said as an insert it finds its row by the key alone.
        insert into dbos_async.steps as s (workflow_id, branch, number, verb, key, output, completed_at)
        select workflow_id, branch, number, 'get_event', step_key, value, clock_timestamp()
        from decided where ripe and recorded_verb is not null
        order by workflow_id, branch, number
        on conflict (workflow_id, branch, number) do update
            set output = excluded.output, completed_at = excluded.completed_at
            where s.completed_at is null and s.verb = excluded.verb and s.key = excluded.key
        returning workflow_id, branch, number
    )
    select n,
           case when not ripe then 'wait'
                when recorded_verb is null
                     or (workflow_id, branch, number) in (select workflow_id, branch, number from completed) then 'done'
                else 'again' end as outcome,
           value as output, null::json as error,
           extract(epoch from deadline - clock_timestamp())::float8 as seconds_left,
           null::text as recorded_verb, null::text as recorded_key
    from decided
    union all
    select n, case when holds then 'recorded' else 'lost' end, recorded_output, recorded_error, null,
           recorded_verb, recorded_key
    from calls
    where not (holds and completed_at is null
               and (recorded_verb is null or (recorded_verb = 'get_event' and recorded_key = step_key)))
    """,
)

ALL_EVENTS = Statement(
    "ALL_EVENTS",
    """
    select c.n, e.key, e.value
    from unnest($1::int[], $2::text[]) as c(n, workflow_id)
    cross join lateral (
        select distinct on (key_digest) key, value from dbos_async.events
        where workflow_id = c.workflow_id order by key_digest, seq desc
    ) as e
    """,
)


async def set_event(database: Database, key: str | Event[Any], value: Any) -> None:
    """Let the workflow say ``value`` under ``key``."""
    name, declared = key_and_type(key, "The key of an event")
    context = in_workflow_or_step(calling_context(database), "set_event")
    text = encode_value(value, declared, what=f"The value of event {name!r}")
    invalid = size_error(text, database.max_payload_bytes, f"The value of event {name!r}")
    run = context.run
    caller = caller_in(context, "set_event", name)
    digest = event_key(run.workflow_id, name)
    row = (*caller_columns(caller), caller.path, name, text, run.next_write_seq(), digest)
    call = call_by(caller, SET_EVENT, [row], about=run.workflow_id, size=len(text), wakes=[digest])
    (await issue(database, caller, call, verb="set_event", invalid=invalid)).value()


async def get_event(database: Database, workflow_id: str, key: str | Event[Any], timeout_seconds: float | None) -> Any:
    """The latest value; waits for a first one. ``None`` in time-out, or when the workflow ended without one."""
    check_key(workflow_id, "workflow_id")
    name, declared = key_and_type(key, "The key of an event")
    seconds = check_seconds(timeout_seconds)
    context = calling_context(database)
    what = _what(name, workflow_id)
    if isinstance(context, WorkflowContext):
        step_key = f"{name} of {workflow_id}"
        step = Step(context, "get_event", step_key)
        row = (*step.columns, step_key, workflow_id, name, seconds)
        keys = event_key(workflow_id, name), end_key(workflow_id)
        result = await wait(step, AWAIT_EVENT, row, keys)
        return await step.decode_or_reject(result, lambda text: decode_value(text, declared, what=what))
    text = await _read(database, workflow_id, name, seconds, retry_forever=context is not None)
    return decode_value(text, declared, what=what)


async def get_all_events(database: Database, workflow_id: str) -> dict[str, Any]:
    """The latest value of every event that the workflow has set so far."""
    check_key(workflow_id, "workflow_id")

    async def find() -> dict[str, Any]:
        rows = await database.call(ALL_EVENTS, [(workflow_id,)], partition=workflow_id)
        return {key: decode_value(value, what=_what(key, workflow_id)) for _, key, value in rows}

    events: dict[str, Any] = await read(database, "get_all_events", workflow_id, find)
    return events


async def _read(
    database: Database, workflow_id: str, key: str, seconds: float | None, *, retry_forever: bool
) -> str | None:
    deadline = float("inf") if seconds is None else now() + seconds
    with database.changes(event_key(workflow_id, key), end_key(workflow_id)) as changes:
        async for subscription in changes:
            answer = await database.call(
                READ_EVENT, [(workflow_id, key)], partition=workflow_id, retry_forever=retry_forever
            )
            _, value, ended = answer[0]
            left = deadline - now()
            if value is not None or ended or left <= 0:
                return str(value) if value is not None else None
            subscription.poll_within(left)
    raise AssertionError("A waiting loop ends only by returning.")


def _what(key: str, workflow_id: str) -> str:
    return f"The value of event {key!r} of workflow {workflow_id!r}"
