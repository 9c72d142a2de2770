"""One executor among others. It starts workflows that go on until a message ends them, and runs until it gets a signal.

    python -m tests.support.programs.executor URL NAME COUNT [--kinds KIND …] [--ledger FILE]

COUNT workflows are started, one of each kind after the other, with the ids ``NAME KIND 0``, ``NAME KIND 1`` …
The ledger gets a line each time the body of a step runs.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dbos_async import DBOS, DBOSClient, SendMessage, SetWorkflowID

KINDS = ("waiting", "sleeping", "stepping")

_ledger: list[Path] = []


@DBOS.step()
async def tick(n: int) -> int:
    for file in _ledger:
        with file.open("a") as lines:
            lines.write(f"{DBOS.workflow_id} {n}\n")
    await asyncio.sleep(0.2)
    return n + 1


@DBOS.workflow(name="member")
async def member(kind: str) -> list[Any]:
    """Does one thing again and again, until a message ends it."""
    me, n = str(DBOS.workflow_id), 0
    while kind != "waiting" and await DBOS.recv("go", 0) is None:
        if kind == "stepping":
            n = await tick(n)
            continue
        if kind == "sleeping":
            await DBOS.sleep(1)
        elif kind == "writing":
            await DBOS.set_event("n", n)
            await DBOS.write_stream("n", n)
            await DBOS.send(me, n, "n")
            await DBOS.sleep(0.02)
        n += 1
    return [kind, n, await DBOS.recv("end", None)]


async def work(n: int) -> int:
    """A workflow that only the executor of one name knows."""
    return await tick(n)


def ids(name: str, count: int, kinds: Sequence[str] = KINDS) -> list[str]:
    """The workflows that an executor of this name starts."""
    return [f"{name} {kinds[n % len(kinds)]} {n}" for n in range(count)]


async def let_end(client: DBOSClient, workflow_ids: list[str]) -> list[list[Any]]:
    """Tell these workflows to end, and return their results."""
    for topic in ("end", "go"):
        await client.send_bulk([SendMessage(workflow_id, "the end", topic) for workflow_id in workflow_ids])
    handles = await asyncio.gather(*(client.retrieve_workflow(workflow_id) for workflow_id in workflow_ids))
    results: list[list[Any]] = await asyncio.gather(*(handle.get_result() for handle in handles))
    return results


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("name")
    parser.add_argument("count", type=int)
    parser.add_argument("--kinds", nargs="*", default=KINDS)
    parser.add_argument("--ledger", type=Path)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    if given.ledger:
        _ledger.append(given.ledger)
    DBOS.workflow(name=f"work of {given.name}")(work)
    async with DBOS(given.url, executor_id=given.name):
        for workflow_id in ids(given.name, given.count, given.kinds):
            with SetWorkflowID(workflow_id):
                await DBOS.start_workflow(member, workflow_id.split()[1])
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
