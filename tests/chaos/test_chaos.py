"""The short form of the fault suite: a fixed number of faults, bounded in time, on a server of its own."""

from __future__ import annotations

import asyncio
import sys

import pytest

from tests.chaos.driver import campaign
from tests.chaos.races import AT_ONCE
from tests.support.postgres import chosen_version, versions

FAULTS = (
    "cut some",
    "freeze",
    "kill",
    "hold",
    "terminate",
    "orphan",
    "hold the client",
    "hold, then cut",
    "kill",
    "cut the client",
    "refuse",
    "shut down",
    "restart the server, immediate",
    "cut some",
)
PAUSE_SECONDS = 0.7


@pytest.mark.chaos
@pytest.mark.usefixtures("postgres")
@pytest.mark.skipif(chosen_version() not in versions(), reason="needs the programs of this Postgres")
@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot be frozen there")
async def test_m1_to_m9_e1_to_e5_s1_to_s6_w1_to_w5_d4_nothing_is_lost_or_doubled_whatever_breaks() -> None:
    async with campaign(seed=18, executors=3) as suite:
        evil = asyncio.create_task(suite.nemesis.run(FAULTS, PAUSE_SECONDS))
        races = asyncio.create_task(suite.race(evil.done))
        number = 0
        while not evil.done():
            await suite.wave(number, 12, give_up_after_seconds=40)
            number += 1
        await evil
        await races
        tally = await suite.finish()
        assert tally.violations == []
        assert tally.faults.total() == len(FAULTS)
        assert tally.programs >= AT_ONCE
        assert tally.workflows > 12 * number
        assert tally.operations.total() > 500 * number
