"""The short form of the fault suite: a fixed number of faults, bounded in time, on a server of its own; and through a pooler."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import pytest

from tests.chaos.driver import campaign
from tests.chaos.facts import Tally
from tests.chaos.races import AT_ONCE
from tests.chaos.ways import PoolerUse
from tests.support.pgbouncer import needs_pgbouncer
from tests.support.postgres import chosen_version, versions

FAULTS = (
    "cut some",
    "freeze",
    "lock a table",
    "kill",
    "open transaction on one id",
    "hold",
    "terminate",
    "block the loop",
    "orphan",
    "refuse by trigger",
    "hold the client",
    "open transaction",
    "hold, then cut",
    "move the clock",
    "kill",
    "lock rows",
    "cut the client",
    "revoke a right",
    "refuse",
    "fill the notification queue",
    "shut down",
    "rename a table",
    "restart the server, immediate",
    "cut some",
    "lock a table, exclusively",
)
FAULTS_BEHIND_A_POOLER = (
    "kill the pooler",
    "lock a table",
    "kill",
    "pause the pooler",
    "cut some",
    "terminate",
    "freeze the pooler",
    "refuse by trigger",
    "reconnect the pooler",
    "orphan",
    "open transaction on one id",
    "hold the client",
    "restart the server, fast",
    "refuse",
    "kill the pooler",
    "shut down",
)
PAUSE_SECONDS = 0.45
LONGEST_SECONDS = 2.0
"""So long each trouble of the whole database lasts at most."""


pytestmark = [
    pytest.mark.chaos,
    pytest.mark.usefixtures("postgres"),
    pytest.mark.skipif(chosen_version() not in versions(), reason="needs the programs of this Postgres"),
    pytest.mark.skipif(sys.platform == "win32", reason="a process cannot be frozen there"),
]


async def endure(seed: int, kinds: Sequence[str], pooler: PoolerUse | None = None) -> tuple[Tally, int]:
    """Have these faults, with a neighbour; what happened, and how many waves there were."""
    async with campaign(seed, executors=3, with_neighbour=True, pooler=pooler) as suite:
        suite.nemesis.troubles.longest_seconds = LONGEST_SECONDS
        faults = [fault for fault in kinds if suite.nemesis.knows(fault)]
        evil = asyncio.create_task(suite.nemesis.run(faults, PAUSE_SECONDS))
        races = asyncio.create_task(suite.race(evil.done))
        bank = asyncio.create_task(suite.trade(evil.done))
        beside = asyncio.create_task(suite.live_beside(evil.done))
        number = 0
        while not evil.done():
            await suite.wave(number, 12, give_up_after_seconds=40)
            number += 1
        await asyncio.gather(evil, races, bank, beside)
        tally = await suite.finish()
        assert tally.violations == []
        assert tally.faults.total() == len(faults)
        return tally, number


async def test_m1_to_m9_e1_to_e5_s1_to_s6_w1_to_w5_d4_c1_to_c4_t1_t2_nothing_is_lost_or_doubled_whatever_breaks() -> (
    None
):
    tally, waves = await endure(18, FAULTS)
    assert tally.programs >= AT_ONCE
    assert tally.operations["deposit with its message and its receipt"] > 20
    assert tally.operations["workflow of the neighbour"] > 5
    assert tally.workflows > 12 * waves
    assert tally.operations.total() > 500 * waves


@needs_pgbouncer
@pytest.mark.parametrize("pooler", ["listen_url", "polling"])
async def test_d7_two_applications_and_one_role_lose_and_double_nothing_behind_one_pooler_whatever_breaks(
    pooler: PoolerUse,
) -> None:
    tally, waves = await endure(19, FAULTS_BEHIND_A_POOLER, pooler)
    assert tally.operations["workflow of the neighbour"] > 0
    assert tally.workflows > 12 * waves
    assert tally.operations.total() > 500 * waves
