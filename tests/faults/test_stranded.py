"""Work that a dead moment has left behind is found: nothing stays with an owner that does not exist (W10, W1, W2)."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from dbos_async import DBOS, DBOSClient, SetWorkflowID
from dbos_async._lifecycle import leftovers
from tests.support.eventually import eventually
from tests.support.processes import running
from tests.support.proxy import Proxy
from tests.support.troubles import OURS, age, holding, lock_row, trigger

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.skipif(sys.platform == "win32", reason="signals are others there"),
]

OWNERLESS = """
    select array_agg(w.id) from dbos_async.workflows as w
    where w.status = 'PENDING' and w.owner is not null
      and not exists (select from dbos_async.executors as e where e.id = w.owner)
"""

ALONE = "select count(*) = 1 from dbos_async.executors"

BLOCKED = f"select count(*) {OURS} and wait_event_type = 'Lock'"

AT_SERVER = f"select count(*) {OURS} and wait_event in ('transactionid', 'PgSleep')"


@DBOS.workflow(name="counting", max_recovery_attempts=1)
async def counting() -> int:
    """The workflow of this name in tests.support.programs.troubled, for the executor of the test itself."""
    n = 0
    while await DBOS.recv("go", None):
        n += 1
    return n


@DBOS.workflow(name="waiting", max_recovery_attempts=1)
async def waiting() -> Any:
    return await DBOS.recv("go", timeout_seconds=None)


async def ends(workflow_id: str, url: str) -> None:
    """Start that workflow if nobody has, and see it end."""
    async with DBOSClient(url) as client:
        with SetWorkflowID(workflow_id):
            handle = await client.start_workflow("waiting")
        await client.send(workflow_id, "the end", "go")
        async with asyncio.timeout(20):
            assert await handle.get_result() == "the end"


@pytest.mark.direct("a pooler ends the statement of a client that is gone")
async def test_w10_w1_a_start_that_waits_for_a_lock_when_its_process_is_killed_strands_nothing(
    database_url: str, connection: Any
) -> None:
    """Another request has begun to start the same id, in a transaction that is rolled back after the executor is gone."""
    async with DBOS(database_url, executor_id="survivor"):
        async with holding(database_url) as other:
            with SetWorkflowID("victim waiting"):
                await DBOS.start_workflow(waiting, connection=other)
            async with running("troubled", database_url, "victim", "--start", "waiting") as victim:
                await eventually(lambda: connection.fetchval(BLOCKED))
                await age(connection)
                victim.process.kill()
                await victim.code()
            await eventually(lambda: connection.fetchval(ALONE), "the victim is reaped")
        await ends("victim waiting", database_url)
        assert await connection.fetchval(OWNERLESS) is None


SLOW_START = "new.id like '%waiting'"


@pytest.mark.listens("the statement ends before the lease does")
@pytest.mark.direct("a pooler ends the statement of a client that is gone")
async def test_w10_w1_a_start_that_commits_after_its_executor_was_reaped_is_claimed(
    database_url: str, connection: Any
) -> None:
    """The server is slow: the process was killed, and its statement goes on."""
    async with DBOS(database_url, executor_id="survivor"):
        async with trigger(connection, "workflows", operation="insert", condition=SLOW_START, seconds=6) as slow:
            async with running("troubled", database_url, "victim", "--start", "waiting") as victim:
                await slow.met(1)
                await age(connection)
                victim.process.kill()
                await victim.code()
            await eventually(lambda: connection.fetchval(ALONE), "the victim is reaped")
            assert await connection.fetchval("select count(*) from dbos_async.workflows") == 0
            await eventually(lambda: connection.fetchval("select count(*) from dbos_async.workflows"), "it commits")
        await ends("victim waiting", database_url)
        assert await connection.fetchval("select attempt % 1000000 from dbos_async.workflows") == 2


@pytest.mark.parametrize("how", ["by a lock", "by the server", "by the server, whose cancel request is lost"])
async def test_w10_w2_a_start_that_is_held_up_during_a_shutdown_strands_nothing(
    database_url: str, connection: Any, how: str
) -> None:
    seconds = 0.0 if how == "by a lock" else 4.0
    new_x: dict[str, Any] = {"operation": "insert", "condition": "new.id = 'x'"}
    async with (
        Proxy(database_url) as proxy,
        trigger(connection, "workflows", seconds=seconds, **new_x) as slow,
        holding(database_url) as other,
    ):
        async with DBOS(proxy.url, executor_id="leaving", drain_seconds=0.5):
            await ends("first", database_url)
            with SetWorkflowID("x"):
                if how == "by a lock":
                    await DBOS.start_workflow(waiting, connection=other)
            with SetWorkflowID("x"):
                start = asyncio.ensure_future(DBOS.start_workflow(waiting))
            await slow.met(1)
            await eventually(lambda: connection.fetchval(AT_SERVER))
            if how.endswith("lost"):
                proxy.refuse()  # a cancel request comes on a connection of its own
        assert isinstance((await asyncio.gather(start, return_exceptions=True))[0], Exception)
        await other.execute("rollback; begin")
        await asyncio.sleep(seconds)  # the statement ends, whatever becomes of it
    async with DBOS(database_url, executor_id="next"):
        await ends("x", database_url)
        assert await connection.fetchval(OWNERLESS) is None


async def test_w10_w2_a_shutdown_whose_give_back_is_refused_strands_nothing(database_url: str, connection: Any) -> None:
    """The program ends without an error of the database's; others take over when the lock is seen free."""
    freed: dict[str, Any] = {"operation": "update", "condition": "new.owner is null"}
    async with (
        trigger(connection, "workflows", "P0001", **freed),
        DBOS(database_url, executor_id="leaving", drain_seconds=0.5),
    ):
        with SetWorkflowID("x"):
            await DBOS.start_workflow(waiting)
        await age(connection)
    async with DBOS(database_url, executor_id="next"):
        await ends("x", database_url)


