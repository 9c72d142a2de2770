"""Locks and open transactions of others delay those calls that need what is locked, and no others (W10, W6, D4)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import asyncpg
import pytest

from dbos_async import (
    DBOS,
    DatabaseUnavailableError,
    DBOSClient,
    SetWorkflowID,
    SetWorkflowTimeout,
    WorkflowCancelledError,
)
from tests.support.eventually import eventually
from tests.support.troubles import OURS, holding, lock_row

pytestmark = pytest.mark.usefixtures("quiet")

GIVEN_UP_SECONDS = 1.5
"""Longer than a statement waits for locks, one after the other: a call that has given up is at the server no more."""


@DBOS.workflow(name="quick")
async def quick() -> str:
    return "done"


@DBOS.workflow()
async def listen(topic: str) -> Any:
    return await DBOS.recv(topic, timeout_seconds=None)


@DBOS.step(name="note of a lock")
async def note(n: int) -> int:
    return n


@DBOS.workflow()
async def three_steps() -> int:
    await DBOS.recv("go", timeout_seconds=None)
    return sum([await note(n) for n in range(3)])


async def test_w10_m7_w1_d4_a_start_that_waits_for_a_transaction_of_others_delays_no_other_start(
    database_url: str,
) -> None:
    """Somebody has started the same id, in a transaction that is open."""
    async with (
        DBOS(database_url),
        DBOSClient(database_url, connect_timeout_seconds=1.5) as client,
        holding(database_url) as slow,
    ):

        async def start(workflow_id: str) -> Any:
            with SetWorkflowID(workflow_id):
                return await (await client.start_workflow("quick")).get_result()

        with SetWorkflowID("x"):
            await DBOS.start_workflow(quick, connection=slow)
        began = time.monotonic()
        first, inside = asyncio.ensure_future(start("x")), asyncio.ensure_future(DBOS.start_workflow(quick))
        await asyncio.sleep(0.1)  # the start of x is at the server
        async with asyncio.timeout(1.3):
            await asyncio.gather(inside, *(start(f"other {n}") for n in range(100)))
        assert not first.done()
        with pytest.raises(DatabaseUnavailableError):
            await first
        assert time.monotonic() - began < 4
        await asyncio.sleep(GIVEN_UP_SECONDS)


async def test_w10_m3_d4_a_send_that_waits_for_a_transaction_of_others_delays_no_other_send(
    database_url: str, connection: Any
) -> None:
    """Somebody has used the same key, in a transaction that is open."""
    async with (
        DBOS(database_url),
        DBOSClient(database_url, connect_timeout_seconds=1.5) as client,
        holding(database_url) as slow,
    ):
        workflow_id = (await DBOS.start_workflow(listen, "nothing")).workflow_id

        async def send(key: str | None) -> None:
            await client.send(workflow_id, key, idempotency_key=key)

        await DBOS.send(workflow_id, "k", idempotency_key="k", connection=slow)
        began = time.monotonic()
        first = asyncio.ensure_future(send("k"))
        await asyncio.sleep(0.1)
        async with asyncio.timeout(1.3):
            await asyncio.gather(send(None), *(send(f"k{n}") for n in range(100)))
        assert not first.done()
        with pytest.raises(DatabaseUnavailableError):
            await first
        assert time.monotonic() - began < 4
        await asyncio.sleep(GIVEN_UP_SECONDS)
    assert await connection.fetchval("select count(*) from dbos_async.messages") == 101


@pytest.mark.parametrize("mode", ["share", "update"])
async def test_w10_d4_runs_go_on_beside_one_whose_row_is_locked(database_url: str, connection: Any, mode: str) -> None:
    """That one goes on as soon as the lock is gone; nothing outside waits longer than its time limit."""
    async with DBOS(database_url), DBOSClient(database_url, connect_timeout_seconds=1) as client:
        locked, *others = [await DBOS.start_workflow(three_steps) for _ in range(30)]
        async with holding(database_url, lock_row("workflows", "id", locked.workflow_id, mode)):
            await asyncio.gather(*(client.send(other.workflow_id, 1, "go") for other in others))
            sending = asyncio.ensure_future(DBOS.send(locked.workflow_id, 1, "go"))
            async with asyncio.timeout(5):
                assert await asyncio.gather(*(other.get_result() for other in others)) == [3] * 29
            began = time.monotonic()
            with pytest.raises(DatabaseUnavailableError):
                await asyncio.wait_for(client.cancel_workflow(locked.workflow_id), 4)
            assert time.monotonic() - began < 2.5
            await asyncio.sleep(GIVEN_UP_SECONDS)
            assert (await locked.get_status()).status == "PENDING"
        await sending
        async with asyncio.timeout(5):
            assert await locked.get_result() == 3
    assert await connection.fetchval("select bool_and(attempt % 1000000 = 1) from dbos_async.workflows")


TABLE_LOCKS: dict[str, Callable[[DBOSClient, str], Coroutine[Any, Any, object]]] = {
    "messages": lambda client, workflow_id: client.send(workflow_id, 2, "later"),
    "workflows": lambda client, _: client.start_workflow("quick"),
    "steps": lambda client, workflow_id: client.fork_workflow(workflow_id, 0),
}


@pytest.mark.parametrize("table", TABLE_LOCKS)
async def test_w10_d4_a_table_that_is_locked_costs_time_inside_and_a_clear_error_outside(
    database_url: str, connection: Any, table: str
) -> None:
    async with DBOS(database_url), DBOSClient(database_url, connect_timeout_seconds=1) as client:
        handle = await DBOS.start_workflow(three_steps)
        await eventually(lambda: connection.fetchval("select count(*) = 1 from dbos_async.steps"))
        async with holding(database_url, f"lock table dbos_async.{table} in share mode"):
            sending = asyncio.ensure_future(DBOS.send(handle.workflow_id, 1, "go"))
            began = time.monotonic()
            if table != "steps":
                with pytest.raises(DatabaseUnavailableError):
                    await asyncio.wait_for(TABLE_LOCKS[table](client, handle.workflow_id), 4)
                assert time.monotonic() - began < 2.5
            assert (await client.list_workflows())[0].status == "PENDING", "who only reads does not wait"
            assert await client.get_event(handle.workflow_id, "none", timeout_seconds=0.1) is None
            await asyncio.sleep(0.6)
        await sending
        assert await handle.get_result() == 3
        assert await connection.fetchval("select count(*) from dbos_async.steps where error is not null") == 0


async def test_w10_w6_cancelling_passes_by_what_is_locked(database_url: str, connection: Any) -> None:
    async with (
        DBOS(database_url),
        DBOSClient(database_url, connect_timeout_seconds=1.5) as client,
    ):
        locked, *others = [await DBOS.start_workflow(listen, "go") for _ in range(20)]
        async with holding(database_url, lock_row("workflows", "id", locked.workflow_id, "share")):
            began = time.monotonic()
            first = asyncio.ensure_future(client.cancel_workflow(locked.workflow_id))
            await asyncio.sleep(0.1)
            async with asyncio.timeout(1.3):
                await asyncio.gather(*(client.cancel_workflow(other.workflow_id) for other in others))
                for other in others:
                    with pytest.raises(WorkflowCancelledError):
                        await other.get_result()
            with pytest.raises(DatabaseUnavailableError):
                await first
            assert time.monotonic() - began < 4
            await asyncio.sleep(GIVEN_UP_SECONDS)
        assert (await locked.get_status()).status == "PENDING"
        await client.cancel_workflow(locked.workflow_id)
        with pytest.raises(WorkflowCancelledError):
            await locked.get_result()


async def test_w10_w6_deadlines_come_although_one_row_is_locked(database_url: str, connection: Any) -> None:
    """Of workflows that run here, and of those that nobody runs."""
    async with DBOS(database_url), DBOSClient(database_url) as client:
        for name, workflow in (("here", "quick"), ("nowhere", "known to nobody")):
            for n in range(3):
                with SetWorkflowID(f"{name} {n}"), SetWorkflowTimeout(1.5):
                    if name == "here":
                        await DBOS.start_workflow(listen, "go")
                    else:
                        await client.start_workflow(workflow)
        status = "select id from dbos_async.workflows where status = 'CANCELLED' order by id"
        locks = [lock_row("workflows", "id", f"{name} 0", "update") for name in ("here", "nowhere")]

        async def cancelled() -> list[str]:
            return [row[0] for row in await connection.fetch(status)]

        async with holding(database_url, *locks):

            async def others_are() -> bool:
                return await cancelled() == ["here 1", "here 2", "nowhere 1", "nowhere 2"]

            await eventually(others_are, "the others end in time", give_up_after_seconds=5)

        async def all_are() -> bool:
            return len(await cancelled()) == 6

        await eventually(all_are, "those two follow", give_up_after_seconds=5)


@pytest.mark.direct("it counts connections in pg_stat_activity")
async def test_w10_d4_a_lock_is_waited_for_without_holding_what_others_need(database_url: str) -> None:
    """The connections of the pool serve others, however many calls wait for locks."""
    async with DBOS(database_url), DBOSClient(database_url, connect_timeout_seconds=5) as client:
        handles = [await DBOS.start_workflow(listen, "go") for _ in range(40)]
        locks = [lock_row("workflows", "id", handle.workflow_id, "share") for handle in handles]
        async with holding(database_url, *locks):
            cancels = [asyncio.ensure_future(client.cancel_workflow(handle.workflow_id)) for handle in handles]
            await asyncio.sleep(1)
            for _ in range(5):
                began = time.monotonic()
                with SetWorkflowID(f"free {began}"):
                    await client.start_workflow("quick")
                assert time.monotonic() - began < 1
            assert not any(each.done() for each in cancels)
        await asyncio.gather(*cancels)
    admin = await asyncpg.connect(database_url)
    assert await admin.fetchval(f"select count(*) {OURS}") == 0
    await admin.close()
