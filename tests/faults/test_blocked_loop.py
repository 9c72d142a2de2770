"""Code that blocks the event loop is named in the log, and its executor keeps its workflows meanwhile (W10)."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dbos_async import DBOS, DBOSClient, SetWorkflowID
from tests.support.eventually import eventually
from tests.support.processes import Program, running

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.skipif(sys.platform == "win32", reason="signals are others there"),
]

ROWS = "select id, owner, attempt, recoveries from dbos_async.workflows order by id"


def block_for(seconds: float) -> None:
    time.sleep(seconds)


def count_for(seconds: float) -> None:
    """The same by work, in Python alone."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


@DBOS.step()
async def block_a_step(how: str) -> str:
    (count_for if how == "work" else block_for)(2)
    return "done"


@DBOS.step(name="in a thread")
def block_a_thread() -> str:
    time.sleep(1.5)
    return "done"


@DBOS.workflow()
async def block_in_step(how: str) -> str:
    await block_a_step(how)
    return "done"


@DBOS.workflow()
async def block_in_task_of_step() -> str:
    results = await asyncio.gather(block_a_step("sleep"), DBOS.sleep(0.1))
    return str(results[0])


@DBOS.workflow()
async def block_itself() -> str:
    await DBOS.sleep(0.05)
    block_for(1.5)
    return "done"


@DBOS.workflow()
async def block_a_task() -> str:
    async def blocked() -> None:
        await asyncio.sleep(0.05)
        block_for(1.5)

    await asyncio.gather(blocked(), DBOS.sleep(0.1))
    return "done"


@DBOS.workflow()
async def block_no_loop() -> str:
    return await block_a_thread()


BLOCKS: dict[str, tuple[Any, tuple[str, ...], tuple[str, ...]]] = {
    "a step": (block_in_step, ("sleep",), ("block_a_step", "block_for")),
    "a step that works": (block_in_step, ("work",), ("block_a_step", "count_for")),
    "a step among tasks": (block_in_task_of_step, (), ("block_a_step", "block_for")),
    "a workflow": (block_itself, (), ("block_itself", "block_for")),
    "a task of a workflow": (block_a_task, (), ("blocked", "block_for")),
}


@pytest.mark.parametrize("which", BLOCKS)
async def test_w10_what_blocks_the_event_loop_is_named_with_its_stack(
    database_url: str, which: str, caplog: pytest.LogCaptureFixture
) -> None:
    workflow, arguments, frames = BLOCKS[which]
    async with DBOS(database_url):
        with SetWorkflowID("the blocker"):
            handle = await DBOS.start_workflow(workflow, *arguments)
        assert await handle.get_result() == "done"
        await asyncio.sleep(0.5)  # what has gathered during the block has its turn
    loud = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(loud) == 1, "one line, and none that blames the database"
    text = loud[0].getMessage()
    assert "'the blocker'" in text
    assert "asyncio.to_thread" in text
    for frame in frames:
        assert frame in text
    assert __file__ in text


async def test_w10_a_step_in_a_thread_blocks_nothing(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with DBOS(database_url):
        assert await (await DBOS.start_workflow(block_no_loop)).get_result() == "done"
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_w10_code_of_no_workflow_that_blocks_the_loop_is_named_by_its_stack(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with DBOS(database_url):
        block_for(1.5)
        await asyncio.sleep(0.3)
    (loud,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "block_for" in loud.getMessage()
    assert "workflow" not in loud.getMessage().partition("\n")[0]


def loud_lines(program: Program) -> list[str]:
    """The first lines of what it has logged as a warning or worse."""
    return [line for line in program.errors.splitlines() if line.startswith(("WARNING", "ERROR", "CRITICAL"))]


async def test_w10_a_step_that_blocks_one_of_two_executors_for_20_seconds_runs_once(
    database_url: str, connection: Any, tmp_path: Path
) -> None:
    """Longer than a lease. The other workflows of the executor stay where they are, too."""
    ledger = tmp_path / "ledger"
    arguments = ("--ledger", ledger, "--seconds", 20)
    async with (
        running("troubled", database_url, "other", *arguments, "--start", "waiting") as other,
        running("troubled", database_url, "blocked", *arguments, "--start", "waiting", "blocking") as blocked,
        DBOSClient(database_url) as client,
    ):
        await asyncio.gather(other.says("ready"), eventually(ledger.exists))
        await eventually(lambda: connection.fetchval("select count(*) = 3 from dbos_async.workflows"))
        before = await connection.fetch(ROWS)
        handle = await client.retrieve_workflow("blocked blocking")
        async with asyncio.timeout(30):
            assert await handle.get_result() == "blocked"
        await blocked.says("ready")
        for name in ("blocked", "other"):
            await client.send(f"{name} waiting", name, "go")
            assert await (await client.retrieve_workflow(f"{name} waiting")).get_result() == name
        after = await connection.fetch(ROWS)
        assert [row["attempt"] for row in after] == [row["attempt"] for row in before]
        assert ledger.read_text() == "blocked blocking\n", "the step ran once"
        assert loud_lines(other) == []
        (line,) = loud_lines(blocked)
        assert "'blocked blocking'" in line
        assert "block" in blocked.errors


async def test_w10_a_block_beyond_the_limit_loses_the_workflow_and_its_late_run_stops(
    database_url: str, connection: Any, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    arguments = ("--ledger", ledger, "--lease", 2)
    async with (
        running("troubled", database_url, "other", *arguments, "--seconds", 0) as other,
        running(
            "troubled",
            database_url,
            "blocked",
            *arguments,
            "--seconds",
            10,
            "--max-blocked",
            1.5,
            "--start",
            "blocking",
        ) as blocked,
        DBOSClient(database_url) as client,
    ):
        await asyncio.gather(other.says("ready"), eventually(ledger.exists))
        handle = await client.retrieve_workflow("blocked blocking")
        async with asyncio.timeout(9):
            assert await handle.get_result() == "blocked"
        assert ledger.read_text() == "blocked blocking\n" * 2
        stored = await connection.fetch("select * from dbos_async.steps order by 1, 2, 3")
        await eventually(lambda: " stops" in blocked.errors, "the late run stops", give_up_after_seconds=15)
        assert await connection.fetch("select * from dbos_async.steps order by 1, 2, 3") == stored
        assert (await handle.get_status()).attempt == 2
        # It serves again.
        other.process.kill()
        with SetWorkflowID("later"):
            handle = await client.start_workflow("waiting")
        await client.send("later", "the end", "go")
        async with asyncio.timeout(10):
            assert await handle.get_result() == "the end"


async def test_w10_blocks_again_and_again_cost_no_workflow(database_url: str, connection: Any, tmp_path: Path) -> None:
    """Each shorter than a second, so that the loop hardly has a turn in many leases."""
    async with (
        running("troubled", database_url, "busy", "--lease", 2, "--seconds", 0.7, "--start", "grinding") as busy,
        running("troubled", database_url, "other", "--lease", 2) as other,
    ):
        await asyncio.gather(busy.says("ready"), other.says("ready"))
        before = await connection.fetch(ROWS)
        steps = "select count(*) >= 8 from dbos_async.steps where verb = 'step'"
        await eventually(lambda: connection.fetchval(steps))
        assert await connection.fetch(ROWS) == before
        assert loud_lines(busy) == loud_lines(other) == []
