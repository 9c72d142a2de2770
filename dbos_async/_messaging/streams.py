"""Streams: what a workflow writes, value after value, for any number of readers at any time.

A stream is rows with the offsets 0, 1, 2 …, never changed. Closing it adds a row that has no value.
Writers of one workflow follow each other; where two runs of it meet, the row that both want lets one of them repeat.
"""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from dbos_async._database.calls import Call, Observer, Result
from dbos_async._database.database import Database
from dbos_async._database.statement import Statement, optimistic
from dbos_async._database.wakeups import LocalUpdate, end_key, stream_key
from dbos_async._messaging.live import MAX_VALUES, READ, live_pages
from dbos_async._runs.context import WorkflowContext, calling_context, in_workflow_or_step
from dbos_async._runs.issue import call_by, caller_columns, caller_in, issue
from dbos_async._runs.run import Run
from dbos_async._runs.step import Step
from dbos_async._runs.waiting import wait
from dbos_async._serialization.exceptions import decode_error, encode_error
from dbos_async._serialization.values import decode_value, encode_value, size_error
from dbos_async.errors import InvalidStreamValueError, InvalidValueError, StreamTimeoutError, WorkflowNotFoundError
from dbos_async.keys import Stream, check_int, check_key, check_seconds, key_and_type

WRITE = optimistic(
    "WRITE",
    """
    -- A call without a value closes the stream.
    with calls as materialized (
        select c.*, s.verb as recorded_verb, s.key as recorded_key, s.error as recorded_error,
               case when not case when c.number is null then coalesce(held.attempt = c.attempt and held.status = 'PENDING', false)
                                  else coalesce(w.attempt = c.attempt and w.status = 'PENDING', false) end then 'lost'
                    when s.verb is not null then 'recorded'
                    -- The inside of a step does not know whether it writes a second time, since the answer was lost, and too late.
                    when c.number is null and coalesce((tail.attempt, tail.act) >= (c.attempt, c.act), false) then 'superseded'
                    else 'done' end as outcome,
               coalesce(tail."offset", -1) as tail, coalesce(tail.closes, false) as was_closed
        from unnest($1::int[], $2::text[], $3::bigint[], $4::text[], $5::int[], $6::text[], $7::text[],
                    $8::text[], $9::json[], $10::int[], $11::int[], $12::bytea[])
            as c(n, workflow_id, attempt, branch, number, step, verb, key, value, act, written, digest)
        left join lateral (
            select attempt, status from dbos_async.workflows where id = c.workflow_id and c.number is not null limit 1
        ) as w on true
        -- The inside of a step has no row that could decide, so it holds on to its workflow until the commit.
        left join lateral (
            select attempt, status from dbos_async.workflows where id = c.workflow_id and c.number is null for share
        ) as held on true
        left join lateral (the recorded step) as s on true
        left join lateral (
            select "offset", closes, attempt, act from dbos_async.stream_entries
            where workflow_id = c.workflow_id and key_digest = dbos_async.digest(c.key) and "offset" >= c.written
            order by "offset" desc limit 1
        ) as tail on true
    ),
    placed as materialized (
        select *, tail + count(*) filter (where outcome = 'done') over earlier as "offset",
               was_closed or count(*) filter (where outcome = 'done' and value is null) over earlier
                             > (outcome = 'done' and value is null)::int as closed
        from calls
        window earlier as (partition by workflow_id, key order by n rows unbounded preceding)
    ),
    recorded as (
        insert into dbos_async.steps (workflow_id, branch, number, verb, key, error, completed_at)
        select workflow_id, branch, number, verb, key,
               case when closed and value is not null then json_build_object(
                   'type', 'dbos_async.errors:StreamClosedError', 'args', json_build_array(workflow_id, key)) end,
               clock_timestamp()
        from placed where outcome = 'done' and number is not null
    ),
    written as (
        insert into dbos_async.stream_entries (workflow_id, key, "offset", value, closes, step, attempt, act)
        select workflow_id, key, "offset", value, value is null, step, attempt, act
        from placed where outcome = 'done' and not closed
    ),
    announced as (
        select dbos_async.announce(string_agg(distinct digest, '')) from placed where outcome = 'done' and not closed
    )
    select n, case when outcome = 'superseded' then 'done' else outcome end as outcome, null::json as output,
           case when outcome = 'recorded' then recorded_error
                when outcome = 'done' and closed and value is not null then json_build_object(
                    'type', 'dbos_async.errors:StreamClosedError', 'args', json_build_array(workflow_id, key)) end as error,
           recorded_verb, recorded_key, case when outcome = 'done' and not closed then "offset" end as "offset"
    from placed, announced
    """,
)

