"""Random programs, played, crashed and replayed: ``python -m tests.replay --programs 400 --seed 1 --kinds ordered``.

Ends with a tally by kind, and with exit code 1 when a program replayed to something different or was stuck.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import asyncpg

from dbos_async._database import migrations
from tests.replay.deploys import with_changes
from tests.replay.judge import DIFFERENT, STUCK, Verdict
from tests.replay.killing import killing
from tests.replay.kinds import GROUPS, chosen
from tests.replay.lane import AT_ONCE, lane, side_by_side
from tests.replay.loops import add_loop_arguments, loop_options, run
from tests.replay.maker import Program, make, walk
from tests.replay.shrink import shrink
from tests.replay.tally import stories, story, table
from tests.support.databases import new_database
from tests.support.postgres import QUICK, Server
from tests.support.processes import ROOT

SHRINKING_SECONDS = 30.0
SHRINKING_PATIENCE_SECONDS = 3.0


def arguments() -> argparse.ArgumentParser:
    """The arguments of the command; ``--part`` is for the processes that it starts."""
    parser = argparse.ArgumentParser(prog="python -m tests.replay", description=__doc__)
    parser.add_argument("--programs", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--kinds",
        nargs="*",
        default=[],
        help=f"kinds, or groups of them: {', '.join(GROUPS)}, all (default: exact ordered)",
    )
    parser.add_argument("--crashes", type=int, default=2, help="crashes of a program, at most; 0 only replays")
    parser.add_argument("--kill", action="store_true", help="crash by SIGKILL of the processes that play")
    parser.add_argument("--deploys", action="store_true", help="change the code of a program after some crashes")
    parser.add_argument("--again", nargs=2, metavar=("KIND", "SEED"), help="play this one program so many times")
    parser.add_argument("--shrink", action="store_true", help="make a small different program smaller still")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="programs that each process plays at a time")
    parser.add_argument(
        "--patience", type=float, default=30.0, help="seconds without a record after which a program is stuck"
    )
    parser.add_argument("--show", type=int, default=3, help="programs that are shown in full")
    parser.add_argument("--part", nargs=2, metavar=("NUMBER", "URL"), help=argparse.SUPPRESS)
    add_loop_arguments(parser)
    return parser


def programs_of(given: argparse.Namespace, part: int) -> Iterator[Program]:
    """The programs of one process."""
    kinds = chosen(given.kinds)
    for number in range(part, given.programs, given.processes):
        made = make(*given.again) if given.again else make(kinds[number % len(kinds)], f"{given.seed}/{number}")
        yield with_changes(made) if given.deploys else made


async def play_part(given: argparse.Namespace, part: int, url: str) -> None:
    """Play the programs of one process, and print each verdict as a line of JSON."""
    logging.getLogger("dbos_async").setLevel(logging.CRITICAL)
    async with AsyncExitStack() as stack:
        player: Any
        if given.kill:
            seed = f"{given.seed}/{part}"
            player = await stack.enter_async_context(killing(url, seed, given.patience * 4, loop_options(given)))
        else:
            player = await stack.enter_async_context(
                lane(url, most_crashes=given.crashes, patience_seconds=given.patience)
            )
        worst: Verdict | None = None
        async for verdict in side_by_side(player.play, programs_of(given, part), given.at_once):
            print(json.dumps(verdict._asdict()), flush=True)
            if verdict.outcome == DIFFERENT and (worst is None or _size(verdict) < _size(worst)):
                worst = verdict
        if given.shrink and worst is not None:
            player.judge.patience_seconds = SHRINKING_PATIENCE_SECONDS
            smallest = await shrink(worst, player.play, SHRINKING_SECONDS)
            print(json.dumps({"smallest": story(smallest)}), flush=True)
        if given.kill and player.surprises:
            print(json.dumps({"smallest": "\n".join(player.surprises)}), flush=True)


def _size(verdict: Verdict) -> int:
    return sum(1 for _ in walk(verdict.program["body"]))


async def hear(given: argparse.Namespace, part: int, url: str, verdicts: list[Verdict], extras: list[str]) -> int:
    """Run one process, and collect what it prints; its exit code."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.replay", *sys.argv[1:], "--part", str(part), url,
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}, limit=1 << 26,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async for line in process.stdout:
            found = json.loads(line)
            if "smallest" in found:
                extras.append(found["smallest"])
            else:
                verdicts.append(Verdict(**found))
    finally:
        if process.returncode is None and sys.exc_info()[0] is not None:
            process.terminate()
        code = await process.wait()
    return code


async def play_all(given: argparse.Namespace) -> int:
    """Play all programs, each process in a database of its own, and show the tally."""
    began, verdicts, extras = time.monotonic(), list[Verdict](), list[str]()
    async with AsyncExitStack() as stack:
        url = os.environ.get("DBOS_TEST_DATABASE_URL")
        if url is None:
            url = (await stack.enter_async_context(Server(*QUICK))).url
        parts = []
        for part in range(given.processes):
            its_url = await stack.enter_async_context(new_database(url, f"replay_{os.getpid()}_{part}"))
            connection = await asyncpg.connect(its_url)
            await migrations.migrate(connection)
            await connection.close()
            parts.append(hear(given, part, its_url, verdicts, extras))
        codes = await asyncio.gather(*parts)
    print(stories(verdicts, given.show))
    for text in extras:
        print(f"{'=' * 100}\nthe smallest, or what a process wrote:\n{text}")
    print(f"\n{table(verdicts)}\n\nseed {given.seed}, {time.monotonic() - began:.1f} s")
    return max([*codes, any(verdict.outcome in (DIFFERENT, STUCK) for verdict in verdicts)])


def main() -> int:
    """Play everything, or one part of it."""
    parser = arguments()
    given = parser.parse_args()
    if given.kill and given.deploys:
        parser.error("--deploys counts crashes in one process: leave --kill out.")
    try:
        chosen(given.kinds)
    except ValueError as unknown:
        parser.error(str(unknown))
    if given.part:
        run(play_part(given, int(given.part[0]), given.part[1]), given)
        return 0
    return asyncio.run(play_all(given))


if __name__ == "__main__":
    sys.exit(main())
