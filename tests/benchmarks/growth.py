"""Every hot statement on a database that has grown, against the same call on a small one: buffers of one call, and its median time.

The large one has a million finished messages, a million that wait elsewhere, a million steps, streams of 100,000 entries and
a workflow of 10,000 steps; the small one has of each only what the calls look at. A statement fails that reads a whole
table, or touches more than 8 buffers more than on the small one. Calls are made inside a transaction that is rolled back,
so the time is the statement's without its commit.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import asyncpg

from dbos_async._database import migrations
from dbos_async._database.connection_kinds import SETTINGS
from tests.benchmarks.workloads import PROBLEM, percentile
from tests.support.databases import with_database
from tests.support.statements import ACTS, FETCHED, Row, all_statements, step

MAX_MORE_BUFFERS = 8
CALLS = 60

GROUND = """
    insert into dbos_async.workflows (id, name, input, start_id, owner, attempt, status, output, ended_at) values
        ('w', 'f', '{}', gen_random_uuid(), 'me', 1, 'PENDING', null, null),
        ('other', 'f', '{}', gen_random_uuid(), null, 1, 'SUCCESS', '"the result"', now());
    insert into dbos_async.workflows (id, name, input, start_id, attempt, status)
        select 'unowned' || n, 'f', '{}', gen_random_uuid(), 1, 'PENDING' from generate_series(1, 5) as n;
    insert into dbos_async.messages (id, seq, destination_id, topic, payload)
        select gen_random_uuid(), nextval('dbos_async.message_seq'), 'w', '', to_json(n) from generate_series(1, 5) as n;
    insert into dbos_async.events (workflow_id, key, seq, value, step, attempt, act)
        values ('other', 'k', nextval('dbos_async.event_seq'), '1', '1', 1, 1);
"""

STEPS = """
    insert into dbos_async.steps (workflow_id, branch, number, verb, key, completed_at)
        select 'w', '', n, 'recv', '', now() from generate_series(1, $1::int) as n
"""

WAITS = """
    insert into dbos_async.steps (workflow_id, branch, number, verb, key)
        select 'w', '1', n, 'recv', '' from generate_series(1, $1::int) as n
"""

ENTRIES = """
    insert into dbos_async.stream_entries (workflow_id, key, "offset", value, step, attempt, act)
        select id, 'k', n, to_json(n), '1', 1, 0 from generate_series(0, $1::int - 1) as n, unnest(array['w', 'other']) as id