FOLLOW = Statement(
    "FOLLOW",
    """
    -- The same inside a workflow: the reader's step records from where to where it read, and how that ended.
    with calls as materialized (
        select c.*, coalesce(w.attempt = c.attempt and w.status = 'PENDING', false) as holds,
               s.verb as recorded_verb, s.key as recorded_key, s.output as recorded_output, s.error as recorded_error,
               s.completed_at,
               case when s.verb is null then clock_timestamp() + make_interval(secs => c.timeout_seconds)
                    else s.deadline end as deadline,
               t.status is not null as known, coalesce(t.status in ('SUCCESS', 'ERROR', 'CANCELLED'), false) as ended,
               coalesce(p.count, 0) as count, coalesce(p.closed, false) as closed
        from unnest($1::int[], $2::text[], $3::bigint[], $4::text[], $5::int[], $6::text[],
                    $7::text[], $8::text[], $9::int[], $10::float8[])
            as c(n, workflow_id, attempt, branch, number, step_key, target_id, key, start, timeout_seconds)
        left join lateral (
            select attempt, status from dbos_async.workflows where id = c.workflow_id limit 1
        ) as w on true
        left join lateral (
            select verb, key, output, error, deadline, completed_at from dbos_async.steps
            where workflow_id = c.workflow_id and branch = c.branch and number = c.number limit 1
        ) as s on true
        left join lateral (select status from dbos_async.workflows where id = c.target_id limit 1) as t on true
        left join lateral (
            select count(*) filter (where not l.closes) as count, bool_or(l.closes) as closed
            from (
                select e.*, sum(e.bytes) over (order by e."offset") - e.bytes as bytes_before
                from (
                    select "offset", closes, coalesce(pg_column_size(value), 0)::bigint as bytes
                    from dbos_async.stream_entries
                    where workflow_id = c.target_id and key_digest = dbos_async.digest(c.key) and "offset" >= c.start
                    order by "offset" limit 500
                ) as e
            ) as l
            where l.bytes_before < 1048576
        ) as p on true
    ),
    decided as materialized (
        select *, count > 0 or closed or ended or not known or coalesce(deadline <= clock_timestamp(), false) as ripe,
               json_build_object('offset', start, 'count', count, 'end',
                   case when not known then 'unknown'
                        when closed or (ended and count = 0) then 'closed'
                        when count = 0 then 'timeout' end) as boundary
        from calls
        where holds and completed_at is null
          and (recorded_verb is null or (recorded_verb = 'read_stream' and recorded_key = step_key))
    ),
    recorded as (
        insert into dbos_async.steps (workflow_id, branch, number, verb, key, output, deadline, completed_at)
        select workflow_id, branch, number, 'read_stream', step_key, case when ripe then boundary end, deadline,
               case when ripe then clock_timestamp() end
        from decided where recorded_verb is null
        order by workflow_id, branch, number
    ),
    completed as (
        -- Always an update, since the wait has begun. Said as an insert it finds its row by the key alone.
        insert into dbos_async.steps as s (workflow_id, branch, number, verb, key, output, completed_at)
        select workflow_id, branch, number, 'read_stream', step_key, boundary, clock_timestamp()
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
           boundary as output, null::json as error,
           extract(epoch from deadline - clock_timestamp())::float8 as seconds_left,
           null::text as recorded_verb, null::text as recorded_key
    from decided
    union all
    select n, case when holds then 'recorded' else 'lost' end, recorded_output, recorded_error, null,
           recorded_verb, recorded_key
    from calls
    where not (holds and completed_at is null
               and (recorded_verb is null or (recorded_verb = 'read_stream' and recorded_key = step_key)))
    """,
)


class _Boundary(TypedDict):
    """What a step records of the reading of a stream; ``error`` is that of a value that could not be read."""

    offset: Annotated[int, Field(ge=0, lt=2**31)]
    count: Annotated[int, Field(ge=0, le=MAX_VALUES)]
    end: Literal["unknown", "closed", "timeout", "invalid"] | None
    error: NotRequired[Any]


async def write_stream(database: Database, key: str | Stream[Any], value: Any) -> None:
    """Append one value."""
    name, declared = key_and_type(key, "The key of a stream")
    in_workflow_or_step(calling_context(database), "write_stream")
    await _write(database, "write_stream", name, encode_value(value, declared, what=f"The value for stream {name!r}"))


async def close_stream(database: Database, key: str | Stream[Any]) -> None:
    """Let nothing more be written."""
    name, _ = key_and_type(key, "The key of a stream")
    await _write(database, "close_stream", name, None)