async def test_w10_w2_a_claim_that_commits_after_its_executor_was_reaped_is_claimed_again(
    database_url: str, connection: Any
) -> None:
    claims: dict[str, Any] = {"operation": "update", "condition": "new.owner like 'victim%' and old.owner is null"}
    async with (
        running("troubled", database_url, "victim") as victim,
        trigger(connection, "workflows", seconds=7, **claims) as slow,
    ):
        await victim.says("ready")
        async with DBOSClient(database_url) as client:
            with SetWorkflowID("x"):
                await client.start_workflow("waiting")
        await slow.met(1)
        await age(connection)
        async with DBOS(database_url, executor_id="survivor"):
            victim.process.kill()
            await eventually(lambda: connection.fetchval(ALONE), "the victim is reaped")
            await ends("x", database_url)
            assert await connection.fetchval(OWNERLESS) is None


async def test_w10_a_claim_whose_answer_is_lost_is_run_or_given_back(database_url: str, connection: Any) -> None:
    async with Proxy(database_url) as proxy, DBOS(proxy.url, executor_id="only"):
        claims: dict[str, Any] = {"operation": "update", "condition": "new.owner is not null and old.owner is null"}
        async with trigger(connection, "workflows", seconds=0.5, **claims) as slow:
            async with DBOSClient(database_url) as client:
                with SetWorkflowID("x"):
                    await client.start_workflow("waiting")
            await slow.met(1)
            await proxy.orphan(0.1, 0.7)
            await ends("x", database_url)
        assert (await connection.fetchval("select attempt % 1000000 from dbos_async.workflows")) in (1, 2)


NOBODY_S = """
    insert into dbos_async.workflows (id, name, input, start_id, attempt, owner, claimed_at)
    select id, 'waiting', '{"args": [], "kwargs": {}}', gen_random_uuid(), 1, owner, clock_timestamp() + ago
    from (values
        ('never was', 'nobody:123', interval '0'),
        ('long ago', 'nobody:456', interval '-1 year'),
        ('in the future', 'nobody:789', interval '1 year'),
        ('odd', 'an owner with ''quotes'' and % and \\', null)
    ) as w(id, owner, ago)
"""


async def test_w10_pending_workflows_of_an_owner_that_does_not_exist_are_freed(
    database_url: str, connection: Any
) -> None:
    """Also when somebody has locked the first of them."""
    async with DBOS(database_url):
        await connection.execute(NOBODY_S)
        async with holding(database_url, lock_row("workflows", "id", "in the future")):
            await asyncio.gather(*(ends(each, database_url) for each in ("never was", "long ago", "odd")))
        await ends("in the future", database_url)


async def test_w10_what_an_executor_owns_and_does_not_run_is_found(
    database_url: str, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever has made it so: here somebody's hand."""
    monkeypatch.setattr(leftovers, "LOOK_EVERY_SECONDS", 2.0)
    monkeypatch.setattr(leftovers, "LOOK_AGAIN_SECONDS", 1.0)
    async with DBOS(database_url):
        own = await connection.fetchval("select id from dbos_async.executors")
        await connection.execute(NOBODY_S)
        await connection.execute("update dbos_async.workflows set owner = $1 where id <> 'in the future'", own)
        await asyncio.gather(*(ends(each, database_url) for each in ("never was", "long ago", "odd")))


async def test_w10_a_start_in_a_transaction_that_commits_after_its_executor_died_is_claimed(
    database_url: str, connection: Any, tmp_path: Path
) -> None:
    """And so is its message received: nobody was there to hear of it."""
    ledger = tmp_path / "ledger"
    async with holding(database_url) as other:
        async with DBOS(database_url, executor_id="first"):
            with SetWorkflowID("x"):
                await DBOS.start_workflow(counting, connection=other)
            await DBOS.send("x", 1, "go", connection=other)
            await DBOS.send("x", 0, "go", connection=other)
        async with (
            running("troubled", database_url, "second", "--ledger", ledger) as second,
            DBOSClient(database_url) as client,
        ):
            await second.says("ready")
            await other.execute("commit; begin")
            async with asyncio.timeout(20):
                assert await (await client.retrieve_workflow("x")).get_result() == 1
            assert await second.end(signal.SIGTERM) == 128 + signal.SIGTERM
    assert ledger.read_text() == "x\n"
