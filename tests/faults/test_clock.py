"""The clock of the server jumps, or a standby whose clock differs is promoted (W10, W2, W5, W6).

The database of each test has a clock of its own: a function before those of the server in the search path of its sessions.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from dbos_async import DBOS, DBOSClient, SetWorkflowID, SetWorkflowTimeout
from tests.support import listening
from tests.support.eventually import eventually
from tests.support.processes import running
from tests.support.troubles import age, fake_clock, set_clock

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.skipif(sys.platform == "win32", reason="signals are others there"),
]

RAN: Counter[str] = Counter()

JUMPS = ("-60 seconds", "10 minutes")

OWNERS = "select id, owner, attempt, recoveries from dbos_async.workflows order by id"
EXECUTORS = "select id, started_at from dbos_async.executors order by id"


@pytest.fixture
async def admin(empty_database_url: str) -> AsyncIterator[Any]:
    """A connection to a database whose clock can be set."""
    connection = await asyncpg.connect(empty_database_url)
    await fake_clock(connection)
    yield connection
    await connection.close()


@DBOS.step(name="charge by the clock")
async def charge(what: str) -> str:
    RAN[what] += 1
    return f"receipt for {what}"


@DBOS.workflow(name="order by clock")
async def order() -> list[str]:
    first = await charge("a")
    await DBOS.sleep(0.2)
    second = await charge("b")
    await DBOS.recv("go", timeout_seconds=None)
    return [first, second]


@DBOS.workflow()
async def order_many() -> list[str]:
    """The same in three tasks, whose steps and sleeps end at different times."""

    async def one(what: str, seconds: float) -> str:
        await DBOS.sleep(seconds)
        receipt = await charge(what)
        await DBOS.sleep(seconds)
        return receipt

    receipts = await asyncio.gather(one("a", 0.1), one("b", 0.2), one("c", 0.15))
    await DBOS.recv("go", timeout_seconds=None)
    return list(receipts)


@DBOS.workflow()
async def follow() -> list[Any]:
    """Waits that ended, by a message, an event, a value of a stream and a timeout."""
    me = str(DBOS.workflow_id)
    await DBOS.send(me, "early", "t")
    await DBOS.set_event("e", 1)
    await DBOS.write_stream("s", 2)
    got = [await DBOS.recv("t", 60), await DBOS.get_event(me, "e", 60), await DBOS.recv("nothing", 0.1)]
    async for n in DBOS.read_stream(me, "s"):
        got.append(n)
        break
    await charge("followed")
    await DBOS.recv("go", timeout_seconds=None)
    return got


EXPECTED = {
    order: (["receipt for a", "receipt for b"], {"a": 1, "b": 1}),
    order_many: (["receipt for a", "receipt for b", "receipt for c"], {"a": 1, "b": 1, "c": 1}),
    follow: (["early", 1, None, 2], {"followed": 1}),
}


@pytest.mark.parametrize("jump", JUMPS)
@pytest.mark.parametrize("workflow", EXPECTED)
async def test_w10_w2_no_recorded_step_runs_again_after_the_clock_has_jumped(
    empty_database_url: str, admin: Any, workflow: Any, jump: str
) -> None:
    """A sleep that was over is over, and a wait that had ended has ended."""
    RAN.clear()
    result, ran = EXPECTED[workflow]
    async with DBOS(empty_database_url, executor_id="first"):
        with SetWorkflowID("x"):
            await DBOS.start_workflow(workflow)
        waits = "select count(*) from dbos_async.steps where verb = 'recv' and key = 'go'"
        await eventually(lambda: admin.fetchval(waits))
    await set_clock(admin, jump)
    async with DBOS(empty_database_url, executor_id="second"):
        handle = await DBOS.retrieve_workflow("x")
        await DBOS.send("x", 1, "go")
        async with asyncio.timeout(10):
            assert await handle.get_result() == result
        assert (await handle.get_status()).status == "SUCCESS"
    assert ran == RAN


async def test_w10_w5_no_living_executor_is_reaped_however_the_clock_jumps(
    empty_database_url: str, admin: Any, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    async with AsyncExitStack() as stack:
        for name in ("one", "two"):
            arguments = ("--ledger", ledger, "--seconds", 60, "--start", "waiting", "pausing")
            program = await stack.enter_async_context(running("troubled", empty_database_url, name, *arguments))
            await program.says("ready")
        await eventually(lambda: ledger.exists() and len(ledger.read_text().splitlines()) == 2)
        before, executors = await admin.fetch(OWNERS), await admin.fetch(EXECUTORS)
        for shift in ("5 minutes", "1 hour", "-1 hour"):
            await set_clock(admin, shift)
            await asyncio.sleep(1.2)  # each executor has looked at the other
            assert await admin.fetch(OWNERS) == before, f"after a jump to {shift}"
        for n in range(5):  # a clock that races
            await set_clock(admin, f"{n * 10} minutes")
            await asyncio.sleep(0.2)
        await asyncio.sleep(1.5)
        assert await admin.fetch(OWNERS) == before
        assert await admin.fetch(EXECUTORS) == executors
        assert len(ledger.read_text().splitlines()) == 2, "no step ran twice"
        async with DBOSClient(empty_database_url) as client:
            for name in ("one", "two"):
                await client.send(f"{name} waiting", name, "go")
                assert await (await client.retrieve_workflow(f"{name} waiting")).get_result() == name


async def test_w10_w5_a_killed_executor_is_reaped_although_the_clock_went_back(
    empty_database_url: str, admin: Any
) -> None:
    """Its lease lies an hour ahead."""
    async with (
        running("troubled", empty_database_url, "killed", "--start", "waiting") as killed,
        running("troubled", empty_database_url, "other") as other,
    ):
        await asyncio.gather(killed.says("ready"), other.says("ready"))
        await age(admin)
        await set_clock(admin, "-1 hour")
        killed.process.kill()
        async with DBOSClient(empty_database_url) as client, asyncio.timeout(30 if listening.is_off() else 10):
            await client.send("killed waiting", "the end", "go")
            assert await (await client.retrieve_workflow("killed waiting")).get_result() == "the end"


async def test_w10_w5_deaths_with_steps_between_them_park_nothing_although_the_clock_went_back(
    empty_database_url: str, admin: Any
) -> None:
    """The steps look older than the claim under which they were recorded."""
    async with AsyncExitStack() as stack:
        for n in range(3):
            kinds = ("--start", "counting") if n == 0 else ()
            program = await stack.enter_async_context(running("troubled", empty_database_url, f"e{n}", *kinds))
            await program.says("ready")
            if n == 0:
                await age(admin)
                client = await stack.enter_async_context(DBOSClient(empty_database_url))
            owned = f"select owner like 'e{n}:%' from dbos_async.workflows"
            await eventually(lambda owned=owned: admin.fetchval(owned), f"e{n} runs the workflow")  # type: ignore[misc]
            await set_clock(admin, f"-{n + 1} hours")
            if n == 2:
                break
            await client.send("e0 counting", 1, "go")
            stepped = (
                f"select count(*) = {n + 1} from dbos_async.steps where verb = 'step' and completed_at is not null"
            )
            await eventually(lambda stepped=stepped: admin.fetchval(stepped), "a step is recorded")  # type: ignore[misc]
            program.process.kill()
        await client.send("e0 counting", 0, "go")
        async with asyncio.timeout(10):
            assert await (await client.retrieve_workflow("e0 counting")).get_result() == 2


async def test_w10_w6_deadlines_come_by_the_clock_that_has_jumped(empty_database_url: str, admin: Any) -> None:
    async with DBOS(empty_database_url), DBOSClient(empty_database_url) as client:

        async def start(workflow_id: str, seconds: float) -> None:
            with SetWorkflowID(workflow_id), SetWorkflowTimeout(seconds):
                await client.start_workflow("known to nobody")

        async def cancelled() -> set[str]:
            rows = await admin.fetch("select id from dbos_async.workflows where status = 'CANCELLED'")
            return {row["id"] for row in rows}

        async def are(*ids: str) -> bool:
            return await cancelled() == set(ids)

        await start("in half an hour", 1800)
        await set_clock(admin, "-1 hour")
        await start("at once", 0.1)
        await eventually(lambda: are("at once"), give_up_after_seconds=5)
        await set_clock(admin, "1 hour")
        await eventually(lambda: are("at once", "in half an hour"), give_up_after_seconds=5)


async def test_w10_w2_what_is_started_is_claimed_however_the_clock_jumps(empty_database_url: str, admin: Any) -> None:
    """Rows that were made in the future, and those that come behind them."""
    async with DBOS(empty_database_url), DBOSClient(empty_database_url) as client:
        for n, shift in enumerate(("1 hour", "0", "-1 hour", "1 minute")):
            await set_clock(admin, shift)
            handle = await client.start_workflow(order)
            await client.send(handle.workflow_id, n, "go")
            async with asyncio.timeout(5):
                assert len(await handle.get_result()) == 2
