"""The steps of random programs. They take a random time, and return what they were told."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from dbos_async import DBOS
from tests.replay import ledger
from tests.replay.ledger import Said

SLOWEST_SECONDS = 0.012


def _begin(tag: str, length: int, last: str) -> tuple[Said, float]:
    said: Said = [tag, length, last]
    ledger.write(str(DBOS.workflow_id), said)
    return said, random.choice((0.0, 0.0, random.uniform(0, SLOWEST_SECONDS / 3), random.uniform(0, SLOWEST_SECONDS)))


@DBOS.step()
async def work(tag: str, length: int, last: str) -> Said:
    said, seconds = _begin(tag, length, last)
    if seconds:
        await asyncio.sleep(seconds)
    return said


@DBOS.step()
def work_in_thread(tag: str, length: int, last: str) -> Said:
    said, seconds = _begin(tag, length, last)
    time.sleep(seconds)
    return said


@DBOS.step(retries_allowed=True, max_attempts=3, interval_seconds=0.001, backoff_rate=1.0)
async def flaky(tag: str, length: int, last: str) -> Said:
    said, seconds = _begin(tag, length, last)
    await asyncio.sleep(seconds / 2)
    if random.random() < 0.5:
        raise ValueError(*said)
    return said


@DBOS.step()
async def failing(tag: str, length: int, last: str) -> Said:
    said, seconds = _begin(tag, length, last)
    await asyncio.sleep(seconds)
    raise ValueError(*said)


@DBOS.step()
async def endless(tag: str, length: int, last: str) -> Said:
    _begin(tag, length, last)
    await asyncio.sleep(3600)
    raise AssertionError("Nobody has cancelled it.")


@DBOS.step(timeout_seconds=SLOWEST_SECONDS / 2)
async def limited(tag: str, length: int, last: str) -> Said:
    said, seconds = _begin(tag, length, last)
    await asyncio.sleep(seconds)
    return said


@DBOS.step(retries_allowed=True, max_attempts=50, interval_seconds=0.001, backoff_rate=1.0)
async def speak(key: str, value: Said | str) -> None:
    """Write some words, the value and more words. An attempt that fails has written some of them."""
    attempt, count = random.randrange(10**9), random.randint(0, 3)
    words: list[Any] = [f"word {number} of {attempt}" for number in range(count)]
    async with DBOS.stream_writer(key, max_seconds=0.001) as out:
        for word in (*words, value, f"end {count} of {attempt}"):
            await out.write(word)
            if random.random() < 0.3:
                await asyncio.sleep(random.uniform(0, SLOWEST_SECONDS / 3))
            if random.random() < 0.15:
                raise ConnectionError("the model is away")
