"""Retention: a launched DBOS removes what ended long ago, while everything runs and whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from datetime import timedelta
from typing import Any

import pytest

from dbos_async import DBOS, DBOSClient, InvalidArgumentError, SetWorkflowID
from dbos_async._lifecycle import retention
from dbos_async._messaging import send
from dbos_async._operations import purge
from tests.support.eventually import eventually
from tests.support.populations import Life, all_rows, ids, irremovable, make, without
from tests.support.processes import running
from tests.support.proxy import Proxy
from tests.support.races import blocked
from tests.support.statements import ACTS, execute, step


@DBOS.workflow(name="retained for a short time")
async def retained_short() -> int:
    await DBOS.set_event("e", 1)
    return 1


@DBOS.workflow(name="waits on")
async def waits() -> Any:
    return await DBOS.recv("go", timeout_seconds=None)


async def test_t3_workflows_are_removed_when_they_have_ended_for_long_enough(
    database_url: str, connection: Any
) -> None:
    await make(connection, Life("parked", status="REPLAY_MISMATCH", ended_ago=None, lasted=1000), Life("before"))
    parked = without(await all_rows(connection), "before")
    async with DBOS(database_url, retention=timedelta(seconds=1)):
        with SetWorkflowID("waits"):
            handle = await DBOS.start_workflow(waits)
        with SetWorkflowID("short"):
            assert await retained_short() == 1
        began = time.monotonic()
        await eventually(lambda: all_gone(connection, "before", "short"))
        assert time.monotonic() - began > 0.9
        assert await ids(connection) == ["parked", "waits"]
        assert without(await all_rows(connection), "waits") == parked
        await DBOS.send("waits", 7, "go")
        assert await handle.get_result() == 7
        assert (await DBOS.health()).services["retention"] == "ok"


async def all_gone(connection: Any, *of: str) -> bool:
    return {*of}.isdisjoint(await ids(connection))


async def test_t3_without_retention_everything_is_kept(dbos: DBOS, connection: Any) -> None:
    assert "retention" not in (await DBOS.health()).services


@pytest.mark.parametrize("wrong", [0, 0.5, timedelta(0), timedelta(days=-1), "30d", True, float("inf"), timedelta.max])
def test_t3_a_retention_that_cannot_be_used_is_refused(wrong: Any) -> None:
    with pytest.raises(
        InvalidArgumentError, match="^retention must be a timedelta or a number of seconds, at least 1 s"
    ):
        DBOS("postgresql://localhost/shop", retention=wrong)


HOLDER = "select holder from dbos_async.retention"
KILLED_HOLDS = f"select exists ({HOLDER} where holder like 'killed:%')"


async def test_t3_one_executor_at_a_time_removes_and_another_one_takes_its_place(
    database_url: str, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one is killed in the middle."""
    monkeypatch.setattr(retention, "HOLD_SECONDS", 2.0)
    monkeypatch.setattr(retention, "ASK_EVERY_SECONDS", 0.2)
    await make(connection, *[Life(str(n)) for n in range(1500)])
    before = await all_rows(connection)
    few = "select count(*) < 1300 from dbos_async.workflows"
    async with running("retains", database_url, "killed") as first:
        await first.says("ready")
        await eventually(lambda: connection.fetchval(few))
        assert await connection.fetchval(KILLED_HOLDS)
        async with DBOS(database_url, executor_id="second", retention=1):
            left = len(await ids(connection))
            await eventually(lambda: count_is_below(connection, left - 50), "the first one goes on")
            assert await connection.fetchval(KILLED_HOLDS), "the second one leaves it to the first one"
            assert await first.end(signal.SIGKILL) == -signal.SIGKILL
            found = set(await ids(connection))
            assert len(found) > 100, "it was killed in the middle"
            assert await all_rows(connection) == without(before, *({str(n) for n in range(1500)} - found))
            await eventually(lambda: count_is_below(connection, 1), "the second one removes the rest")
    assert await all_rows(connection) == {}


async def count_is_below(connection: Any, count: int) -> bool:
    return bool(await connection.fetchval("select count(*) < $1 from dbos_async.workflows", count))


async def test_t3_retention_outlasts_a_database_that_goes_away(database_url: str, connection: Any) -> None:
    await make(connection, *[Life(str(n)) for n in range(400)])
    async with Proxy(database_url) as proxy, DBOS(proxy.url, retention=1, connect_timeout_seconds=1):
        await eventually(lambda: count_is_below(connection, 350))
        proxy.refuse()
        proxy.cut()
        await asyncio.sleep(1.5)  # longer than a call waits outside of workflows
        left = await ids(connection)
        await asyncio.sleep(0.2)
        assert await ids(connection) == left
        await proxy.heal()
        await eventually(lambda: count_is_below(connection, 1))
        await eventually(_is_well)


