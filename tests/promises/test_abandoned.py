"""Calls that are cancelled at any moment leave nothing behind, and what they had taken is not lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable
from contextlib import aclosing
from typing import Any

import pytest

from dbos_async import DBOS, DBOSClient, SetWorkflowID
from dbos_async._executor import launched
from dbos_async._messaging import recv
from tests.conftest import Connect
from tests.support.abandoning import WAYS, Watch, by_timeout, moments
from tests.support.eventually import eventually
from tests.support.races import CLAIM_BY_HAND, blocked
from tests.support.statements import SETTING, Row, execute, step

SPOKEN = 10

ABANDONED: list[str] = []


@DBOS.workflow(name="speaks")
async def speaks() -> None:
    for n in range(SPOKEN):
        await DBOS.set_event(f"e{n}", n)
        await DBOS.write_stream("s", n)
    await DBOS.recv("never", None)


@DBOS.workflow(name="impatient receiver")
async def receives(way: str, count: int, seed: int) -> list[Any]:
    """Abandons its receives again and again, until it has every message."""
    moment, got = moments(seed), list[Any]()
    while len(got) < count:
        try:
            got.append(await WAYS[way](DBOS.recv("t", None), moment()))
        except (TimeoutError, asyncio.CancelledError):
            ABANDONED.append(way)
    return got


@DBOS.workflow(name="impatient reader")
async def reads(way: str, count: int, seed: int) -> int:
    """Abandons its reads so many times."""
    moment, abandoned = moments(seed), 0
    while abandoned < count:
        try:
            what = abandoned % 3
            if what == 0:
                await WAYS[way](DBOS.get_event("speaker", "never", None), moment())
            elif what == 1:
                await WAYS[way](read_all(DBOS, "s"), moment())
            else:
                await WAYS[way](DBOS.recv_envelope("never", None), moment())
        except (TimeoutError, asyncio.CancelledError):
            abandoned += 1
    return abandoned


async def read_all(front: type[DBOS] | DBOSClient, key: str) -> None:
    """Read a stream that does not end."""
    async with aclosing(front.read_stream("speaker", key)) as values:
        async for _ in values:
            pass
    raise AssertionError("The stream has ended.")


@pytest.fixture
async def speaker(dbos: DBOS) -> str:
    """A workflow that has written to a stream and goes on."""
    with SetWorkflowID("speaker"):
        await DBOS.start_workflow(speaks)
    await eventually(lambda: any(run.tasks_waiting for run in launched.executor().runs.values()))
    return "speaker"


@pytest.mark.parametrize("way", WAYS)
async def test_m1_m4_abandoned_receives_lose_no_message(dbos: DBOS, connection: Any, way: str) -> None:
    """What a receive has taken when its caller has already left is received by the next one, in order."""
    pause = moments(1)
    watch = Watch(connection, launched.executor().database)
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(receives, way, 300, 2)
    for n in range(300):
        await DBOS.send("w", n, "t")
        await asyncio.sleep(pause())
    async with asyncio.timeout(30):
        assert await handle.get_result() == list(range(300))
    assert ABANDONED.count(way) >= 334, "a thousand with the other ways"
    # Each message is the outcome of one step; the abandoned ones are waits that have begun and not ended.
    taken = await connection.fetch(
        "select output::text from dbos_async.steps where verb = 'recv' and completed_at is not null"
    )
    assert sorted(int(row["output"]) for row in taken) == list(range(300))
    await watch.nothing_is_left()


@pytest.mark.parametrize("way", WAYS)
async def test_s5_e3_abandoned_reads_in_a_workflow_leave_nothing(
    dbos: DBOS, connection: Any, speaker: str, way: str
) -> None:
    watch = Watch(connection, launched.executor().database)
    handle = await DBOS.start_workflow(reads, way, 340, 3)
    assert await handle.get_result() == 340
    await watch.nothing_is_left()


async def test_s5_e3_abandoned_reads_outside_of_workflows_leave_nothing(
    dbos: DBOS, database_url: str, connection: Any, speaker: str
) -> None:
    async with DBOSClient(database_url) as client:
        watch = Watch(connection, launched.executor().database, client._database)
        moment, chance = moments(4), random.Random(5)

        async def abandon(n: int) -> None:
            front = (DBOS, client)[n % 2]
            way = WAYS[chance.choice(list(WAYS))]
            await asyncio.sleep(moment())
            if n % 4 < 2:
                call: Awaitable[Any] = front.get_event(speaker, "never", None)
            else:
                call = read_all(front, chance.choice(("s", "nothing")))
            with pytest.raises((TimeoutError, asyncio.CancelledError)):
                await way(call, moment())

        for _ in range(10):
            await asyncio.gather(*(abandon(n) for n in range(100)))
        await watch.nothing_is_left()


async def test_a_receive_waits_for_what_another_one_gives_back(dbos: DBOS) -> None:
    """Several tasks of one workflow abandon their receives of one topic: every message finds one that stays."""

    @DBOS.workflow(name="impatient crowd")
    async def crowd(count: int) -> list[Any]:
        got: list[Any] = []

        async def one(seed: int) -> None:
            moment = moments(seed)
            while len(got) < count:
                with contextlib.suppress(TimeoutError):
                    got.append(await by_timeout(DBOS.recv("t", None), moment()))

        await asyncio.gather(*(one(seed) for seed in range(5)))
        return got

    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(crowd, 200)
    pause = moments(6)
    for n in range(200):
        await DBOS.send("w", n, "t")
        await asyncio.sleep(pause())
    async with asyncio.timeout(30):
        assert sorted(await handle.get_result()) == list(range(200))


PUT_BACK: Row = (*step(1), "recv", "")

RECEIVED = """
    select s.message_id, s.output::text, s.completed_at is not null as completed, m.received_at is not null as received
    from dbos_async.steps as s, dbos_async.messages as m
    where s.workflow_id = 'w' and s.number = 1 and m.id = $1
