"""The time, random numbers and UUIDs that a replay repeats, and sleeps with a given end (C4, W4, M6)."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest

from dbos_async import DBOS, InvalidArgumentError, SetWorkflowID, WrongPlaceError

SEEN: list[list[Any]] = []


@DBOS.step(name="asks in a step")
async def asks() -> list[Any]:
    return [await DBOS.now(), await DBOS.random(), await DBOS.uuid()]


@DBOS.workflow(name="asks for what a replay repeats")
async def recorded(until: float) -> list[Any]:
    began = await DBOS.now()
    found: list[Any] = [began, await DBOS.random(), await DBOS.uuid()]
    SEEN.append(found)
    await DBOS.sleep_until(began + timedelta(seconds=until))
    await DBOS.recv("go", None)
    return [began, await DBOS.now()]


async def test_w4_a_replay_is_told_the_same(database_url: str) -> None:
    SEEN.clear()
    for _ in range(2):
        async with DBOS(database_url, executor_id="e"):
            with SetWorkflowID("w"):
                handle = await DBOS.start_workflow(recorded, 0.1)
            while not SEEN:
                await DBOS.now()
    async with DBOS(database_url, executor_id="e"):
        await DBOS.send("w", None, "go")
        began, ended = await (await DBOS.retrieve_workflow("w")).get_result()
        steps = [step.verb for step in await DBOS.list_workflow_steps("w")]
    assert handle.workflow_id == "w"
    assert steps == ["now", "random", "uuid", "sleep", "recv", "now"]
    assert len(SEEN) >= 2
    assert all(each == SEEN[0] for each in SEEN)
    moment, number, uuid = SEEN[0]
    assert (moment.tzinfo, isinstance(number, float), isinstance(uuid, UUID)) == (UTC, True, True)
    assert 0 <= number < 1
    assert datetime.fromisoformat(ended) - datetime.fromisoformat(began) >= timedelta(seconds=0.1)


async def test_c4_a_moment_that_has_passed_is_recorded_and_no_wait(dbos: DBOS) -> None:
    @DBOS.workflow(name="sleeps until then")
    async def sleeps() -> float:
        began = await DBOS.now()
        await DBOS.sleep_until(datetime(2020, 1, 1, tzinfo=timezone(timedelta(hours=5))))
        return (await DBOS.now() - began).total_seconds()

    handle = await DBOS.start_workflow(sleeps)
    assert await handle.get_result() < 1
    assert [step.verb for step in await DBOS.list_workflow_steps(handle.workflow_id)] == ["now", "sleep", "now"]


async def test_m6_a_replay_sleeps_until_the_recorded_end_whatever_it_asks_for(database_url: str) -> None:
    asked: list[datetime] = []

    @DBOS.workflow(name="sleeps until another time")
    async def sleeps() -> str:
        now = await DBOS.now()
        asked.append(now + timedelta(seconds=0.5) if not asked else datetime(2100, 1, 1, tzinfo=UTC))
        await DBOS.sleep_until(asked[-1])
        return "awake"

    async with DBOS(database_url, executor_id="e"):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(sleeps)
        while not [step for step in await DBOS.list_workflow_steps("w") if step.verb == "sleep"]:
            pass
    async with DBOS(database_url, executor_id="e"):
        assert await (await DBOS.retrieve_workflow("w")).get_result(timeout_seconds=20) == "awake"
    assert len(asked) == 2


@pytest.mark.parametrize("moment", [None, 5, "2026-01-01", datetime(2026, 1, 1)])  # noqa: DTZ001
async def test_d5_a_moment_without_a_time_zone_is_refused(dbos: DBOS, moment: Any) -> None:
    @DBOS.workflow(name="sleeps wrongly")
    async def sleeps() -> str:
        try:
            await DBOS.sleep_until(moment)
        except InvalidArgumentError as error:
            return str(error)
        return ""

    sentence = await sleeps()
    assert sentence.startswith("moment must be a datetime with a time zone")
    with pytest.raises(InvalidArgumentError):
        await DBOS.sleep_until(moment)


async def test_c4_outside_and_in_steps_they_are_plain(dbos: DBOS, connection: Any) -> None:
    before = await connection.fetchval("select clock_timestamp()")
    now = await DBOS.now()
    assert before <= now <= await connection.fetchval("select clock_timestamp()")
    assert await DBOS.uuid() != await DBOS.uuid()
    random.seed(1)
    first = await DBOS.random()
    random.seed(1)
    assert await DBOS.random() != first, "the program's seed is its own"
    with pytest.raises(WrongPlaceError):
        await DBOS.sleep_until(now)

    @DBOS.workflow(name="asks in its step")
    async def in_step() -> Any:
        return await asks()

    handle = await DBOS.start_workflow(in_step)
    await handle.get_result()
    assert [step.verb for step in await DBOS.list_workflow_steps(handle.workflow_id)] == ["step"]
