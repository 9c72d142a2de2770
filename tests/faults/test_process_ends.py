"""Steps and workflows that end their process, interrupt it, fork it, or hang in a thread of it."""

from __future__ import annotations

import signal
import sys
import time
from typing import Any

import pytest

from tests.support.processes import Program, running
from tests.support.programs.ends import FORKS

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="signals and forks are others there"),
    pytest.mark.chaos,  # some fifty processes
]

IN_TASKS = ("task", "task that nobody awaits", "task group", "tasks in a step", "task group in a step")
PLACES = ("step", "def step", "body", "step in a task", *IN_TASKS)


def program(url: str, place: str, act: str) -> Any:
    return running("ends", url, place, act)


STATUS = """
    select w.status, w.status = 'PENDING' and (w.owner is null or e.lease_until = '-infinity'), w.recoveries
    from dbos_async.workflows as w left join dbos_async.executors as e on e.id = w.owner
"""
"""An executor that leaves while a statement of it still locks the row gives the workflow back when that has ended."""


async def status(connection: Any) -> tuple[Any, ...]:
    """How the workflow stands: its status, whether it was given back, and how often it was recovered."""
    return tuple(await connection.fetchrow(STATUS))


async def nothing_else(program: Program) -> None:
    """It has printed no other line, and ended without a word on standard error."""
    assert program.process.stdout is not None
    assert await program.process.stdout.read() == b""
    assert not program.errors


@pytest.mark.parametrize("place", ["step", "def step", "body", "step in a task"])
async def test_w5_sys_exit_in_a_workflow_is_its_error_and_ends_no_program(
    database_url: str, connection: Any, place: str
) -> None:
    async with program(database_url, place, "exit") as one:
        await one.says("ERROR")
        assert await one.code() == 0, one.errors
    assert await status(connection) == ("ERROR", False, 0)
    error = await connection.fetchval("select error from dbos_async.workflows")
    assert "SystemExitError" in str(error)


@pytest.mark.parametrize("place", IN_TASKS)
async def test_w5_sys_exit_in_a_task_of_a_workflow_ends_the_program_once(
    database_url: str, connection: Any, place: str
) -> None:
    # A SystemExit that leaves a task ends the event loop: so asyncio has it.
    async with program(database_url, place, "exit") as one:
        assert await one.code() == 2, one.errors
        assert "never retrieved" not in one.errors
    assert await status(connection) == ("ERROR", False, 0)
    async with program(database_url, place, "exit") as two:
        await two.says("ERROR")
        assert await two.code() == 0, two.errors


@pytest.mark.parametrize("place", ["step", "def step", "body", "task"])
async def test_w5_a_step_that_ends_the_process_at_once_is_parked_in_the_end(
    database_url: str, connection: Any, place: str
) -> None:
    for _ in range(2):
        async with program(database_url, place, "os exit") as one:
            assert await one.code() == 9, one.errors
    async with program(database_url, place, "os exit") as last:
        await last.says("MAX_RECOVERY_ATTEMPTS_EXCEEDED")
        assert await last.code() == 0, last.errors


@pytest.mark.parametrize(
    ("place", "act"),
    [
        *[(place, "raise interrupt") for place in PLACES],
        # Python raises KeyboardInterrupt in the main thread only, so not in the thread of a def step.
        *[(place, "interrupt") for place in ("step", "body", "task")],
    ],
)
async def test_w5_ctrl_c_during_a_workflow_ends_the_program_as_in_plain_asyncio(
    database_url: str, connection: Any, place: str, act: str
) -> None:
    async with program(database_url, place, act) as one:
        await one.says("interrupted")
        assert await one.code() == 0, one.errors
        await nothing_else(one)
    assert await status(connection) == ("PENDING", True, 0)
    assert await connection.fetchval("select count(*) from dbos_async.steps where verb = 'step'") == 0


ENDS_OF_CHILDREN = {
    "multiprocessing": "-15",
    "killed": "-15",
    "exits": "7",
    "exits with a text": "1",
    "comes back": "0",
    "fails": "1",
    "runs atexit": "5",
}


@pytest.mark.parametrize(
    ("place", "act"),
    [(place, act) for act in FORKS for place in ("step", "def step")] + [("body", "exits"), ("body", "comes back")],
)
async def test_w5_a_forked_child_ends_alone_and_its_parent_goes_on(
    database_url: str, connection: Any, place: str, act: str
) -> None:
    async with program(database_url, place, act) as parent:
        await parent.says(ENDS_OF_CHILDREN[act])
        assert await parent.end() == 128 + signal.SIGTERM, "SIGTERM still ends it, in good order"
        assert parent.process.stdout is not None
        assert await parent.process.stdout.read() == b""
        assert ("ZeroDivisionError" in parent.errors) == (act == "fails"), parent.errors
    assert await status(connection) == ("SUCCESS", False, 0)


async def test_w5_after_the_drain_a_program_ends_though_a_thread_hangs(database_url: str, connection: Any) -> None:
    async with program(database_url, "def step", "hang") as one:
        await one.says("hangs")
        began = time.monotonic()
        assert await one.end() == 128 + signal.SIGTERM
        assert time.monotonic() - began < 10
        assert one.errors == "The step 'def_step' of workflow 'w' still runs in a thread and was left behind.\n"
    assert await status(connection) == ("PENDING", True, 0)


async def test_w5_a_thread_that_its_step_has_abandoned_keeps_no_program_from_ending(
    database_url: str, connection: Any
) -> None:
    async with program(database_url, "timed step", "hang") as one:
        await one.says("hangs")
        await one.says("SUCCESS")
        assert await one.code(give_up_after_seconds=10) == 0
        assert "The step 'timed_step' of workflow 'w' still runs in a thread" in one.errors
    assert await status(connection) == ("SUCCESS", False, 0)


async def test_w5_a_thread_that_soon_ends_is_waited_for(database_url: str, connection: Any) -> None:
    async with program(database_url, "timed step", "nap") as one:
        await one.says("SUCCESS")
        await one.says("slept")
        assert await one.code() == 0
        await nothing_else(one)