"""

CROWD = (
    """
    insert into dbos_async.workflows (id, name, input, start_id, owner, attempt, status)
        select 'f' || n, case when n % 2 = 0 then 'f' else 'g' end, '{}', gen_random_uuid(), case when n % 2 = 0 then 'they' end, 1,
               case when n % 3 = 0 then 'SUCCESS' else 'PENDING' end
        from generate_series(1, $1::int / 10) as n
    """,
    """
    insert into dbos_async.steps (workflow_id, branch, number, verb, key, completed_at)
        select 'f' || n % ($1 / 20), '', n / ($1 / 20) + 1, 'recv', '', now() from generate_series(0, $1::int - 1) as n
    """,
    """
    insert into dbos_async.messages (id, seq, destination_id, topic, payload, received_at)
        select gen_random_uuid(), nextval('dbos_async.message_seq'), case when n % 10 = 0 then 'w' else 'f' || n % ($1 / 20) end,
               '', '1', now()
        from generate_series(1, $1::int) as n
    """,
    """
    insert into dbos_async.messages (id, seq, destination_id, topic, payload)
        select gen_random_uuid(), nextval('dbos_async.message_seq'), 'f' || n % ($1 / 20), '', '1'
        from generate_series(1, $1::int) as n
    """,
    """
    insert into dbos_async.events (workflow_id, key, seq, value, step, attempt, act)
        select 'f' || n % ($1 / 20), 'k', nextval('dbos_async.event_seq'), '1', '1', 1, 0 from generate_series(1, $1::int / 10) as n
    """,
)


@dataclass(frozen=True)
class Size:
    """How much there is."""

    crowd: int
    steps: int
    entries: int


TABLES_OF_PROCESSES = ("executors",)
"""Tables with a row for each process: they do not grow with the work, and reading them whole is right."""

SMALL = Size(0, 5, 5)
LARGE = {"full": Size(1_000_000, 10_000, 100_000), "quick": Size(50_000, 2000, 10_000), "tiny": Size(1000, 50, 50)}


def rows(size: Size, call: int) -> dict[str, Row]:
    """A call of each hot statement at the end of what there is; each ``call`` acts as another step."""
    number = size.steps + call
    follow = (*step(number), "read_stream", "k of other", "other", "k", size.entries - 3, 60.0)
    return {
        **{name: act.row(step(number), "x") for name, act in ACTS.items()},
        "TAKE_WAITING": ("w", 1, "1", call, "recv", "", 60.0, False),
        "START": ("new", "f", "{}", "me", None, None, uuid4(), None, None, b"d"),
        "START_BY_ID": ("new", "f", "{}", "me", None, None, uuid4(), None, None, b"d"),
        "FOLLOW": follow,
        "FOLLOW_ANY": (*step(number), "[]", f'[[0, "other", "k", {size.entries - 3}]]', 60.0),
        "PAGE": ("w", "", size.steps - 3),
        "READ_EVENT": ("other", "k", 0),
        "ALL_EVENTS": ("other",),
        "READ": ("other", "k", size.entries - 3, 500, None),
        "REWIND": ("w", 1, "1", "k", '["x"]', call, -1, b"d"),
        "WRITTEN": ("w", "k", "1"),
        "RESULT": ("other",),
        "STATUS": ("other",),
        "FINISH": ("w", 1, "SUCCESS", "1", None, b"d"),
        "CLAIM": ("me", '["f"]', None, 1),
        "SEND_EXTERNAL": (uuid4(), "w", "x", "1", None, b"d", "me"),
        "PUT_BACK": (*step(size.steps + 10_000), "recv", "", uuid4()),
    }


async def study(url: str, amount: str) -> dict[str, float]:
    """For the command of all benchmarks. The small database is the given one, the large one stands beside it."""
    name = f"growth_{uuid4().hex[:12]}"
    small = await asyncpg.connect(url, server_settings=SETTINGS)
    try:
        await small.execute(f"create database {name}")
        large = await asyncpg.connect(with_database(url, name), server_settings=SETTINGS)
        try:
            await fill(small, SMALL)
            await fill(large, LARGE[amount])
            return await _compare(small, large, LARGE[amount])
        finally:
            await large.close()
            await small.execute(f"drop database {name} with (force)")
    finally:
        await small.close()


async def fill(connection: Any, size: Size) -> None:
    """Make it that large."""
    await migrations.migrate(connection)
    await connection.execute(GROUND)
    await connection.execute(STEPS, size.steps)
    await connection.execute(WAITS, CALLS)
    await connection.execute(ENTRIES, size.entries)
    if size.crowd:
        for insert in CROWD:
            await connection.execute(insert, size.crowd)
    await connection.execute("vacuum analyze")


async def _compare(small: Any, large: Any, size: Size) -> dict[str, float]:
    found: dict[str, float] = {}
    problems: list[str] = []
    for name in rows(size, 1):
        plans = [
            await buffers(connection, name, rows(of, 1)[name]) for connection, of in ((small, SMALL), (large, size))
        ]
        (least, _), (most, scanned) = plans
        before, after = await _medians(name, (small, SMALL), (large, size))
        found[f"{name} buffers, small"] = least
        found[f"{name} buffers, large"] = most
        found[f"{name} p50 large / small"] = after / before
        problems += [f"{name} reads the whole of {table}" for table in scanned]
        if most > least + MAX_MORE_BUFFERS:
            problems.append(f"{name} touches {most} buffers instead of {least}")
    found.update({f"{PROBLEM}{problem}": 1 for problem in problems})
    return found


async def buffers(connection: Any, name: str, row: Row) -> tuple[int, list[str]]:
    """How many buffers one call of the kept plan touches, and which tables it reads as a whole."""
    statement = all_statements()[name.split(" ", maxsplit=1)[0]]
    transaction = connection.transaction()
    await transaction.start()
    try:
        sql = (statement.sql_if_new or statement.sql).batch
        prepared = await connection.prepare(sql)
        order: list[list[Any]] = [[], []] if statement.is_ordered else []
        types = [parameter.name for parameter in prepared.get_parameters()]
        await connection.execute(f"prepare this ({', '.join(types)}) as {sql}")
        literals = [
            await connection.fetchval(f"select quote_nullable(($1::{type_name})::text)", value) + f"::{type_name}"
            for type_name, value in zip(types, [[0], *([value] for value in row), *order], strict=True)
        ]
        # The first execution reads the catalogs, too, so the second one counts; its effects are undone in between.
        execution = f"execute this ({', '.join(literals)})"
        await connection.execute("savepoint before")
        await connection.execute(execution)
        await connection.execute("rollback to before")
        # What a part does that nothing reads from is not in the sum at the root of the plan, so the tables are asked.
        before = await connection.fetchval(FETCHED)
        await connection.execute(execution)
        touched = await connection.fetchval(FETCHED) - before
        await connection.execute("rollback to before")
        plan = json.loads(await connection.fetchval(f"explain (analyze, buffers, format json) {execution}"))[0]["Plan"]
        await connection.execute("deallocate this")
    finally:
        await transaction.rollback()
    scanned = [node["Relation Name"] for node in _nodes(plan) if node["Node Type"] == "Seq Scan"]
    return touched, [table for table in scanned if table not in TABLES_OF_PROCESSES]


async def _medians(name: str, *grounds: tuple[Any, Size]) -> list[float]:
    """The median seconds of a call on each, called in turn."""
    statement = all_statements()[name.split(" ", maxsplit=1)[0]]
    prepared = [await connection.prepare((statement.sql_if_new or statement.sql).batch) for connection, _ in grounds]
    order: list[list[Any]] = [[], []] if statement.is_ordered else []
    taken: list[list[float]] = [[] for _ in grounds]
    for call in range(1, CALLS + 1):
        for (connection, size), ready, found in zip(grounds, prepared, taken, strict=True):
            transaction = connection.transaction()
            await transaction.start()
            arguments = [[0], *([value] for value in rows(size, call)[name]), *order]
            began = time.perf_counter()
            await ready.fetch(*arguments)
            found.append(time.perf_counter() - began)
            await transaction.rollback()
    return [percentile(found, 0.5) for found in taken]


def _nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", ()) for node in _nodes(child))]
