"""Several executor processes on one database: promises W2, W3, W5, W7 and D4 when one is killed, frozen or cut off."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from dbos_async import DBOSClient
from tests.benchmarks.backlog import ENDED, SHARES, start
from tests.benchmarks.takeover import ENDED_WELL, take_over
from tests.support import listening
from tests.support.eventually import eventually
from tests.support.postgres import Server
from tests.support.processes import Program, running
from tests.support.programs.executor import KINDS, ids, let_end

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and sockets are others there")

TABLES = ("workflows", "steps", "messages", "events", "stream_entries")

OWNERS = "select id, owner, attempt, recoveries, claimed_at from dbos_async.workflows order by id"

STEPS = "select count(*) from dbos_async.steps where verb = 'step' and completed_at > $1"

BACKENDS = """
    select pid from pg_stat_activity
    where application_name = 'dbos_async' and datname = current_database() and backend_start < $1
"""


async def test_w2_a_killed_executor_s_workflows_are_taken_over_within_seconds(database_url: str) -> None:
    # Behind a pooler or with listen=False nobody sees that its connection is gone: the lease has to run.
    assert await take_over(database_url, 30) < (25 if listening.is_off() else 10)


@asynccontextmanager
async def two_executors(url: str, count: int, ledger: Path) -> AsyncIterator[None]:
    """Two processes that have so many workflows each."""
    async with (
        running("executor", url, "one", count, "--ledger", ledger) as one,
        running("executor", url, "two", count, "--ledger", ledger) as two,
    ):
        await asyncio.gather(one.says("ready"), two.says("ready"))
        yield
        await asyncio.gather(one.end(), two.end())


async def query(url: str, text: str, *arguments: object) -> list[Any]:
    """Ask on a connection of its own, which no fault hits."""
    connection = await asyncpg.connect(url, server_settings={"application_name": "test"})
    try:
        return await connection.fetch(text, *arguments)
    finally:
        await connection.close()


async def value(url: str, text: str, *arguments: object) -> Any:
    return (await query(url, text, *arguments))[0][0]


async def all_go_on(url: str, count: int) -> None:
    """Wait until so many more steps have been recorded than there are now."""
    now = await value(url, "select clock_timestamp()")

    async def more() -> bool:
        return bool(await value(url, STEPS, now) >= count)

    await eventually(more, "steps go on")


async def test_w2_d4_no_workflow_changes_hands_when_the_server_restarts_or_drops_connections(
    own_server: Server, own_url: str, tmp_path: Path
) -> None:
    """No step runs twice, either."""
    ledger = tmp_path / "ledger"
    all_ids = ids("one", 100) + ids("two", 100)
    url = own_url
    async with two_executors(url, 100, ledger):
        await all_go_on(url, 70)
        before = await query(url, OWNERS)
        assert Counter(row["owner"].split(":")[0] for row in before) == {"one": 100, "two": 100}
        for how in ("fast", "immediate"):
            await own_server.restart(how)
            # Longer than the two seconds after which a lost connection counts: each of 66 workflows does 15 steps.
            await all_go_on(url, 66 * 15)
            assert await query(url, OWNERS) == before
        for (pid,) in await query(url, BACKENDS, await value(url, "select clock_timestamp()")):
            assert await value(url, "select pg_terminate_backend($1)", pid)
            await all_go_on(url, 10)
        await all_go_on(url, 66 * 15)
        assert await query(url, OWNERS) == before
        async with DBOSClient(url) as client:
            await let_end(client, all_ids)
        assert await value(url, ENDED_WELL, all_ids, 1)
        lines = ledger.read_text().splitlines()
        assert len(lines) == await value(url, "select count(*) from dbos_async.steps where verb = 'step'")
        assert len(lines) == len(set(lines)) > 66 * 45, "no step ran twice"


async def content(connection: Any) -> dict[str, list[Any]]:
    """Everything that is stored of workflows."""
    return {table: sorted(map(repr, await connection.fetch(f"select * from dbos_async.{table}"))) for table in TABLES}


async def test_w3_an_executor_that_was_frozen_changes_nothing_and_serves_again(
    database_url: str, connection: Any
) -> None:
    kinds = (*KINDS, "writing")
    frozen_ids = ids("frozen", 24, kinds)
    async with (
        running("executor", database_url, "frozen", 24, "--kinds", *kinds) as frozen,
        running("executor", database_url, "other", 0) as other,
        DBOSClient(database_url) as client,
    ):
        await asyncio.gather(frozen.says("ready"), other.says("ready"))
        await eventually(lambda: connection.fetchval("select count(*) > 50 from dbos_async.stream_entries"))
        frozen.process.send_signal(signal.SIGSTOP)
        # Its lease runs out. That counts once the server has been seen for a whole lease.
        await connection.execute("update dbos_async.servers set seen_at = seen_at - interval '1 minute'")
        await connection.execute("update dbos_async.executors set lease_until = now() where executor_id = 'frozen'")
        results = await let_end(client, frozen_ids)
        assert [(kind, end) for kind, _, end in results] == [(name.split()[1], "the end") for name in frozen_ids]
        assert await connection.fetchval(ENDED_WELL, frozen_ids, 2)
        for topic in ("go", "end"):
            for workflow_id in frozen_ids:
                await client.send(workflow_id, "a message that it could still take", topic)
        before = await content(connection)
        assert all(before.values()), "there is something in every table"

        frozen.process.send_signal(signal.SIGCONT)
        await eventually(lambda: _has_stopped(frozen, frozen_ids), "it says why it stops each run")
        await eventually(lambda: "silent for so long that its lease expired" in frozen.errors)
        handle = await client.start_workflow("work of frozen", 6)
        assert await handle.get_result() == 7
        assert (await handle.get_status()).status == "SUCCESS"
        after = await content(connection)
        new = {row for table in TABLES for row in after[table] if row not in before[table]}
        assert len(new) == 2, "one workflow and its step"
        assert all(handle.workflow_id in row for row in new)
        assert {table: [row for row in after[table] if row not in new] for table in TABLES} == before
        # It ends in good order, too: what it had lost is not given back once more.
        assert await frozen.end() == 128 + signal.SIGTERM
        assert await connection.fetchval("select count(*) from dbos_async.executors") == 1
        assert await content(connection) == after


def _has_stopped(program: Program, workflow_ids: list[str]) -> bool:
    errors = program.errors
    return all(f"A run of workflow {workflow_id!r} stops: " in errors for workflow_id in workflow_ids)


async def test_w7_two_executors_share_what_a_client_started_and_keep_to_max_running(
    database_url: str, connection: Any
) -> None:
    async with running("backlog", database_url, "a", 100) as a, running("backlog", database_url, "b", 100) as b:
        await asyncio.gather(a.says("ready"), b.says("ready"))
        await start(database_url, 5000)
        await eventually(lambda: _all_ended(connection, 5000), give_up_after_seconds=60)
        shares = {row["executor"]: row["count"] for row in await connection.fetch(SHARES)}
        assert set(shares) == {"a", "b"}
        assert min(shares.values()) >= 1000, shares
        assert max(row["most"] for row in await connection.fetch(SHARES)) <= 100


async def _all_ended(connection: Any, count: int) -> bool:
    return bool(await connection.fetchval(ENDED) == count)
