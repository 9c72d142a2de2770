"""An executor with a brief lease for tests of trouble: it starts some workflows and runs until it gets a signal.

    python -m tests.support.programs.troubled URL NAME [--start KIND …] [--lease SECONDS] [--id EXECUTOR_ID]
        [--ledger FILE] [--seconds SECONDS] [--max-blocked SECONDS] [--drain SECONDS]

The workflows have the ids ``NAME KIND``. The ledger gets a line each time the body of a step begins.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import asyncpg

from dbos_async import DBOS, SetWorkflowID
from dbos_async._lifecycle import leases

_given = argparse.Namespace(ledger=None, url="", seconds=0.0)


def _note() -> None:
    if _given.ledger:
        with _given.ledger.open("a") as lines:
            lines.write(f"{DBOS.workflow_id}\n")


@DBOS.step()
async def pause() -> str:
    _note()
    await asyncio.sleep(_given.seconds)
    return "paused"


@DBOS.step()
async def block() -> str:
    _note()
    time.sleep(_given.seconds)  # noqa: ASYNC251 (this is the fault)
    return "blocked"


@DBOS.step()
async def pay(destination_id: str) -> None:
    _note()
    connection = await asyncpg.connect(_given.url)
    async with connection.transaction():
        await DBOS.send(destination_id, "paid", connection=connection)
        print("paying", flush=True)
        await asyncio.Event().wait()


@DBOS.workflow(name="waiting", max_recovery_attempts=2)
async def waiting() -> Any:
    return await DBOS.recv("go", timeout_seconds=None)


@DBOS.workflow(name="pausing")
async def pausing() -> str:
    return await pause()


@DBOS.workflow(name="blocking")
async def blocking() -> str:
    return await block()


@DBOS.workflow(name="grinding")
async def grinding() -> None:
    while await block():
        pass


@DBOS.workflow(name="paying")
async def paying() -> None:
    await pay(str(DBOS.workflow_id).replace("paying", "waiting"))


@DBOS.workflow(name="counting", max_recovery_attempts=1)
async def counting() -> int:
    """Begins a step for each message, until the message 0."""
    n = 0
    while await DBOS.recv("go", None):
        await pause()
        n += 1
    return n


WORKFLOWS = {
    "waiting": waiting,
    "pausing": pausing,
    "blocking": blocking,
    "grinding": grinding,
    "paying": paying,
    "counting": counting,
}


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("name")
    parser.add_argument("--start", nargs="*", default=())
    parser.add_argument("--lease", type=float, default=leases.LEASE_SECONDS)
    parser.add_argument("--id")
    parser.add_argument("--ledger", type=Path)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--max-blocked", type=float)
    parser.parse_args(namespace=_given)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    leases.LEASE_SECONDS = _given.lease
    options: dict[str, Any] = {}
    if _given.max_blocked is not None:
        options["max_blocked_seconds"] = _given.max_blocked
    async with DBOS(_given.url, executor_id=_given.id or _given.name, **options):
        for kind in _given.start:
            with SetWorkflowID(f"{_given.name} {kind}"):
                await DBOS.start_workflow(WORKFLOWS[kind])
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
