"""Waiting without LISTEN: what it costs at rest, and how late messages of another process are.

``python -m tests.benchmarks.polling [WAITERS]`` uses $DBOS_DATABASE_URL, else the embedded Postgres, and compares with listening.
The server must be on this machine, since its processor time is read from /proc.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from dbos_async import DBOS, DBOSClient, SetWorkflowID, embedded
from dbos_async._executor import launched
from tests.benchmarks.harness import ROOT, end
from tests.benchmarks.workloads import percentile
from tests.support.databases import execute, new_database
from tests.support.eventually import eventually

AMOUNTS: Final = {"full": (1000, 20.0), "quick": (1000, 5.0), "tiny": (20, 0.5)}
"""How many wait, and for how many seconds each part is measured."""
MESSAGES_PER_SECOND: Final = 40.0
SETTLE_SECONDS: Final = 3.0
TICKS: Final = os.sysconf("SC_CLK_TCK")

_delays: list[float] = []


@DBOS.workflow(name="polling benchmark: take")
async def take() -> None:
    """Takes the times at which messages were sent."""
    while True:
        sent_at = await DBOS.recv(timeout_seconds=None)
        _delays.append(time.time() - sent_at)


def _of_process(place: Path) -> tuple[int, float]:
    """The parent of a process, and the processor seconds of it and of its children that have ended."""
    fields = (place / "stat").read_text().rpartition(")")[2].split()
    return int(fields[1]), sum(map(int, fields[11:15])) / TICKS


async def _postmaster(database: Any) -> int:
    async with database.postgres.acquire() as connection:
        backend = await connection.fetchval("select pg_backend_pid()")
    return _of_process(Path(f"/proc/{backend}"))[0]


def _server_seconds(postmaster: int) -> float:
    """The processor seconds of all processes of the server so far."""
    seconds = _of_process(Path(f"/proc/{postmaster}"))[1]
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent, its = _of_process(place)
        except OSError:
            continue  # it has ended
        seconds += its if parent == postmaster else 0.0
    return seconds


def _own_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _shares(postmaster: int, work: Any) -> tuple[float, float]:
    """The share of a core that this process and the server take during some work, in percent."""
    began, own, server = time.perf_counter(), _own_seconds(), _server_seconds(postmaster)
    await work
    seconds = time.perf_counter() - began
    return (_own_seconds() - own) / seconds * 100, (_server_seconds(postmaster) - server) / seconds * 100


async def _send(url: str, waiters: int, seconds: float) -> None:
    """Let another process send to waiters at random."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.benchmarks.polling", "send", url, str(waiters), str(seconds),
        cwd=ROOT, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        assert await process.wait() == 0, "the sender has failed"
    finally:
        await end(process)


async def send(url: str, waiters: int, seconds: float) -> None:
    """The other process."""
    async with DBOSClient(url) as client:
        give_up_at = time.monotonic() + seconds
        while time.monotonic() < give_up_at:
            await client.send(f"w{random.randrange(waiters)}", time.time())
            await asyncio.sleep(random.expovariate(MESSAGES_PER_SECOND))


async def measure(url: str, waiters: int, seconds: float, *, listen: bool) -> dict[str, float]:
    """So many wait; nothing happens for a while, and then messages come."""
    async with DBOS(url, listen=listen, max_running=waiters + 100):
        here = launched.executor()
        postmaster = await _postmaster(here.database)
        for n in range(waiters):
            with SetWorkflowID(f"w{n}"):
                await DBOS.start_workflow(take)
        await eventually(lambda: here.slots.waiting >= waiters, give_up_after_seconds=120)
        await asyncio.sleep(min(SETTLE_SECONDS, seconds))
        own, server = await _shares(postmaster, asyncio.sleep(seconds))
        own_busy, server_busy = await _shares(postmaster, _send(url, waiters, seconds))
        delays = list(_delays)
        _delays.clear()
    how = "listening" if listen else "polling"
    return {
        f"{how}: p50, ms": percentile(delays, 0.5) * 1000,
        f"{how}: p99, ms": percentile(delays, 0.99) * 1000,
        f"{how}: at rest, % of a core, process": own,
        f"{how}: at rest, % of a core, server": server,
        f"{how}: busy, % of a core, process": own_busy,
        f"{how}: busy, % of a core, server": server_busy,
    }


async def study(url: str, amount: str) -> dict[str, float]:
    """For the command of all benchmarks."""
    waiters, seconds = AMOUNTS[amount]
    found: dict[str, float] = {}
    for listen in (True, False):
        async with new_database(url, f"benchmark_polling_{os.getpid()}") as database:
            await execute(database, "checkpoint")
            found |= await measure(database, waiters, seconds, listen=listen)
    return found


async def main(waiters: int) -> None:
    own = None if os.environ.get("DBOS_DATABASE_URL") else await embedded.start()
    try:
        url = os.environ["DBOS_DATABASE_URL"] if own is None else own.url
        for listen in (True, False):
            async with new_database(url, f"benchmark_polling_{os.getpid()}") as database:
                for name, figure in (await measure(database, waiters, 20.0, listen=listen)).items():
                    print(f"{name}: {figure:,.2f}", flush=True)
    finally:
        if own is not None:
            await own.stop()


if __name__ == "__main__":
    if sys.argv[1:2] == ["send"]:
        asyncio.run(send(sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
    else:
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
