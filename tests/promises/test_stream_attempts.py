"""Stream writers that fail, are killed and lose answers at random statements, beside others: promises S1, S2, S8."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any
from uuid import uuid4

import pytest

from dbos_async import DBOS, DBOSClient, SetWorkflowID
from tests.support.shown import ONCE, Shown, check_followed, check_rows, follow, followed_values
from tests.support.statement_faults import KINDS, faults

pytestmark = pytest.mark.usefixtures("dbos")

MODES = ("rewind", "continue", "skip", "append")
STATEMENTS = {"APPEND", "REWIND", "WRITTEN", "WRITE", "RECORD"}


class Chance:
    """What decides in a run of the test; set by each test."""

    random = Random(0)
    failures = 0


@DBOS.step(retries_allowed=True, max_attempts=100, interval_seconds=0)
async def model(who: str, mode: Any) -> list[Any]:
    """Says something else at each attempt, and fails now and then."""
    chance, attempt = Chance.random, uuid4().hex[:6]
    length = chance.randint(1, 14) if mode in ("rewind", "append") else 14
    limits: Any = {"max_values": chance.choice((1, 3, 1000)), "max_seconds": chance.choice((0, 0.001, 0.02))}
    async with DBOS.stream_writer("s", on_retry=mode, **limits) as out:
        for n in range(len(out.written) if mode == "continue" else 0, length):
            await out.write([who, attempt, n])
            act = chance.random()
            if act < 0.1:
                await out.flush()
            elif act < 0.3:
                await asyncio.sleep(chance.choice((0, 0.001, 0.003)))
            elif act < 0.36 and Chance.failures > 0:
                Chance.failures -= 1
                raise OSError("the model fails")
    return [attempt, length]


@DBOS.workflow()
async def talk(modes: dict[str, str]) -> dict[str, Any]:
    """Steps that stream beside each other, a task that writes, and a writer in the body."""

    async def words() -> None:
        for n in range(8):
            await DBOS.write_stream("s", ["w", "", n])

    async def tokens() -> None:
        async with DBOS.stream_writer("s", max_values=3, max_seconds=0) as out:
            for n in range(10):
                await out.write(["v", "", n])
                if n % 4 == 3:
                    await DBOS.sleep(0.001)

    async with asyncio.TaskGroup() as group:
        steps = {who: group.create_task(model(who, mode)) for who, mode in modes.items()}
        group.create_task(words())
        group.create_task(tokens())
    return {who: step.result() for who, step in steps.items()}


@pytest.mark.parametrize("seed", range(24))
async def test_s1_s2_s8_a_page_always_shows_a_prefix_of_one_attempt(
    database_url: str, connection: Any, seed: int
) -> None:
    Chance.random = chance = Random(seed)
    Chance.failures = 4
    steps = {"a": MODES[seed % 4], "b": chance.choice(MODES)}
    modes = {**steps, "w": ONCE, "v": ONCE}
    happened: list[tuple[str, str]] = []

    def choose(statement: str) -> str | None:
        if statement in STATEMENTS and len(happened) < 6 and chance.random() < 0.12:
            return chance.choice(KINDS)
        return None

    async with DBOSClient(database_url) as client:
        with faults(connection, "w", choose, happened), SetWorkflowID("w"):
            handle = await DBOS.start_workflow(talk, steps)
            here, there = Shown(modes), Shown(modes)
            reading = asyncio.gather(
                follow(DBOS.read_stream_entries("w", "s"), here),
                follow(client.read_stream_entries("w", "s"), there),
                followed_values(DBOS.read_stream("w", "s")),
                followed_values(client.read_stream("w", "s"), 0.0005),
            )
            async with asyncio.timeout(30):
                result = await handle.get_result()
                *_, values, slow_values = await reading
    late = [(who, attempt, n) async for who, attempt, n in DBOS.read_stream("w", "s")]
    assert [value for _, value in here.values] == [value for _, value in there.values] == late
    for who, mode in steps.items():
        attempt, length = result[who]
        if mode == "rewind":
            assert here.of(who) == [(attempt, n) for n in range(length)]
        elif mode == "append":
            assert [n for said, n in here.of(who) if said == attempt] == list(range(length))
        else:
            assert [n for _, n in here.of(who)] == list(range(length))
    assert len(here.of("w")) == 8
    assert len(here.of("v")) == 10
    check_followed(values, modes)
    check_followed(slow_values, modes)
    await check_rows(connection, "w", "s")
