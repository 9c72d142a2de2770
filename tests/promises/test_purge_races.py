"""Purging while others write to the same workflows, resume them, fork, trim or delete them."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest

from dbos_async import (
    DBOS,
    DatabaseUnavailableError,
    DBOSClient,
    DBOSError,
    InvalidValueError,
    PurgeResult,
    SetWorkflowID,
)
from dbos_async._lifecycle import periodic
from dbos_async._messaging import send, trim
from dbos_async._operations import purge
from dbos_async._workflows import control, delete, fork
from tests.support.eventually import eventually
from tests.support.populations import TABLES, Life, Rows, all_rows, ids, irremovable, make, without
from tests.support.processes import running
from tests.support.proxy import Proxy
from tests.support.races import blocked
from tests.support.statements import ACTS, Row, execute, step
from tests.support.troubles import holding, lock_row

OLD = ("old", 1, b"d")
"""The row of PURGE for the workflow that the races are about."""


def send_row() -> Row:
    row = list(ACTS["SEND"].row(step(None), "x"))
    row[:4] = [None] * 4
    row[7] = "old"
    return tuple(row)


RIVALS: dict[str, tuple[Any, Callable[[], Row], str]] = {
    "send": (send.SEND, send_row, "removed"),
    "resume": (control.RESUME, lambda: ("old", None, b"u"), "gone"),
    "fork": (fork.FORK, lambda: ("old", "copy", "1", None, None, None, b"u"), "removed"),
    "trim": (trim.TRIM, lambda: (None, 0, "", None, "s of old", "old", "s", 1, 10), "removed"),
    "delete": (delete.DELETE, lambda: ("old", 1, b"d"), "gone"),
    "cancel": (control.CANCEL, lambda: ("old", None, b"d"), "removed"),
    "purge": (purge.PURGE, lambda: OLD, "gone"),
}
"""What others do to it, and what becomes of it when it is purged after that."""


@pytest.fixture
async def lives(one: Any) -> Rows:
    """What stands in the tables; one workflow is old, another one is not."""
    await make(one, Life("old", status="CANCELLED"), Life("young", ended_ago=1))
    return await all_rows(one)


async def purged(connection: Any) -> str:
    ((_, workflow_id, outcome),) = await execute(connection, purge.PURGE, OLD)
    assert workflow_id == "old"
    return str(outcome)


@pytest.mark.parametrize("rival", RIVALS)
async def test_t3_whoever_has_the_workflow_goes_first_and_is_not_waited_for(
    rival: str, lives: Rows, one: Any, two: Any, three: Any
) -> None:
    statement, row, then = RIVALS[rival]
    await one.execute("begin")
    await execute(one, statement, row())
    async with asyncio.timeout(5):
        assert await purged(two) == "held"
    assert await all_rows(three) == lives
    await one.execute("commit")
    after = await all_rows(three)
    assert await purged(two) == then
    assert await all_rows(three) == (without(after, "old") if then == "removed" else after)


@pytest.mark.parametrize("rival", RIVALS)
async def test_t3_whoever_comes_later_finds_nothing(rival: str, lives: Rows, one: Any, two: Any, three: Any) -> None:
    statement, row, _ = RIVALS[rival]
    await one.execute("begin")
    assert await purged(one) == "removed"
    task = asyncio.create_task(execute(two, statement, row()))
    if rival == "purge":
        assert [record["outcome"] for record in await task] == ["held"]
    else:
        await blocked(two, task, three)
    await one.execute("commit")
    found = await task
    if rival == "send":
        assert "WorkflowNotFoundError" in found[0]["error"]
    elif rival == "trim":
        assert "WorkflowNotFoundError" in (found[0]["error"] or "")
    elif rival != "purge":
        assert found == []
    assert await all_rows(three) == without(lives, "old")


@pytest.mark.parametrize("rival", RIVALS)
async def test_t3_a_purge_that_is_rolled_back_has_removed_nothing(
    rival: str, lives: Rows, one: Any, two: Any, three: Any
) -> None:
    statement, row, _ = RIVALS[rival]
    await one.execute("begin")
    assert await purged(one) == "removed"
    task = asyncio.create_task(execute(two, statement, row()))
    if rival != "purge":
        await blocked(two, task, three)
    else:
        await task
    await one.execute("rollback")
    await task
    if rival == "purge":
        assert await all_rows(three) == lives


async def test_t3_a_message_that_becomes_due_is_removed_wherever_it_is(
    lives: Rows, one: Any, two: Any, three: Any
) -> None:
    await three.execute("update dbos_async.delayed_messages set due_at = now() where destination_id = 'old'")
    await one.execute("begin")
    assert await execute(one, periodic.MOVE_DUE, ("old", 10))
    task = asyncio.create_task(purged(two))
    await blocked(two, task, three)
    await one.execute("commit")
    assert await task == "removed"
    assert await all_rows(three) == without(lives, "old")


@pytest.mark.parametrize("writes", ["SEND", "RECORD", "SET_EVENT", "WRITE", "SEND_LATER"])
async def test_t3_who_believes_that_the_workflow_goes_on_is_waited_for(
    writes: str, one: Any, two: Any, three: Any, database_url: str
) -> None:
    act = ACTS[writes]
    row = list(act.row(step(1), "late"))
    if "SEND" in writes:
        row[:4], row[7] = [None] * 4, "w"
    await one.execute("begin")
    await execute(one, act.statement, tuple(row))  # it has seen the workflow alive
    await two.execute("update dbos_async.workflows set status = 'SUCCESS', ended_at = clock_timestamp() where id = 'w'")
    before = await all_rows(three)
    async with DBOSClient(database_url) as client:
        task = asyncio.create_task(client.purge(0))
        await eventually(lambda: three.fetchval(LOOKED))
        assert await all_rows(three) == before
        assert not task.done()
        await one.execute("commit")
        assert await task == PurgeResult(count=2)
    assert await all_rows(three) == without(before, "w", "other")


LOOKED = "select count(*) from pg_stat_activity where query like '%from pg_locks%' and pid <> pg_backend_pid()"


async def test_t3_a_transaction_that_stays_open_keeps_only_what_may_have_ended_after_it_began(
    one: Any, two: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "WRITERS_WITHIN_SECONDS", 0.1)
    monkeypatch.setattr(purge, "MAX_WALKED", 2)
    await make(two, Life("long ago", ended_ago=3700), Life("lately", ended_ago=3500), Life("just now", ended_ago=1))
    await one.execute("begin")
    await execute(one, send.SEND, (*send_row()[:7], "w", *send_row()[8:]))
    async with DBOSClient(database_url) as client:
        result = await client.purge(0)
        assert (result.count, result.left) == (1, 3)
        assert result.reason is not None
        assert f"of server process {one.get_server_pid()} is open since 2" in result.reason
        assert await ids(two) == ["just now", "lately", "other", "w"]
        await one.execute("rollback")
        assert await client.purge(0) == PurgeResult(count=3)


@pytest.fixture
async def own_url(database_url: str, connection: Any) -> AsyncIterator[str]:
    """The database, for a role that may do what clients do, and may not see what other roles do."""
    role = f"app_{uuid4().hex[:12]}"
    await connection.execute(
        f"create role {role} login; grant usage on schema dbos_async to {role}; "
        f"grant all on all tables in schema dbos_async to {role}; grant all on all sequences in schema dbos_async to {role}"
    )
    parts = urlsplit(database_url)
    yield urlunsplit(("postgresql", f"{role}@{parts.netloc.rpartition('@')[2]}", parts.path, parts.query, ""))
    await connection.execute(f"drop owned by {role}; drop role {role}")


@pytest.mark.direct("the pooler of the tests connects as one role")
async def test_t3_a_transaction_that_this_role_may_not_look_at_keeps_everything_until_it_is_over(
    one: Any, two: Any, own_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "WRITERS_WITHIN_SECONDS", 0.1)
    await make(two, Life("long ago", ended_ago=10_000))
    await one.execute("begin")
    await execute(one, send.SEND, (*send_row()[:7], "w", *send_row()[8:]))
    async with DBOSClient(own_url) as client:
        result = await client.purge(0)
        assert (result.count, result.left) == (0, 2)
        assert result.reason is not None
        assert f"of server process {one.get_server_pid()} is open and may" in result.reason
        assert "a role of pg_read_all_stats would see since when" in result.reason
        await one.execute("rollback")
        assert await client.purge(0) == PurgeResult(count=2)


async def test_t3_what_is_held_is_counted_as_left(one: Any, two: Any, database_url: str) -> None:
    await make(two, Life("held"), Life("free"))
    async with (
        DBOSClient(database_url) as client,
        holding(database_url, "select from dbos_async.workflows where id = 'held' for share"),
    ):
        result = await client.purge(0, name="f")
        assert result == PurgeResult(count=2, left=1, reason="other transactions held their rows at that moment")
    assert await ids(two) == ["held", "w"]


async def test_t3_a_limit_counts_what_is_removed(connection: Any, database_url: str) -> None:
    """Others of the same page take the place of one that is left."""
    await make(connection, *[Life(f"old {n}", ended_ago=5000 - n) for n in range(4)])
    async with DBOSClient(database_url) as client, holding(database_url, lock_row("workflows", "id", "old 0")):
        result = await client.purge(500, limit=2)
    assert (result.count, result.left) == (2, 1)
    assert await ids(connection) == ["old 0", "old 3"]


async def test_t3_two_purges_at_a_time_remove_each_workflow_once(connection: Any, database_url: str) -> None:
    await make(connection, *[Life(str(n)) for n in range(600)], Life("stays", ended_ago=None, status="PENDING"))
    before = await all_rows(connection)
    async with DBOSClient(database_url) as first, DBOSClient(database_url) as second:
        results = await asyncio.gather(first.purge(500), second.purge(500), first.purge(500))
    assert sum(each.count for each in results) == 600
    assert await all_rows(connection) == without(before, *map(str, range(600)))


@DBOS.workflow(name="raced")
async def raced() -> Any:
    await DBOS.set_event("e", 1)
    return await DBOS.recv("go", timeout_seconds=0)


ORPHANS = " union all ".join(
    f"select '{table}', {column}::text from dbos_async.{table} as t "
    f"where not exists (select from dbos_async.workflows as w where w.id = t.{column})"
    for table, column in TABLES.items()
)


async def test_t3_nothing_is_left_behind_while_everything_runs(dbos: DBOS, connection: Any, database_url: str) -> None:
    """Starts, sends, cancels, resumes and forks of the same few ids go on while two processes purge all that has ended."""
    is_over = False
    purges = 0

    async def live(client: DBOSClient) -> None:
        while not is_over:
            workflow_id = f"w{random.randrange(5)}"
            try:
                match random.randrange(7):
                    case 0 | 1:
                        with SetWorkflowID(workflow_id):
                            await client.start_workflow("raced")
                    case 2:
                        await client.send(workflow_id, 1, "go", idempotency_key=str(random.randrange(3)))
                    case 3:
                        await client.send(workflow_id, 1, "later", delay_seconds=0.01)
                    case 4:
                        await client.cancel_workflow(workflow_id)
                    case 5:
                        await client.resume_workflow(workflow_id)
                    case _:
                        await client.fork_workflow(workflow_id, 1)
            except DBOSError as error:
                assert not isinstance(error, DatabaseUnavailableError), error

    async def keep_purging(client: DBOSClient) -> None:
        nonlocal purges
        while not is_over:
            purges += (await client.purge(0)).count

    async with DBOSClient(database_url) as first, DBOSClient(database_url) as second:
        tasks = [asyncio.create_task(live(client)) for client in (first, second) for _ in range(4)]
        tasks += [asyncio.create_task(keep_purging(client)) for client in (first, second)]
        await eventually(lambda: purges > 200, give_up_after_seconds=60)
        is_over = True
        await asyncio.gather(*tasks)
        await eventually(
            lambda: connection.fetchval("select count(*) = 0 from dbos_async.workflows where ended_at is null")
        )
        # A message that is due later to a workflow that is gone is dropped when it is due.
        await eventually(lambda: connection.fetchval("select count(*) = 0 from dbos_async.delayed_messages"))
        assert await connection.fetch(ORPHANS) == []
        await first.purge(0)
    assert await all_rows(connection) == {}


@pytest.mark.direct("it waits until the connections of a killed process have gone from pg_stat_activity")
async def test_t3_a_purge_that_is_killed_has_removed_whole_workflows(connection: Any, database_url: str) -> None:
    await make(connection, *[Life(str(n), steps=20) for n in range(1500)])
    before = await all_rows(connection)
    count = "select count(*) from dbos_async.workflows"
    async with running("purges", database_url) as program:
        await program.says("begun")
        await eventually(lambda: connection.fetchval(f"select ({count}) < 1300"))
        program.process.send_signal(signal.SIGKILL)
        await program.code()
    await eventually(lambda: connection.fetchval(f"select count(*) = 0 from pg_stat_activity where {OURS}"))
    left = set(await ids(connection))
    assert 0 < len(left) < 1300
    assert await all_rows(connection) == without(before, *({str(n) for n in range(1500)} - left))
    async with DBOSClient(database_url) as client:
        assert await client.purge(500) == PurgeResult(count=len(left))
    assert await all_rows(connection) == {}


OURS = "datname = current_database() and application_name = 'dbos_async'"


async def test_t3_a_purge_whose_answer_is_lost_is_repeated_and_counts_right(connection: Any, database_url: str) -> None:
    await make(connection, *[Life(f"old-17 {n}") for n in range(20)])
    async with Proxy(database_url) as proxy, DBOSClient(proxy.url) as client:
        proxy.mute(b"-17")
        task = asyncio.create_task(client.purge(500))
        await eventually(lambda: connection.fetchval("select count(*) = 0 from dbos_async.workflows"))
        await proxy.heal()
        proxy.cut()
        assert await task == PurgeResult(count=20)


@pytest.mark.parametrize(("code", "error"), [("42501", DatabaseUnavailableError), ("23503", InvalidValueError)])
async def test_t3_a_purge_that_the_database_refuses_says_so(
    connection: Any, database_url: str, code: str, error: type[Exception]
) -> None:
    await make(connection, *[Life(str(n)) for n in range(20)])
    before = await all_rows(connection)
    async with DBOSClient(database_url, connect_timeout_seconds=3) as client:
        async with irremovable(connection, "7", code):
            with pytest.raises(error, match="refused for a while"):
                await client.purge(500)
            assert await all_rows(connection) == before
        assert await client.purge(500) == PurgeResult(count=20)
