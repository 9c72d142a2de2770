"""Workflows with everything that can belong to one, made by SQL: any number, of any age."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

import asyncpg

from dbos_async._serialization.values import encode_value

TABLES = {
    "workflows": "id",
    "steps": "workflow_id",
    "messages": "destination_id",
    "delayed_messages": "destination_id",
    "events": "workflow_id",
    "stream_entries": "workflow_id",
}
"""Every table that has rows of a workflow, with the column that says of which."""

Rows = dict[tuple[str, str], list[str]]
"""What stands in the tables: by table and workflow."""


@dataclass(frozen=True)
class Life:
    """One workflow, and how much belongs to it. Ages are in seconds; one without ``ended_ago`` has not ended."""

    id: str
    name: str = "f"
    status: str = "SUCCESS"
    ended_ago: float | None = 1000.0
    lasted: float = 1.0
    parent_id: str | None = None
    steps: int = 3
    received: int = 1
    waiting: int = 1
    rejected: int = 0
    delayed: int = 1
    events: int = 1
    stream: int = 2


MAKE = """
with lives as materialized (
    select l.*, clock_timestamp() - make_interval(secs => coalesce(l.ended_ago, 0) + l.lasted) as made_at,
           clock_timestamp() - make_interval(secs => l.ended_ago) as over_at
    from json_to_recordset($1) as l (
        id text, name text, status text, ended_ago float8, lasted float8, parent_id text, steps int, received int, waiting int,
        rejected int, delayed int, events int, stream int)
),
made as (
    insert into dbos_async.workflows (id, name, status, input, output, attempt, start_id, parent_id, created_at, ended_at)
    select id, name, status, '{}', '1', 1, gen_random_uuid(), parent_id, made_at, over_at from lives
),
taken as materialized (
    select l.id as workflow_id, n, n > l.received as is_rejected, md5(l.id || ' received ' || n)::uuid as message_id
    from lives as l cross join lateral generate_series(1, l.received + l.rejected) as n
),
stepped as (
    insert into dbos_async.steps (workflow_id, branch, number, verb, key, output, message_id, completed_at)
    select id, '', 100 + n, 'step', 'f', '1'::json, null::uuid, now() from lives cross join lateral generate_series(1, steps) as n
    union all
    select workflow_id, '', n, 'recv', '', '1'::json, message_id, now() from taken
),
sent as (
    insert into dbos_async.messages (id, seq, destination_id, topic, payload, sender_id, received_at, rejected, idempotency_key)
    select message_id, nextval('dbos_async.message_seq'), workflow_id, '', '1'::json, 'somebody', now(),
           case when is_rejected then '{}'::json end, 'key ' || n from taken
    union all
    select gen_random_uuid(), nextval('dbos_async.message_seq'), id, 't', '1'::json, null, null, null, null
    from lives cross join lateral generate_series(1, waiting) as n
),
delayed as (
    insert into dbos_async.delayed_messages (id, seq, destination_id, due_at, topic, payload, digest)
    select gen_random_uuid(), nextval('dbos_async.delayed_seq'), id, clock_timestamp() + interval '1 day', '', '1', '\\x00'
    from lives cross join lateral generate_series(1, delayed) as n
),
said as (
    insert into dbos_async.events (workflow_id, key, seq, value, step, attempt, act)
    select id, 'k', nextval('dbos_async.event_seq'), '1', '1', 1, n from lives cross join lateral generate_series(1, events) as n
)
insert into dbos_async.stream_entries (workflow_id, key, "offset", value, step, attempt, act)
select id, 's', n - 1, '1', '1', 1, n from lives cross join lateral generate_series(1, stream) as n
"""


async def make(connection: asyncpg.Connection[asyncpg.Record], *lives: Life) -> None:
    """Make these workflows."""
    await connection.execute(MAKE, encode_value([asdict(each) for each in lives]))


async def all_rows(connection: asyncpg.Connection[asyncpg.Record], *, but: str = "") -> Rows:
    """Everything that stands in the tables, but for workflows whose ids are like ``but``."""
    found: Rows = {}
    for table, column in TABLES.items():
        query = (
            f"select {column} as of, t::text as text from dbos_async.{table} as t where {column} not like $1 order by 2"
        )
        for row in await connection.fetch(query, but):
            found.setdefault((table, row["of"]), []).append(row["text"])
    return found


def without(rows: Rows, *ids: str) -> Rows:
    """The rows of all workflows but these."""
    return {key: value for key, value in rows.items() if key[1] not in ids}


async def ids(connection: asyncpg.Connection[asyncpg.Record]) -> list[str]:
    """The ids of all workflows that are there."""
    return [row[0] for row in await connection.fetch("select id from dbos_async.workflows order by id")]


IRREMOVABLE = """
create function public.refuse() returns trigger language plpgsql as $$
begin
    raise exception 'refused for a while' using errcode = '{code}';
end $$;
create trigger irremovable before delete on dbos_async.workflows
    for each row when (old.id = '{id}') execute function public.refuse();
"""


@asynccontextmanager
async def irremovable(
    connection: asyncpg.Connection[asyncpg.Record], workflow_id: str, code: str = "42501"
) -> AsyncIterator[None]:
    """The database refuses to remove this workflow inside the block, with this SQLSTATE."""
    await connection.execute(IRREMOVABLE.format(id=workflow_id, code=code))
    yield
    await connection.execute("drop function public.refuse cascade")
