"""Locks and open transactions of others bury no executor, and delay a take-over only of what is locked (W10, W2, W5)."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dbos_async import (
    DBOSClient,
    SetWorkflowID,
)
from tests.support import listening
from tests.support.eventually import eventually
from tests.support.processes import Program, running
from tests.support.troubles import age, holding, lock_row

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.skipif(sys.platform == "win32", reason="signals are others there"),
]

LEASE = 9 if listening.is_off() else 3
"""Renewals alone show that they fail only after three seconds."""

EXECUTORS = "select executor_id, id, started_at from dbos_async.executors order by 1, 2"
WORKFLOWS = "select id, owner, attempt, recoveries from dbos_async.workflows order by id"
OWNERS = "select id, split_part(owner, ':', 1) from dbos_async.workflows where status = 'PENDING' order by id"


@asynccontextmanager
async def executors(
    url: str, kinds: Mapping[str, tuple[str, ...]], ledger: Path, *arguments: object
) -> AsyncIterator[dict[str, Program]]:
    """One process for each name, with a brief lease and workflows of these kinds."""
    async with AsyncExitStack() as stack:
        programs = {
            name: await stack.enter_async_context(
                running("troubled", url, name, "--lease", LEASE, "--ledger", ledger, *arguments, "--start", *each)
            )
            for name, each in kinds.items()
        }
        yield programs


async def owners(connection: Any) -> dict[str, str]:
    return dict(await connection.fetch(OWNERS))


async def test_w10_w2_an_open_transaction_on_a_workflow_of_a_frozen_executor_delays_only_that_workflow(
    database_url: str, connection: Any, tmp_path: Path
) -> None:
    """It is a transaction of the frozen executor, in the middle of a step that sends with it."""
    kinds = {"frozen": ("waiting", "pausing", "counting", "paying"), "one": ("waiting",), "two": ("waiting",)}
    ledger = tmp_path / "ledger"
    async with executors(database_url, kinds, ledger, "--seconds", 0) as programs:
        await programs["frozen"].says("ready")
        await programs["frozen"].says("paying")
        for name in ("one", "two"):
            await programs[name].says("ready")
        await age(connection)
        before = await connection.fetch("select * from dbos_async.workflows where id in ('one waiting', 'two waiting')")
        programs["frozen"].process.send_signal(signal.SIGSTOP)

        async def are_taken_over() -> bool:
            now = await owners(connection)
            return {now["frozen waiting"], now["frozen counting"]} <= {"one", "two"}

        await eventually(are_taken_over, "the others are taken over", give_up_after_seconds=LEASE + 5)
        assert ledger.read_text().count("frozen paying") == 1
        await asyncio.sleep(LEASE)  # time enough for the two others to take each other for dead
        assert {row[0] for row in await connection.fetch(EXECUTORS)} - {"frozen"} == {"one", "two"}
        programs["frozen"].process.kill()
        paid_again = lambda: ledger.read_text().count("frozen paying") == 2  # noqa: E731
        await eventually(paid_again, "it follows when its lock is gone", give_up_after_seconds=8)
        assert (await owners(connection))["frozen paying"] in {"one", "two"}
        after = await connection.fetch("select * from dbos_async.workflows where id in ('one waiting', 'two waiting')")
        assert after == before


@pytest.mark.parametrize("mode", ["share", "update", "key share"])
async def test_w10_w2_take_over_passes_by_a_row_that_somebody_has_locked(
    database_url: str, connection: Any, tmp_path: Path, mode: str
) -> None:
    kinds: dict[str, tuple[str, ...]] = {"killed": ("waiting", "counting", "pausing"), "one": ()}
    async with executors(database_url, kinds, tmp_path / "ledger", "--seconds", 60) as programs:
        for program in programs.values():
            await program.says("ready")
        await age(connection)
        async with holding(database_url, lock_row("workflows", "id", "killed counting", mode)):
            programs["killed"].process.kill()

            async def are_taken_over() -> bool:
                now = await owners(connection)
                return now["killed waiting"] == now["killed pausing"] == "one"

            await eventually(are_taken_over, "the others are taken over", give_up_after_seconds=LEASE + 3)

        async def is_taken_over() -> bool:
            return (await owners(connection))["killed counting"] == "one"

        await eventually(is_taken_over, "it follows", give_up_after_seconds=8)


LOCKS = {
    "workflows as create index does": "lock table dbos_async.workflows in share mode",
    "executors as create index does": "lock table dbos_async.executors in share mode",
    "executors as vacuum full does": "lock table dbos_async.executors in access exclusive mode",
    "servers as vacuum full does": "lock table dbos_async.servers in access exclusive mode",
    "all rows of executors": "select from dbos_async.executors for update",
}


@pytest.mark.parametrize("lock", LOCKS)
async def test_w10_w5_d4_a_lock_that_outlasts_the_lease_buries_nobody(
    database_url: str, connection: Any, tmp_path: Path, lock: str
) -> None:
    ledger = tmp_path / "ledger"
    kinds = dict.fromkeys(("one", "two"), ("waiting", "pausing"))
    async with executors(database_url, kinds, ledger, "--seconds", 60) as programs:
        for program in programs.values():
            await program.says("ready")
        await eventually(lambda: len(ledger.read_text().splitlines()) == 2 if ledger.exists() else False)
        await age(connection)
        ids, workflows = await connection.fetch(EXECUTORS), await connection.fetch(WORKFLOWS)
        async with holding(database_url, LOCKS[lock]):
            await asyncio.sleep(1.5 * LEASE)
        async with DBOSClient(database_url) as client:
            with SetWorkflowID("after"):
                handle = await client.start_workflow("counting")
            await client.send("after", 0, "go")
            async with asyncio.timeout(10):
                assert await handle.get_result() == 0
        await asyncio.sleep(0.5 * LEASE)  # what has been waiting for the lock has an effect, if it ever has
        assert await connection.fetch(EXECUTORS) == ids
        assert await connection.fetch(f"{WORKFLOWS} limit 4 offset 1") == workflows
        assert len(ledger.read_text().splitlines()) == 2, "no step ran twice"
