"""Questions whose askers and answerers are killed, and calls that are cancelled at any moment: promise C2."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dbos_async import DBOS, DBOSClient, Question, SetWorkflowID
from dbos_async._executor import launched
from tests.support.abandoning import WAYS, Watch, moments
from tests.support.asking import QUOTE, regular, shop
from tests.support.crashing import killed_and_taken_over
from tests.support.processes import running
from tests.support.proxy import Proxy

BOUNDARIES = range(1, 25)
"""A message may be handed over, which saves a statement. So there are one or two more at times."""
EXPECTED = {
    "a": "A", "quote": 3, "refused": "no stock", "late": 4, "step": 6, "keyed": [5, 5], "stop": 4,
    "told": [True, True, False, True, True, True],
}  # fmt: skip


def check(story: dict[str, Any]) -> None:
    assert story["result"] == EXPECTED
    assert story["sent"] == sorted(["1", "2", "abc", "keyed", "late", "refuse", "step", "stop"]), "each question once"
    verbs = Counter((who, verb) for who, _, verb, _ in story["steps"])
    late = verbs.pop(("w", "get_answer"), 0)
    assert late <= 1, "in a run that was killed the answer may have come in time"
    assert verbs == {
        ("w", "step"): 1, ("w", "start_workflow"): 1, ("w", "ask"): 7, ("w", "get_result"): 1, ("child", "recv_envelope"): 6,
        ("child", "answer"): 5, ("child", "refuse"): 1, ("child", "sleep"): 1, ("child", "step"): 1,
    }  # fmt: skip


@pytest.mark.parametrize("at", BOUNDARIES)
@pytest.mark.parametrize("mode", ["before", "after"])
async def test_c2_a_conversation_killed_at_any_step_ends_as_if_it_had_not_been(
    database_url: str, tmp_path: Path, mode: str, at: int
) -> None:
    check(await killed_and_taken_over(database_url, "conversation", tmp_path / "ran", mode, at))


@pytest.mark.parametrize("at", BOUNDARIES[::2])
async def test_c2_a_conversation_killed_while_a_statement_is_under_way(
    database_url: str, tmp_path: Path, at: int
) -> None:
    check(await killed_and_taken_over(database_url, "conversation", tmp_path / "ran", "during", at))


@pytest.mark.parametrize("seed", range(3))
async def test_c2_of_two_executors_that_ask_and_answer_one_is_killed(
    database_url: str, connection: Any, seed: int
) -> None:
    chance = random.Random(seed)
    async with (
        running("asking", database_url, "one") as one,
        running("asking", database_url, "two") as two,
        DBOSClient(database_url) as client,
    ):
        await one.says("ready")
        await two.says("ready")
        shops = [f"shop {n}" for n in range(4)]
        for each in shops:
            with SetWorkflowID(each):
                await client.start_workflow("shop", 60)
        askers = [await client.start_workflow("regular", shops, 40) for _ in range(6)]
        await asyncio.sleep(chance.uniform(0.05, 0.6))
        await chance.choice((one, two)).end(signal.SIGKILL)
        async with asyncio.timeout(60):
            for asker in askers:
                assert await asker.get_result() == [100 * n for n in range(40)]
            for each in shops:
                assert await (await client.retrieve_workflow(each)).get_result() == [True] * 60
    asked = await connection.fetch("select count(*), count(answered_at) as answered from dbos_async.messages")
    assert [tuple(row) for row in asked] == [(240, 240)], "each question once"


NUMBER = Question("number", int, int)
ABANDONED: list[str] = []


@DBOS.workflow(name="counts")
async def counts() -> int:
    answered = 0
    while (asked := await DBOS.recv_envelope(NUMBER, None)) is not None and asked.payload >= 0:
        answered += await asked.answer(asked.payload)
    return answered


@DBOS.workflow(name="impatient asker")
async def asks(way: str, count: int, seed: int) -> list[int]:
    """Abandons its questions again and again; what it hears is the answer to what it asked."""
    moment, heard, n = moments(seed), list[int](), 0
    while ABANDONED.count(way) < count:
        n += 1
        try:
            if await WAYS[way](DBOS.ask("counter", NUMBER, n), moment()) != n:
                return [-n]
            heard.append(n)
        except (TimeoutError, asyncio.CancelledError):
            ABANDONED.append(way)
    return heard


@pytest.mark.parametrize("way", WAYS)
async def test_c2_abandoned_questions_mix_no_answers_and_leave_nothing(dbos: DBOS, connection: Any, way: str) -> None:
    ABANDONED.clear()
    watch = Watch(connection, launched.executor().database)
    with SetWorkflowID("counter"):
        counter = await DBOS.start_workflow(counts)
    asker = await DBOS.start_workflow(asks, way, 334, 7)  # a thousand with the other ways
    async with asyncio.timeout(60):
        heard = await asker.get_result()
        assert -1 not in [min(each, 0) for each in heard]
        await DBOS.send("counter", -1, NUMBER)
        await counter.get_result()
    payloads = await connection.fetch(
        "select payload::text::int as n from dbos_async.messages where payload::text <> '-1'"
    )
    asked = [row["n"] for row in payloads]
    assert len(asked) == len(set(asked)), "no question was asked twice"
    assert set(heard) <= set(asked)
    await watch.nothing_is_left()


@pytest.mark.parametrize("way", WAYS)
async def test_c2_questions_abandoned_outside_of_workflows_leave_nothing(
    dbos: DBOS, database_url: str, connection: Any, way: str
) -> None:
    async with DBOSClient(database_url) as client:
        watch = Watch(connection, launched.executor().database, client._database)
        with SetWorkflowID("counter"):
            counter = await DBOS.start_workflow(counts)
        moment, heard = moments(11), list[int]()

        async def abandon(n: int) -> None:
            front = (DBOS, client)[n % 2]
            with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                heard.append(n if await WAYS[way](front.ask("counter", NUMBER, n), moment()) == n else -n)

        for round_ in range(10):
            await asyncio.gather(*(abandon(round_ * 34 + n) for n in range(34)))
        assert [n for n in heard if n < 0] == []
        await DBOS.send("counter", -1, NUMBER)
        await counter.get_result()
        await watch.nothing_is_left()


async def test_c2_d4_questions_and_answers_over_connections_that_break_are_there_once(
    database_url: str, connection: Any
) -> None:
    count, chance = 40, random.Random(1)
    async with Proxy(database_url) as proxy, DBOS(proxy.url), DBOSClient(proxy.url) as client:
        with SetWorkflowID("shop"):
            shops = await DBOS.start_workflow(shop, 2 * count)
        asker = await DBOS.start_workflow(regular, ["shop"], count)

        async def ask_all() -> list[int]:
            return [(await client.ask("shop", QUOTE, "x" * n, timeout_seconds=None)).cents for n in range(count)]

        task = asyncio.create_task(ask_all())
        while not task.done():
            await asyncio.sleep(chance.uniform(0.01, 0.1))
            proxy.cut()
        assert await task == await asker.get_result() == [100 * n for n in range(count)]
        assert await shops.get_result() == [True] * (2 * count)
    assert await connection.fetchval("select count(*) from dbos_async.messages") == 2 * count