async def read_stream(
    database: Database, workflow_id: str, key: str | Stream[Any], offset: int, timeout_seconds: float | None
) -> AsyncGenerator[Any, None]:
    """Yield the values from ``offset`` on, in order, until the stream has ended."""
    check_key(workflow_id, "workflow_id")
    name, declared = key_and_type(key, "The key of a stream")
    check_int(offset, 0, "offset")
    seconds = check_seconds(timeout_seconds)
    context = calling_context(database)
    pages = (
        _recorded_pages(database, workflow_id, name, declared, offset, seconds)
        if isinstance(context, WorkflowContext)
        else _live_pages(database, workflow_id, name, declared, offset, seconds, retry_forever=context is not None)
    )
    async with aclosing(pages):
        async for page in pages:
            for value in page:
                yield value


async def _live_pages(
    database: Database,
    workflow_id: str,
    key: str,
    declared: Any,
    offset: int,
    seconds: float | None,
    *,
    retry_forever: bool,
) -> AsyncGenerator[list[Any], None]:
    async with aclosing(live_pages(database, workflow_id, key, offset, seconds, retry_forever=retry_forever)) as pages:
        async for page in pages:
            found, invalid = _read(page.entries, key, declared)
            yield found
            if invalid is not None:
                raise invalid


async def _recorded_pages(
    database: Database, workflow_id: str, key: str, declared: Any, offset: int, seconds: float | None
) -> AsyncGenerator[list[Any], None]:
    step_key = f"{key} of {workflow_id}"
    keys = stream_key(workflow_id, key), end_key(workflow_id)
    while True:
        context = calling_context(database)
        assert isinstance(context, WorkflowContext)
        step = Step(context, "read_stream", step_key)
        row = (*step.columns, step_key, workflow_id, key, offset, seconds)
        text = (await wait(step, FOLLOW, row, keys)).value()
        try:
            boundary = decode_value(text or "null", _Boundary)
        except InvalidValueError as unreadable:
            await step.park_undecodable(unreadable)
        end, stop = boundary["end"], boundary["offset"] + boundary["count"]
        offset = boundary["offset"]
        while offset < stop:
            page = await database.call(
                READ, [(workflow_id, key, offset, stop - offset)], partition=workflow_id, retry_forever=True
            )
            if page[-1]["offset"] is None:
                raise WorkflowNotFoundError(workflow_id)
            entries = [(record["offset"], record["value"]) for record in page]
            page_values, invalid = _read(entries, key, declared)
            if invalid is not None:
                count = invalid.offset - boundary["offset"]
                reason = json.loads(encode_error(invalid))
                shorter = boundary | {"count": count, "end": "invalid", "error": reason}
                await step.record_rejection(encode_value(shorter), invalid)
            yield page_values
            if invalid is not None:
                raise invalid
            offset = page[-1]["offset"] + 1
        if end == "closed":
            return
        if end == "invalid":
            raise decode_error(encode_value(boundary["error"]))
        if end == "unknown":
            raise WorkflowNotFoundError(workflow_id)
        if end == "timeout":
            raise StreamTimeoutError(workflow_id, key, offset, seconds or 0.0)


def _read(entries: list[tuple[int, str]], key: str, declared: Any) -> tuple[list[Any], InvalidStreamValueError | None]:
    """The values of a page, up to the first that cannot be read, and what is wrong with that."""
    found: list[Any] = []
    for offset, text in entries:
        error = functools.partial(InvalidStreamValueError, offset=offset)
        try:
            found.append(decode_value(text, declared, what=f"Value {offset} of stream {key!r}", error=error))
        except InvalidStreamValueError as invalid:
            return found, invalid
    return found, None


async def _write(database: Database, verb: str, key: str, value: str | None) -> None:
    context = in_workflow_or_step(calling_context(database), verb)
    run = context.run
    caller = caller_in(context, verb, key)
    digest = stream_key(run.workflow_id, key)
    stream_end = -1 if run.writes is None else run.writes.stream_ends.get(key, -1)
    row = (*caller_columns(caller), caller.path, verb, key, value, run.next_write_seq(), stream_end, digest)
    size = len(value or "")
    invalid = size_error(value or "", database.max_payload_bytes, f"The value for stream {key!r}")
    call = call_by(
        caller,
        WRITE,
        [row],
        about=run.workflow_id,
        size=size,
        wakes=[digest],
        observer=_Written(run, key, value, size),
    )
    (await issue(database, caller, call, verb=verb, invalid=invalid)).value()


class _Written(Observer):
    """Remembers where a value stands, for the next write, and tells the readers of this process."""

    __slots__ = ("_key", "_run", "_size", "_value")

    def __init__(self, run: Run, key: str, value: str | None, size: int) -> None:
        self._run, self._key, self._value, self._size = run, key, value, size

    def local_update(self, result: Result) -> LocalUpdate | None:
        offset = result[0]["offset"]
        return None if offset is None else LocalUpdate((offset, self._value), self._size)

    def on_result(self, call: Call, result: Result) -> None:
        offset = result[0]["offset"]
        if offset is not None and self._run.writes is not None:
            self._run.writes.reached(self._key, offset)
