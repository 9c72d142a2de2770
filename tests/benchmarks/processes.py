"""Messages between processes: ``python -m tests.benchmarks.processes [--compare CHECKOUT] [--listeners N] [--no-redis]``.

A client sends a message to a workflow of another process, which answers by a value of a stream that the client reads. "tight": the
answer triggers the next message at once. "spaced": some milliseconds lie between, so the workflow waits on record, as one that
waits for a person does. Redis Streams that store each write (``appendfsync always``) do the same. All contenders have their turn in
each round, in another order each time. Absolute times move with what else the machine does: believe the ratios, of which each is
of one round. Where Linux tells it, the time of the processor is shown, too, of all processes and of the server: a busy machine
changes that less. ``--compare`` measures another checkout of this project besides. ``--listeners`` adds processes that only wait.

Redis needs the package ``redis`` and the program redis-server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.harness import ROOT, server, settings
from tests.benchmarks.redis_peer import MUST_BE
from tests.benchmarks.servers import PeerMissingError, folder, program, running
from tests.benchmarks.workloads import percentile
from tests.support.databases import execute, new_database
from tests.support.postgres import free_port

ROLES = Path(__file__).with_name("process_roles.py")
ANSWER_SECONDS = 120.0
END_SECONDS = 10.0


@dataclass
class Contender:
    """What takes part: the database or server that it uses, and the times of its round trips by round."""

    name: str
    who: str
    url: str
    checkout: Path
    client: asyncio.subprocess.Process | None = None
    processes: list[int] = field(default_factory=list)
    cpu: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: {"tight": [], "spaced": []})
    """The time of the processor for a round trip: of its processes and of its server."""
    tight: list[list[float]] = field(default_factory=list)
    spaced: list[list[float]] = field(default_factory=list)

    async def begin(self, stack: AsyncExitStack, listeners: int) -> None:
        """Start its processes."""
        await self._start(stack, "worker")
        if self.who == "ours":
            for _ in range(listeners):
                await self._start(stack, "listener")
        self.client = await self._start(stack, "client")

    async def turn(self, count: int, pause_seconds: float) -> list[float]:
        """Make some round trips; their times in seconds."""
        assert self.client is not None
        assert self.client.stdin is not None
        self.client.stdin.write(json.dumps([count, pause_seconds]).encode() + b"\n")
        taken: list[float] = await _hear(self.client, self.name)
        return taken

    async def _start(self, stack: AsyncExitStack, role: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", str(ROLES), self.who, role, self.url,
            cwd=self.checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(self.checkout), os.environ.get("PYTHONPATH")]))},
        )  # fmt: skip
        stack.push_async_callback(_end, process)
        self.processes.append(process.pid)
        assert await _hear(process, f"{self.name}, {role}") == "ready"
        return process


async def _hear(process: asyncio.subprocess.Process, who: str) -> Any:
    assert process.stdout is not None
    async with asyncio.timeout(ANSWER_SECONDS):
        line = await process.stdout.readline()
    assert line, f"a process of {who} ended too early"
    return json.loads(line)


async def _end(process: asyncio.subprocess.Process) -> None:
    """The end of its standard input tells it to end."""
    try:
        async with asyncio.timeout(END_SECONDS):
            await process.communicate(b"")
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@asynccontextmanager
async def redis() -> AsyncIterator[str]:
    """The URL of a Redis that stores each write before it answers."""
    async with folder() as place:
        port = free_port()
        options = {"port": str(port), "bind": "127.0.0.1", "dir": str(place), "save": "", **MUST_BE}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        async with running(program("redis-server"), *words, port=port, place=place):
            yield f"redis://127.0.0.1:{port}"


async def play(arguments: argparse.Namespace, url: str) -> list[Contender]:
    """All rounds."""
    async with AsyncExitStack() as stack:
        contenders: list[Contender] = []
        checkouts = {"here": ROOT} | ({"there": arguments.compare.resolve()} if arguments.compare else {})
        for name, checkout in checkouts.items():
            database = await stack.enter_async_context(new_database(url, f"processes_{name}_{os.getpid()}"))
            contenders.append(Contender(name, "ours", database, checkout))
        if arguments.redis:
            try:
                contenders.append(Contender("redis", "redis", await stack.enter_async_context(redis()), ROOT))
            except PeerMissingError as missing:
                print(f"without Redis: {missing}", file=sys.stderr)
        for contender in contenders:
            await contender.begin(stack, arguments.listeners)
        await execute(url, "checkpoint")
        for turn in range(arguments.rounds):
            first = turn % len(contenders)
            in_turn = [*contenders[first:], *contenders[:first]]
            for workload, trips, pause_seconds in (
                ("tight", arguments.trips, 0.0), ("spaced", arguments.trips // 2, arguments.pause_ms / 1e3),
            ):  # fmt: skip
                for contender in in_turn:
                    before = _cpu_ms(contender, url)
                    getattr(contender, workload).append(await contender.turn(trips, pause_seconds))
                    used = [(now - then) / trips for now, then in zip(_cpu_ms(contender, url), before, strict=True)]
                    contender.cpu[workload].append((used[0], used[1]))
        return contenders


def _cpu_ms(contender: Contender, url: str) -> tuple[float, float]:
    """How much time of the processor a contender has used so far, and how much its server; 0 where that is not told."""
    servers: list[int] = []
    data = re.search(r"\?host=(/[^&]+)", url)
    with suppress(OSError):
        if contender.who == "ours" and data is not None:
            (postmaster, *_) = Path(data[1], "postmaster.pid").read_text().splitlines()
            children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
            servers = [int(postmaster), *map(int, children)]
    return _cpu_of(contender.processes), _cpu_of(servers)


def _cpu_of(processes: Sequence[int]) -> float:
    used = 0.0
    for process in processes:
        with suppress(OSError):  # it may end meanwhile
            for thread in Path(f"/proc/{process}/task").iterdir():
                used += int((thread / "schedstat").read_text().split()[0]) / 1e6
    return used


def ratios(one: Sequence[list[float]], other: Sequence[list[float]]) -> list[float]:
    """How many times as long one takes as the other, in each round, by the medians."""
    return sorted(median(taken) / median(others) for taken, others in zip(one, other, strict=True))


def show(contenders: Sequence[Contender], listeners: int) -> Table:
    """A line for each contender and workload; the last contender is what the others are compared with."""
    with_listeners = f", {listeners} listening besides" if listeners else ""
    table = Table(title=f"Round trips between two processes{with_listeners}")
    for heading in (
        "",
        "p50 ms",
        "p99 ms",
        "CPU ms",
        "server CPU ms",
        *(f"/ {other.name}" for other in contenders[1:]),
    ):
        table.add_column(heading, justify="right")
    for workload in ("tight", "spaced"):
        for contender in contenders:
            rounds = getattr(contender, workload)
            every = [taken for turn in rounds for taken in turn]
            cells = [f"{percentile(every, 0.5) * 1e3:.2f}", f"{percentile(every, 0.99) * 1e3:.2f}"]
            cells += [f"{median(used):.2f}" for used in zip(*contender.cpu[workload], strict=True)]
            for other in contenders[1:]:
                of = ratios(rounds, getattr(other, workload))
                cells.append("" if other is contender else f"{median(of):.2f} ({of[0]:.2f}-{of[-1]:.2f})")
            table.add_row(f"{contender.name}, {workload}", *cells)
    return table


async def main(arguments: argparse.Namespace, url: str) -> None:
    await settings(url)  # only a server that loses nothing counts
    contenders = await play(arguments, url)
    Console(width=120).print(show(contenders, arguments.listeners))


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.processes", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--trips", type=int, default=30, help="round trips a turn; half as many are spaced")
    parser.add_argument("--pause-ms", type=float, default=12.0, help="between two that are spaced")
    parser.add_argument("--listeners", type=int, default=0, help="processes besides that only wait")
    parser.add_argument(
        "--compare", type=Path, metavar="CHECKOUT", help="another checkout, measured in turns with this"
    )
    parser.add_argument("--no-redis", dest="redis", action="store_false")
    parser.add_argument("--url", help="a Postgres to use, on which databases can be created")
    return parser.parse_args(words)


if __name__ == "__main__":
    given = parse()
    with server(given.url) as address:
        asyncio.run(main(given, address))
