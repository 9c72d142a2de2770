"""Processes that stream and are killed at their statements, again and again: promises S2 and S8."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any

import pytest

from dbos_async import DBOSClient
from tests.support.eventually import eventually
from tests.support.processes import ROOT
from tests.support.programs.writes import COUNT
from tests.support.shown import ONCE, Shown, check_followed, check_rows, follow, followed_values

KILLS = {
    "rewind": (("after", 3), ("during", 7)),
    "continue": (("before", 5), ("after", 6)),
    "skip": (("during", 4), ("before", 6)),
    "append": (("after", 5), ("after", 3)),
}
"""Where the first two processes die, for each ``on_retry``."""


async def run(url: str, mode: str, *crash: object) -> dict[str, Any] | None:
    """Run the program; what it printed if it came to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.programs.writes", url, mode, *map(str, crash),
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), err.decode()
    story: dict[str, Any] | None = json.loads(out) if process.returncode == 0 else None
    return story


@pytest.mark.parametrize("mode", KILLS)
async def test_s2_s8_a_page_shows_one_attempt_whenever_the_writer_s_process_is_killed(
    database_url: str, connection: Any, mode: str
) -> None:
    modes = {"a": mode, "v": ONCE, "w": ONCE}
    shown = Shown(modes)
    async with DBOSClient(database_url) as client:
        story = await run(database_url, mode, *KILLS[mode][0])
        await eventually(lambda: connection.fetchval("select count(*) = 1 from dbos_async.workflows"))
        reading = asyncio.gather(
            follow(client.read_stream_entries("w", "s"), shown), followed_values(client.read_stream("w", "s"))
        )
        for crash in (KILLS[mode][1], ()):
            story = story or await run(database_url, mode, *crash)
        assert story is not None
        async with asyncio.timeout(20):
            _, values = await reading
    assert [list(value) for _, value in shown.values] == story["late"]
    attempt, count = story["result"]
    if mode == "rewind":
        assert shown.of("a") == [(attempt, n) for n in range(count)]
    elif mode == "append":
        assert [n for said, n in shown.of("a") if said == attempt] == list(range(count))
    else:
        assert [n for _, n in shown.of("a")] == list(range(count))
    assert (len(shown.of("v")), len(shown.of("w"))) == (COUNT, 3)
    check_followed(values, modes)
    await check_rows(connection, "w", "s")
