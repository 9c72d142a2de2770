"""Sends while 100,000 ended workflows are removed: ``python -m tests.benchmarks.purge [COUNT [SENDS_PER_SECOND [PER_SECOND]]]``.

Each of them has four steps, two messages and one that is delayed, an event and two values of a stream; a thousand old ones that
still run stand before them. One process sends at a steady rate, first alone, then while another process purges, then alone again.
A send counts from the moment at which it was due. Uses $DBOS_DATABASE_URL, else a Postgres of its own. At the end every table is
compared.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import asyncpg

from dbos_async import DBOSClient, embedded
from tests.benchmarks.harness import ROOT
from tests.benchmarks.workloads import percentile
from tests.support.populations import TABLES, Life, all_rows, make

OLD_SECONDS = 3600.0
ALONE_SECONDS = 20.0
DESTINATIONS = 100
CHUNK = 5000


class Sender:
    """Sends at a steady rate, and notes how long each send took from the moment at which it was due."""

    def __init__(self, client: DBOSClient, per_second: float) -> None:
        self._client, self._per_second = client, per_second
        self.seconds: list[float] = []
        self.sent = 0

    async def send_during(self, end: asyncio.Event) -> list[float]:
        """Send until the event; how long each of those sends took."""
        self.seconds = []
        began, due = time.perf_counter(), 0
        async with asyncio.TaskGroup() as group:
            while not end.is_set():
                while due <= (time.perf_counter() - began) * self._per_second:
                    group.create_task(self._send(began + due / self._per_second))
                    due += 1
                await asyncio.sleep(0.001)
        return self.seconds

    async def _send(self, due_at: float) -> None:
        self.sent += 1
        await self._client.send(f"destination {self.sent % DESTINATIONS}", self.sent)
        self.seconds.append(time.perf_counter() - due_at)


async def populate(connection: asyncpg.Connection[asyncpg.Record], count: int) -> None:
    """Old workflows that have ended, others that have not, and those that are sent to."""
    await make(connection, *[Life(f"runs {n}", status="PENDING", ended_ago=None, lasted=1e6) for n in range(1000)])
    for first in range(0, count, CHUNK):
        chunk = range(first, min(first + CHUNK, count))
        await make(connection, *[Life(f"old {n}", ended_ago=2 * OLD_SECONDS) for n in chunk])
    await make(connection, *[Life(f"young {n}", ended_ago=60) for n in range(1000)])
    none: dict[str, Any] = dict.fromkeys(("steps", "received", "waiting", "delayed", "events", "stream"), 0)
    await make(
        connection,
        *[Life(f"destination {n}", status="PENDING", ended_ago=None, **none) for n in range(DESTINATIONS)],
    )
    await connection.execute("vacuum analyze")
    await connection.execute("checkpoint")


async def remove(url: str, per_second: int) -> None:
    """The process that purges."""
    async with DBOSClient(url) as client:
        began = time.perf_counter()
        result = await client.purge(OLD_SECONDS, per_second=per_second)
        print(json.dumps({**result.model_dump(), "seconds": time.perf_counter() - began}))


async def alone(sender: Sender) -> list[float]:
    """Send for a while, with nothing else going on."""
    end = asyncio.Event()
    asyncio.get_running_loop().call_later(ALONE_SECONDS, end.set)
    return await sender.send_during(end)


async def while_purging(sender: Sender, url: str, per_second: int) -> tuple[list[float], dict[str, float]]:
    """Send until another process has purged everything; also what that process said."""
    purger = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.benchmarks.purge", "remove", url, str(per_second),
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
    )  # fmt: skip
    end = asyncio.Event()

    async def wait() -> bytes:
        output, _ = await purger.communicate()
        end.set()
        return output

    waiting = asyncio.create_task(wait())
    seconds = await sender.send_during(end)
    return seconds, json.loads(await waiting)


async def measure(url: str, count: int, sends_per_second: float, per_second: int) -> None:
    """Everything on one database."""
    async with DBOSClient(url, migrate=True) as client:
        connection = await asyncpg.connect(url)
        await populate(connection, count)
        kept = await all_rows(connection, but="old %")
        sender = Sender(client, sends_per_second)
        figures = {"before the purge": await alone(sender)}
        figures["while it purges"], said = await while_purging(sender, url, per_second)
        figures["after the purge"] = await alone(sender)
        left = await all_rows(connection)
        is_sent = {key: key[0] == "messages" and key[1].startswith("destination ") for key in left}
        sent = sum(len(rows) for key, rows in left.items() if is_sent[key])
        others = {key: rows for key, rows in left.items() if not is_sent[key]}
        await connection.close()
    for when, seconds in figures.items():
        print(
            f"{len(seconds)} sends {when}, {sends_per_second:g} a second: "
            f"p50 {percentile(seconds, 0.5) * 1e3:.2f} ms, p99 {percentile(seconds, 0.99) * 1e3:.2f} ms, "
            f"worst {max(seconds) * 1e3:.0f} ms"
        )
    print(f"{said['count']} workflows removed in {said['seconds']:.1f} s, {said['left']} left")
    assert said["count"] == count, "all that are old are removed"
    assert others == kept, f"and nothing else, in {len(TABLES)} tables"
    assert sent == sender.sent, "every send is there"
    print("nothing else was removed, and every message is there")


async def main(count: int, sends_per_second: int, per_second: int) -> None:
    url = os.environ.get("DBOS_DATABASE_URL")
    if url:
        return await measure(url, count, sends_per_second, per_second)
    with tempfile.TemporaryDirectory(prefix="dbos-purge-") as folder:
        server = await embedded.start(Path(folder))
        try:
            await measure(server.url, count, sends_per_second, per_second)
        finally:
            await server.stop()


if __name__ == "__main__":
    if sys.argv[1:2] == ["remove"]:
        asyncio.run(remove(sys.argv[2], int(sys.argv[3])))
    else:
        asyncio.run(main(*map(int, [*sys.argv[1:], *("100000", "1000", "1000")[len(sys.argv) - 1 :]])))
