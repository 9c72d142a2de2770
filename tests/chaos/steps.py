"""The steps of the fault suite's workflows, and the traces that their bodies leave where dbos_async has no hand in it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import anyio.from_thread

from dbos_async import DBOS, Asked
from tests.chaos.direct import Direct

WRITE_DOWN = """
    insert into chaos.ledger (entry, workflow_id, step, tag, executor) values ($1, $2, $3, $4, $5)
    on conflict (entry) do nothing
"""

blocks: list[float] = []
"""For how long the next bodies of steps are to block the event loop."""
_tries: Counter[str] = Counter()


class _Traces:
    """Where traces go to."""

    ledger: Direct
    executor_id = ""


traces = _Traces()


async def write_down(entry: str, tag: str) -> None:
    """Leave a trace of a step's body where dbos_async has no hand in it."""
    await traces.ledger.fetch(WRITE_DOWN, entry, DBOS.workflow_id, DBOS.step_id, tag, traces.executor_id)


def outcome(tag: str, entry: str, run: str) -> dict[str, str]:
    return {"tag": tag, "entry": entry, "run": run}


@DBOS.step(name="plain")
async def plain(tag: str, run: str) -> dict[str, str]:
    entry = str(uuid4())
    await write_down(entry, tag)
    if blocks:
        time.sleep(blocks.pop())  # noqa: ASYNC251 - the fault that is wanted
    return outcome(tag, entry, run)


@DBOS.step(name="long")
async def long(tag: str, run: str, seconds: float) -> dict[str, str]:
    entry = str(uuid4())
    await write_down(entry, tag)
    await asyncio.sleep(seconds)
    return outcome(tag, entry, run)


@DBOS.step(name="blocking")
def blocking(tag: str, run: str) -> dict[str, str]:
    entry = str(uuid4())
    anyio.from_thread.run(write_down, entry, tag)
    return outcome(tag, entry, run)


@DBOS.step(name="flaky", retries_allowed=True, max_attempts=4, interval_seconds=0.01)
async def flaky(tag: str, run: str) -> dict[str, str]:
    entry = str(uuid4())
    await write_down(entry, tag)
    # Of any four tries in a row at least one succeeds.
    _tries[tag] += 1
    if _tries[tag] % 3 and entry[0] < "8":
        raise ConnectionError("not yet")
    del _tries[tag]
    return outcome(tag, entry, run)


@DBOS.step(name="failing")
async def failing(tag: str, run: str) -> dict[str, str]:
    entry = str(uuid4())
    await write_down(entry, tag)
    raise ValueError(tag, entry, run)


@DBOS.step(name="inside")
async def inside(tag: str, run: str, to: str, topic: str) -> dict[str, str]:
    """Writes, sets an event and sends inside of a step: at least once, each time under its own entry."""
    entry = str(uuid4())
    await write_down(entry, tag)
    await DBOS.write_stream("inside", {"tag": tag, "entry": entry, "n": 0})
    await DBOS.set_event("inside", {"tag": tag, "entry": entry})
    await DBOS.send(to, {"tag": tag, "entry": entry}, topic)
    await DBOS.write_stream("inside", {"tag": tag, "entry": entry, "n": 1})
    return outcome(tag, entry, run)


@DBOS.step(name="endless")
async def endless(tag: str, run: str) -> dict[str, str]:
    await write_down(str(uuid4()), tag)
    await asyncio.sleep(36_000)
    raise AssertionError("Nobody has cancelled it.")


@DBOS.step(name="answering")
async def answering(tag: str, run: str, asked: Asked[dict[str, Any], dict[str, Any]]) -> dict[str, str]:
    """Answers inside of a step: at least once, each time with its own entry."""
    entry = str(uuid4())
    await write_down(entry, tag)
    await asked.answer({"token": entry, "tag": tag})
    return outcome(tag, entry, run)


STEPS: dict[str, Callable[..., Awaitable[dict[str, str]]]] = {
    "plain": plain,
    "blocking": blocking,
    "flaky": flaky,
    "failing": failing,
    "inside": inside,
    "long": long,
    "endless": endless,
}