async def _is_well() -> bool:
    return (await DBOS.health()).ok


@pytest.mark.parametrize("code", ["42501", "23503"])  # a refusal, and a foreign key
async def test_t3_what_the_database_refuses_to_remove_is_left_and_keeps_nothing_else(
    database_url: str, connection: Any, caplog: pytest.LogCaptureFixture, code: str
) -> None:
    async with irremovable(connection, "7", code):
        await make(connection, *[Life(str(n)) for n in range(20)])
        async with DBOS(database_url, retention=1, connect_timeout_seconds=1):
            await eventually(lambda: count_is_below(connection, 2), give_up_after_seconds=40)
            assert await ids(connection) == ["7"]
            await eventually(
                lambda: (
                    "Retention has left 1 old workflow for now: the database does not remove workflow '7'"
                    in caplog.text
                )
            )
    async with DBOS(database_url, retention=1):
        await eventually(lambda: count_is_below(connection, 1))


async def test_t3_a_transaction_that_stays_open_is_named_and_does_not_stop_retention(
    database_url: str, one: Any, two: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "WRITERS_WITHIN_SECONDS", 0.1)
    await one.execute("begin")
    row = list(ACTS["SEND"].row(step(None), "x"))
    row[:4], row[7] = [None] * 4, "w"
    await execute(one, send.SEND, tuple(row))
    await make(two, Life("long ago", ended_ago=7200), Life("lately"))
    pid = one.get_server_pid()
    async with DBOS(database_url, retention=1):
        await eventually(lambda: all_gone(two, "long ago"))
        said = rf"Retention has left [12] old workflows? for now: a transaction of server process {pid} is open since"
        await eventually(lambda: re.search(said, caplog.text))
        assert "lately" in await ids(two)
        await one.execute("rollback")
        await eventually(lambda: all_gone(two, "lately", "other"))
    assert len(re.findall("Retention has left", caplog.text)) == 1, "not each second"


async def test_t3_a_shutdown_does_not_wait_for_retention(database_url: str, connection: Any) -> None:
    await make(connection, *[Life(str(n)) for n in range(1500)])
    async with DBOS(database_url, retention=1):
        await eventually(lambda: count_is_below(connection, 1450))
        began = time.monotonic()
    assert time.monotonic() - began < 3
    assert not await count_is_below(connection, 1)
    async with DBOSClient(database_url) as client:
        left = len(await ids(connection))
        assert (await client.purge(500)).count == left


HOLD = ("me", 30.0, 1.0, 20.0)


async def holds(connection: Any, name: str, pause_seconds: float = 1.0) -> bool:
    return bool(await execute(connection, retention.HOLD, (name, 30.0, pause_seconds, 20.0)))


async def test_t3_the_turn_is_one_executors_until_it_is_through_or_silent(one: Any, two: Any, three: Any) -> None:
    assert await holds(one, "first")
    assert await holds(one, "first"), "it keeps it"
    assert not await holds(two, "second")
    await three.execute("update dbos_async.retention set held_until = clock_timestamp()")
    assert await holds(two, "second"), "the first one was silent for too long"
    assert not await holds(one, "first")
    assert not await execute(one, retention.PASSED, ("first", 0.0)), "it was too late"
    assert await execute(two, retention.PASSED, ("second", 0.0))
    assert not await holds(one, "first", pause_seconds=60), "it is not time yet"
    assert await holds(one, "first", pause_seconds=0)
    assert await execute(one, retention.PASSED, ("first", 2.0))
    assert not await holds(two, "second", pause_seconds=0), (
        "the last pass looked for two seconds, so 40 pass before the next"
    )
    await three.execute("update dbos_async.retention set passed_at = passed_at - interval '40 seconds'")
    assert await holds(two, "second", pause_seconds=0)


async def test_t3_a_clock_that_was_set_back_keeps_nobody_from_the_turn(one: Any, three: Any) -> None:
    assert await holds(one, "first")
    await three.execute("update dbos_async.retention set held_until = clock_timestamp() + interval '1 day'")
    assert await holds(one, "second")
    await execute(one, retention.PASSED, ("second", 0.0))
    await three.execute("update dbos_async.retention set passed_at = clock_timestamp() + interval '1 day'")
    assert await holds(one, "first", pause_seconds=3600)


@pytest.mark.parametrize("is_there", [False, True])
async def test_t3_two_that_want_the_turn_at_once_do_not_both_get_it(
    is_there: bool, one: Any, two: Any, three: Any
) -> None:
    if is_there:
        await three.execute("insert into dbos_async.retention default values")
    await one.execute("begin")
    assert await holds(one, "first")
    task = asyncio.create_task(holds(two, "second"))
    await blocked(two, task, three)
    await one.execute("commit")
    assert not await task
    assert await three.fetchval(HOLDER) == "first"
