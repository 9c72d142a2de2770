"""Executors that were given the same executor_id are told so, and take nothing from each other (W10, W5, W2)."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from dbos_async import DBOS, DBOSClient
from dbos_async._lifecycle import leases
from tests.support import listening
from tests.support.databases import new_database
from tests.support.eventually import eventually
from tests.support.processes import Program, running
from tests.support.troubles import age

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.skipif(sys.platform == "win32", reason="signals are others there"),
]

ID = ("--id", "app:1")

HINTS = """
    select pg_terminate_backend(pid) from pg_locks
    where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())
"""
"""Cuts the connections whose locks say that executors are there, as a firewall or idle_session_timeout does."""

ROWS = "select id, status, owner, attempt, recoveries from dbos_async.workflows order by id"


def warnings(program: Program) -> list[str]:
    return [line for line in program.errors.splitlines() if line.startswith("WARNING") and "executor_id" in line]


async def test_w10_a_second_process_with_the_executor_id_of_a_living_one_is_told_at_launch(database_url: str) -> None:
    async with running("troubled", database_url, "first", *ID) as first:
        await first.says("ready")
        async with (
            running("troubled", database_url, "second", *ID) as second,
            running("troubled", database_url, "third", "--id", "app:2") as third,
        ):
            await asyncio.gather(second.says("ready"), third.says("ready"))
            await eventually(lambda: len(warnings(second)) == 1)
            assert "'app:1'" in warnings(second)[0]
            assert warnings(third) == warnings(first) == []


async def test_w10_a_program_that_starts_again_or_uses_another_database_is_told_nothing(
    server_url: str, template: str, database_url: str
) -> None:
    async with (
        new_database(server_url, f"{template}_other", template=template) as other_url,
        running("troubled", other_url, "elsewhere", *ID) as elsewhere,
    ):
        await elsewhere.says("ready")
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
            async with running("troubled", database_url, "again", *ID) as program:
                await program.says("ready")
                assert warnings(program) == []
                await program.end(number)


async def test_w10_w5_executors_of_one_id_that_lose_connections_take_nothing_from_each_other(
    database_url: str, connection: Any, tmp_path: Path
) -> None:
    """Workflows of ``waiting`` are parked after two recoveries."""
    ledger = tmp_path / "ledger"
    arguments = ("--ledger", ledger, "--seconds", 60, *ID, "--start", "waiting", "pausing")
    async with (
        running("troubled", database_url, "one", *arguments) as one,
        running("troubled", database_url, "two", *arguments) as two,
    ):
        await asyncio.gather(one.says("ready"), two.says("ready"))
        await eventually(lambda: ledger.exists() and len(ledger.read_text().splitlines()) == 2)
        # Who is seen for the first time without a connection may be the dead predecessor of the observer.
        await eventually(lambda: warnings(one) or warnings(two), "they know each other")
        await age(connection)
        before = await connection.fetch(ROWS)
        assert len({row["owner"] for row in before}) == 2
        for _ in range(12):
            await connection.execute(HINTS)
            await asyncio.sleep(0.5)
        assert await connection.fetch(ROWS) == before
        assert len(ledger.read_text().splitlines()) == 2, "no step ran twice"


@pytest.mark.listens("without a session there is no lock")
async def test_w10_an_executor_whose_connection_is_lost_is_back_before_its_next_beat(
    database_url: str, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEW_EVERY_SECONDS", 3600.0)
    renewed = "select lease_until > $1 from dbos_async.executors"
    async with DBOS(database_url):
        before = await connection.fetchval("select lease_until from dbos_async.executors")
        await connection.execute(HINTS)
        await eventually(lambda: connection.fetchval(renewed, before), "it has renewed its lease over a new connection")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_w2_a_process_that_starts_again_under_its_executor_id_has_its_workflows_in_seconds(
    database_url: str, connection: Any, number: int
) -> None:
    async with running("troubled", database_url, "first", *ID, "--start", "waiting") as first:
        await first.says("ready")
        await age(connection)
        await first.end(number)
    async with running("troubled", database_url, "second", *ID) as second, DBOSClient(database_url) as client:
        await second.says("ready")
        await client.send("first waiting", "the end", "go")
        # Without a session only the lease tells that the first one is dead.
        async with asyncio.timeout(30 if listening.is_off() else 5):
            assert await (await client.retrieve_workflow("first waiting")).get_result() == "the end"


async def test_w10_w2_a_frozen_process_loses_its_workflows_to_one_of_the_same_id(
    database_url: str, connection: Any
) -> None:
    arguments = (*ID, "--lease", 3)
    async with (
        running("troubled", database_url, "frozen", *arguments, "--start", "waiting") as frozen,
        running("troubled", database_url, "other", *arguments) as other,
        DBOSClient(database_url) as client,
    ):
        await asyncio.gather(frozen.says("ready"), other.says("ready"))
        (before,) = await connection.fetch(ROWS)
        frozen.process.send_signal(signal.SIGSTOP)

        async def has_moved() -> bool:
            (row,) = await connection.fetch(ROWS)
            return row["owner"] not in (None, before["owner"])

        await eventually(has_moved, "the other runs it", give_up_after_seconds=10)
        frozen.process.send_signal(signal.SIGCONT)
        await eventually(lambda: " stops" in frozen.errors, "it says so")
        await client.send("frozen waiting", "the end", "go")
        assert await (await client.retrieve_workflow("frozen waiting")).get_result() == "the end"
        (after,) = await connection.fetch(ROWS)
        assert after["attempt"] == before["attempt"] + 1
