"""Loops over messages, versions and streams whose processes are killed: promise C3, and M5, E4, S6 for these verbs."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from dbos_async import DBOS
from tests.support.eventually import eventually
from tests.support.processes import running
from tests.support.programs import follows

ROOT = Path(__file__).parent.parent.parent


async def run(url: str, *crash: object) -> tuple[int | None, Any]:
    """Run the program; its exit code, and what it printed if it came to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.programs.follows", url, *map(str, crash),
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), err.decode()
    return process.returncode, json.loads(out) if process.returncode == 0 else None


STEPS = 2 + 2 * follows.COUNT + 2 + 2 * follows.COUNT + 3
"""So many steps the workflow takes at least, however many versions are skipped."""
MOMENTS = [
    *(("before", at) for at in range(1, STEPS + 1)),
    *(("during", at) for at in range(1, STEPS + 1, 4)),
    *(("after", at) for at in range(3, STEPS + 1, 8)),  # nearly always the same as before the next
]


@pytest.mark.parametrize(("mode", "at"), MOMENTS)
async def test_c3_m5_e4_s6_loops_that_are_killed_at_a_boundary_go_on_where_they_were(
    database_url: str, mode: str, at: int
) -> None:
    code, told = await run(database_url, mode, at)
    if mode != "during":
        assert code == -signal.SIGKILL, "the program was to die at this step"
    if told is None:
        code, told = await run(database_url)
        assert code == 0
    follows.check(*told)


@pytest.mark.parametrize("turn", range(4))
async def test_c3_w2_the_loops_of_an_executor_that_is_killed_go_on_in_another(database_url: str, turn: int) -> None:
    async with running("follows", database_url, "serve") as program:
        await program.says("ready")
        async with DBOS(database_url, executor_id="another"):
            await eventually(lambda: _has_come_to(turn * follows.COUNT), "it is in the middle of its loops")
            await program.end(signal.SIGKILL)
            handle = await DBOS.retrieve_workflow("w")
            result = await asyncio.wait_for(handle.get_result(), 60)
            follows.check(result, [each async for each in DBOS.read_stream("w", "log")])


async def _has_come_to(count: int) -> bool:
    return len(await DBOS.list_workflow_steps("w")) >= count
