"""Loops over messages, versions and streams that are cancelled at any moment lose nothing and leave nothing behind."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing
from typing import Any

import pytest

from dbos_async import DBOS, DBOSClient, SetWorkflowID, StreamOf
from dbos_async._database.database import Database
from dbos_async._executor import launched
from tests.support.abandoning import WAYS, Watch, moments
from tests.support.eventually import eventually

COUNT = 170
ABANDONED: list[str] = []


@DBOS.workflow(name="is followed")
async def is_followed() -> None:
    n = 0
    while (pause := await DBOS.recv("go on", None)) is not None:
        await DBOS.set_event("e", n)
        await DBOS.write_stream("s", n)
        await DBOS.sleep(pause)
        n += 1


@DBOS.workflow(name="impatient loops")
async def loops(way: str, count: int, seed: int) -> list[Any]:
    """Abandons its loops over messages again and again, and begins new ones, until it has every message."""
    moment, got = moments(seed), list[Any]()

    async def receive() -> None:
        async for message in DBOS.messages("t"):
            got.append(message.payload)
            if len(got) == count:
                break

    while len(got) < count:
        try:
            await WAYS[way](receive(), moment())
        except (TimeoutError, asyncio.CancelledError):
            ABANDONED.append(way)
    return got


async def watch(front: type[DBOS] | DBOSClient, seen: list[int]) -> None:
    async with aclosing(front.watch_event("w", "e", after=max(seen, default=0))) as versions:
        async for each in versions:
            seen.append(each.version)  # noqa: PERF401 - what was seen before the cancellation counts


async def read(front: type[DBOS] | DBOSClient, seen: list[int]) -> None:
    async with aclosing(front.read_streams(StreamOf("w", "s", len(seen)), StreamOf("w", "nothing"))) as parts:
        async for part in parts:
            seen.append(part.offset)  # noqa: PERF401 - as above


@DBOS.workflow(name="impatient followers")
async def follows(way: str, count: int, seed: int) -> list[list[int]]:
    """Abandons its reads so many times, and goes on after what it has seen."""
    moment, seen = moments(seed), (list[int](), list[int]())
    for n in range(count):
        try:
            await WAYS[way]((watch, read)[n % 2](DBOS, seen[n % 2]), moment())
        except (TimeoutError, asyncio.CancelledError):
            pass
        else:
            raise AssertionError("It has ended.")
    return list(seen)


@pytest.fixture
async def followed(dbos: DBOS) -> Any:
    at_rest = len(launched.database().wakeups)
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(is_followed)
    for _ in range(200):
        await DBOS.send("w", 0.005, "go on")

    async def nothing_is_left(*others: Database) -> None:
        await DBOS.send("w", None, "go on")
        await handle.get_result()
        await eventually(lambda: len(launched.database().wakeups) == at_rest, "nobody watches any more")
        for other in others:
            assert len(other.wakeups) == 0

    return nothing_is_left


def check(seen: list[list[int]]) -> None:
    versions, offsets = seen
    assert versions == sorted(set(versions)), "none is older than one that was seen"
    assert offsets == list(range(len(offsets))), "each value once, in order"


@pytest.mark.parametrize("way", WAYS)
async def test_c3_m1_abandoned_loops_lose_no_message(dbos: DBOS, connection: Any, way: str) -> None:
    watched = Watch(connection, launched.executor().database)
    pause = moments(1)
    handle = await DBOS.start_workflow(loops, way, COUNT, 2)
    for n in range(COUNT):
        await DBOS.send(handle.workflow_id, n, "t")
        await asyncio.sleep(pause())
    assert await asyncio.wait_for(handle.get_result(), 60) == list(range(COUNT))
    assert ABANDONED.count(way) >= 170, "five hundred with the other ways"
    await watched.nothing_is_left()


@pytest.mark.parametrize("way", WAYS)
async def test_c3_s5_abandoned_followers_in_a_workflow_miss_nothing(
    dbos: DBOS, connection: Any, followed: Any, way: str
) -> None:
    handle = await DBOS.start_workflow(follows, way, 340, 3)
    seen = await asyncio.wait_for(handle.get_result(), 60)
    check(seen)
    await followed()


async def test_c3_s5_abandoned_followers_outside_of_workflows_miss_nothing(
    dbos: DBOS, database_url: str, followed: Any
) -> None:
    async with DBOSClient(database_url) as client:
        moment, chance = moments(4), random.Random(5)

        async def impatient(number: int) -> list[list[int]]:
            front, seen = (DBOS, client)[number % 2], (list[int](), list[int]())
            for n in range(50):
                way = WAYS[chance.choice(list(WAYS))]
                with pytest.raises((TimeoutError, asyncio.CancelledError)):
                    await way((watch, read)[n % 2](front, seen[n % 2]), moment())
            return list(seen)

        for seen in await asyncio.gather(*(impatient(number) for number in range(20))):
            check(seen)
        await followed(client._database)
