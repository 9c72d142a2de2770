"""Plays the rounds: in each one every peer has its turn, in a process of its own and on a new, empty database of the one server.

The peers take turns in another order each round, and a checkpoint is done before each turn, so that none pays for another's
writes or always comes last. What a peer cannot do is noted with the reason, and so is what failed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from tests.benchmarks.workloads import MEASURES, Results
from tests.support.databases import execute, new_database
from tests.support.postgres import LOSES_NOTHING, Server

ROOT = Path(__file__).parent.parent.parent
MUST_BE_ON = ("fsync", "synchronous_commit", "full_page_writes")
TOLD = (*MUST_BE_ON, "server_version", "shared_buffers", "max_wal_size", "wal_sync_method", "max_connections")
TURN_SECONDS = 900.0
END_SECONDS = 20.0


@dataclass(frozen=True)
class Plan:
    """What is to be played."""

    peers: Sequence[str]
    workloads: Sequence[str]
    rounds: int = 5
    size: int = 100
    amount: str = "full"
    uvloop: bool = False

    @property
    def steps(self) -> int:
        return self.rounds * len(self.peers) * len(self.workloads)


@dataclass
class Outcome:
    """All figures of all rounds, by peer and measure; and why others are missing, by peer and workload."""

    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    skipped: dict[str, dict[str, str]] = field(default_factory=dict)
    failed: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, peer: str, results: Results) -> None:
        for measure, figure in results.items():
            assert measure in MEASURES, f"{peer} measured {measure}, which nobody knows"
            self.figures.setdefault(peer, {}).setdefault(measure, []).append(figure)

    def reason(self, peer: str, workload: str) -> str | None:
        """Why there is no figure, if a reason is known."""
        return self.failed.get(peer, {}).get(workload) or self.skipped.get(peer, {}).get(workload)


Tell = Callable[[str], None]
"""Hears of each workload that is done: what to show as progress."""


@contextmanager
def server(url: str | None) -> Iterator[str]:
    """The server that was named, else one of this run's own, which is removed afterwards."""
    if url:
        yield url
        return
    own = Server(*LOSES_NOTHING)
    asyncio.run(own.create())
    try:
        yield own.url
    finally:
        asyncio.run(own.remove())


async def settings(url: str) -> dict[str, str]:
    """The settings of the server; it must be one that loses nothing in a power cut."""
    connection = await asyncpg.connect(url)
    try:
        told = {name: str(await connection.fetchval(f"show {name}")) for name in TOLD}
    finally:
        await connection.close()
    for name in MUST_BE_ON:
        assert told[name] == "on", f"{name} is {told[name]}: only a server on which it is on counts"
    return told


async def play(plan: Plan, url: str, tell: Tell = lambda _: None) -> Outcome:
    """All rounds."""
    outcome = Outcome()
    for turn in range(plan.rounds):
        first = turn % len(plan.peers)
        for peer in [*plan.peers[first:], *plan.peers[:first]]:
            tell(f"round {turn + 1}: {peer}")
            async with new_database(url, f"benchmark_{peer}_{turn}_{os.getpid()}") as database:
                await execute(database, "checkpoint")
                await _turn(plan, peer, database, outcome, tell)
    return outcome


async def end(process: asyncio.subprocess.Process) -> None:
    """End it if it still runs: politely first, so that it ends the server that it may have started."""
    if process.returncode is None:
        process.send_signal(signal.SIGINT)
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def _turn(plan: Plan, peer: str, url: str, outcome: Outcome, tell: Tell) -> None:
    left = list(plan.workloads)
    options = ["--uvloop"] if plan.uvloop else []
    with tempfile.TemporaryFile("w+") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.benchmarks.peer", *options, peer, url, str(plan.size), plan.amount, *left,
            cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert process.stdout is not None
        try:
            async with asyncio.timeout(TURN_SECONDS):
                async for line in process.stdout:
                    if not line.startswith(b"{"):
                        continue  # Some peer's own chatter.
                    said = json.loads(line)
                    left.remove(said["workload"])
                    if "skipped" in said:
                        outcome.skipped.setdefault(peer, {})[said["workload"]] = said["skipped"]
                    else:
                        outcome.add(peer, said["results"])
                    tell(said["workload"])
                await process.wait()
        except TimeoutError:
            print(f"{peer} took longer than {TURN_SECONDS:g} s", file=errors)
        finally:
            await end(process)
        errors.seek(0)
        said_last = errors.read().strip()[-2000:]
    for number, workload in enumerate(left):
        # What comes after a failure was not tried.
        why = said_last.splitlines()[-1:] or [f"exit code {process.returncode}"]
        outcome.failed.setdefault(peer, {})[workload] = why[0] if number == 0 else f"not tried after {left[0]} failed"
        tell(workload)
    if left:
        print(f"{peer} failed at {left[0]}:\n{said_last}", file=sys.stderr)