"""


async def taken(connection: Any) -> Any:
    """The workflow ``w`` takes a message at its first step."""
    await connection.execute(SETTING)
    (answer,) = await execute(connection, recv.TAKE, (*step(1), "recv", "", 60.0, False))
    assert answer["outcome"] == "done"
    return answer["message_id"]


async def test_m5_what_was_put_back_is_taken_again(connection: Any) -> None:
    first = await taken(connection)
    await execute(connection, recv.PUT_BACK, (*PUT_BACK, first))
    assert tuple(await connection.fetchrow(RECEIVED, first)) == (None, None, False, False)
    (answer,) = await execute(connection, recv.TAKE, (*step(2), "recv", "", 60.0, False))
    assert (answer["outcome"], answer["message_id"]) == ("done", first)
    # Said once more it does nothing, since the step has not taken that message any more.
    await execute(connection, recv.PUT_BACK, (*PUT_BACK, first))
    assert await connection.fetchval("select received_at is not null from dbos_async.messages where id = $1", first)


async def test_m1_only_the_step_that_took_a_message_puts_it_back(connection: Any) -> None:
    """A receive that has not been asked for yet may be thought to have the message that another one received."""
    first = await taken(connection)
    await execute(connection, recv.PUT_BACK, (*step(2), "recv", "", first))
    assert tuple(await connection.fetchrow(RECEIVED, first)) == (first, "1", True, True)
    assert not await connection.fetchval("select count(*) from dbos_async.steps where workflow_id = 'w' and number = 2")


async def test_w3_m5_putting_back_waits_for_a_claim_and_then_does_nothing(connect: Connect) -> None:
    one, two, three = [await connect() for _ in range(3)]
    first = await taken(one)
    before = tuple(await one.fetchrow(RECEIVED, first))
    await one.execute("begin")
    await one.execute(CLAIM_BY_HAND)
    late = asyncio.create_task(execute(two, recv.PUT_BACK, (*PUT_BACK, first)))
    await blocked(two, late, three)
    await one.execute("commit")
    await late
    assert tuple(await one.fetchrow(RECEIVED, first)) == before == (first, "1", True, True)


async def test_w3_m5_a_claim_waits_for_a_message_that_is_being_put_back(connect: Connect) -> None:
    one, two, three = [await connect() for _ in range(3)]
    first = await taken(one)
    await one.execute("begin")
    await execute(one, recv.PUT_BACK, (*PUT_BACK, first))
    claim = asyncio.create_task(two.execute(CLAIM_BY_HAND))
    await blocked(two, claim, three)
    await one.execute("commit")
    await claim
    (answer,) = await execute(two, recv.TAKE, (*step(1, attempt=2), "recv", "", 60.0, False))
    assert (answer["outcome"], answer["message_id"]) == ("done", first)
