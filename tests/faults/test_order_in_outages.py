"""Workflows of several tasks while connections are cut: one consistent execution (W4)."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from dbos_async import DBOS, SetWorkflowID
from tests.support.eventually import eventually
from tests.support.proxy import Proxy
from tests.support.shared_log import Log, check_bodies, ending, forget, replays_alike

pytestmark = pytest.mark.usefixtures("quiet")

MESSAGES = 12


@pytest.fixture(autouse=True)
def _clean() -> None:
    forget()


@DBOS.workflow(name="receives beside its work")
async def receives_beside_its_work(count: int) -> dict[str, Any]:
    log = Log()
    is_over = False

    async def receiver() -> None:
        nonlocal is_over
        for number in range(count):
            await log.receive("t")
            await log.step(f"after message {number}")
        is_over = True

    async def worker(name: str) -> None:
        number = 0
        while not is_over:
            await log.step(f"{name}{number}")
            await DBOS.sleep(0.002)
            number += 1

    await asyncio.gather(receiver(), worker("a"), worker("b"))
    return log.result


@DBOS.workflow(name="sends one after the other")
async def sends(numbers: list[int]) -> None:
    for number in numbers:
        await DBOS.send("w", f"message-{number}-17", "t")
        await DBOS.sleep(0.01)


def received(count: int) -> list[str]:
    return [f"t received message-{number}-17" for number in range(count)]


async def start(name: str, workflow: Any, argument: Any) -> None:
    with SetWorkflowID(name):
        await DBOS.start_workflow(workflow, argument)


async def check(url: str, connection: Any, result: dict[str, Any], count: int) -> None:
    assert [entry for entry in result["seen"] if "received" in entry] == received(count)
    check_bodies(result)
    await replays_alike(url, connection, result)


async def test_w4_m1_a_handoff_to_one_of_several_tasks_whose_answer_is_lost(database_url: str, connection: Any) -> None:
    waits = "select count(*) = 1 from dbos_async.steps where verb = 'recv' and completed_at is null"
    is_received = "select received_at is not null from dbos_async.messages"
    async with Proxy(database_url) as proxy:
        async with DBOS(proxy.url):
            await start("w", receives_beside_its_work, 1)
            await eventually(lambda: connection.fetchval(waits), "it waits")
            proxy.mute(b"message-0-17")
            await start("sender", sends, [0])
            await eventually(lambda: connection.fetchval(is_received), "it was handed off")
            await proxy.heal()
            proxy.cut()
            result = await ending(connection)
        await check(database_url, connection, result, 1)


@pytest.mark.parametrize("seed", range(3))
async def test_w4_m1_connections_are_cut_again_and_again_during_handoffs(
    seed: int, database_url: str, connection: Any
) -> None:
    chance = random.Random(seed)
    async with Proxy(database_url) as proxy:
        async with DBOS(proxy.url):

            async def cut() -> None:
                for _ in range(8):
                    await asyncio.sleep(chance.uniform(0, 0.1))
                    if chance.random() < 0.5:
                        proxy.cut(chance.choice((0.5, 1)))
                    else:
                        await proxy.orphan(0.02, 0.02)

            await start("w", receives_beside_its_work, MESSAGES)
            await start("sender", sends, list(range(MESSAGES)))
            await cut()
            result = await ending(connection)
        await check(database_url, connection, result, MESSAGES)
