"""Sleeps that a timer has cut off, and sleeps that ended, in replays (W4): neither times nor the clock tell which is which."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

import asyncpg
import pytest

from dbos_async import DBOS, DBOSClient, SetWorkflowID, WorkflowCancelledError
from tests.support.eventually import eventually
from tests.support.troubles import fake_clock, holding, set_clock

AGAIN = """
    update dbos_async.workflows set status = 'PENDING', owner = null, output = null, ended_at = null where id = 'w'
"""
SECONDS: dict[str, float] = {"sleep": 0.0, "limit": 0.0}


@DBOS.step(name="tell of a sleep")
async def tell(what: str) -> str:
    return what


@DBOS.workflow(name="sleeps in a time limit")
async def sleeps_in_limit() -> str:
    try:
        async with asyncio.timeout(SECONDS["limit"]):
            await DBOS.sleep(SECONDS["sleep"])
            told = "slept"
    except TimeoutError:
        told = "cut off"
    await tell(told)
    return told


async def replayed(url: str, connection: Any) -> Any:
    """The result of a workflow that has ended and runs again from its record, which has all of its steps."""
    await connection.execute(AGAIN)
    async with DBOS(url), asyncio.timeout(20):
        return await (await DBOS.retrieve_workflow("w")).get_result()


async def started(sleep: float, limit: float) -> Any:
    SECONDS.update(sleep=sleep, limit=limit)
    with SetWorkflowID("w"):
        return await DBOS.start_workflow(sleeps_in_limit)


async def test_w4_a_sleep_that_a_timer_has_cut_off_is_cut_off_again_long_after_its_time(
    database_url: str, connection: Any
) -> None:
    async with DBOS(database_url):
        assert await (await started(0.6, 0.1)).get_result() == "cut off"
    over = "select completed_at < clock_timestamp() from dbos_async.steps where verb = 'sleep'"
    await eventually(lambda: connection.fetchval(over), "the time of the sleep has come")
    assert await replayed(database_url, connection) == "cut off"


async def test_w4_a_sleep_that_ended_has_ended_although_the_clock_went_back_right_after_it(
    empty_database_url: str,
) -> None:
    admin = await asyncpg.connect(empty_database_url)
    await fake_clock(admin)
    async with DBOS(empty_database_url):
        handle = await started(0.3, 30)
        async with holding(empty_database_url, "lock table dbos_async.servers in access exclusive mode"):
            is_over = "select output::text = 'true' from dbos_async.steps where verb = 'sleep'"
            await eventually(lambda: admin.fetchval(is_over), "the sleep is over")
        await set_clock(admin, "-60 seconds")
        assert await handle.get_result() == "slept"
    assert await replayed(empty_database_url, admin) == "slept"
    await admin.close()


async def test_w4_a_sleep_that_is_cut_off_while_its_end_is_being_recorded_was_cut_off(
    database_url: str, connection: Any
) -> None:
    """The record of the end waits for a lock when the timer comes, and is committed after that."""
    async with DBOS(database_url):
        handle = await started(0.2, 0.6)
        row = "select from dbos_async.steps where workflow_id = 'w' and verb = 'sleep'"
        await eventually(lambda: connection.fetch(row), "the sleep has begun")
        async with holding(database_url, f"{row} for update") as somebody:
            waiting = "select count(*) from pg_locks where not granted"
            await eventually(lambda: somebody.fetchval(waiting), "the record of the end waits")
            await asyncio.sleep(0.7)  # the timer of the workflow comes
        assert await handle.get_result() == "cut off"
    assert await connection.fetchval("select output::text from dbos_async.steps where verb = 'sleep'") == "false"
    assert await replayed(database_url, connection) == "cut off"


async def test_w4_a_sleep_of_an_older_release_ends_by_its_time(database_url: str, connection: Any) -> None:
    async with DBOS(database_url):
        assert await (await started(0.1, 30)).get_result() == "slept"
    await connection.execute("update dbos_async.steps set output = null where verb = 'sleep'")
    assert await replayed(database_url, connection) == "slept"


async def test_w4_a_list_of_steps_shows_no_output_of_a_sleep(database_url: str) -> None:
    async with DBOS(database_url):
        await (await started(0.05, 30)).get_result()
        steps = await DBOS.list_workflow_steps("w")
    assert [(step.verb, step.output) for step in steps] == [("sleep", None), ("step", "slept")]


async def test_w4_a_sleep_whose_time_came_while_nobody_ran_the_workflow_has_ended_in_each_replay(
    database_url: str, connection: Any
) -> None:
    """The executor is gone in the middle of the sleep; the run after it finds the sleep over, and goes on to other steps."""
    async with DBOS(database_url):
        await started(0.5, 30)
        row = "select from dbos_async.steps where workflow_id = 'w' and verb = 'sleep'"
        await eventually(lambda: connection.fetch(row), "the sleep has begun")
    over = "select completed_at < clock_timestamp() from dbos_async.steps where verb = 'sleep'"
    await eventually(lambda: connection.fetchval(over), "the time of the sleep has come")
    async with DBOS(database_url):
        assert await (await DBOS.retrieve_workflow("w")).get_result() == "slept"
    assert await replayed(database_url, connection) == "slept"


LOG: list[str] = []


async def note(name: str, waits: Awaitable[Any]) -> None:
    try:
        await waits
    except asyncio.CancelledError:
        LOG.append(name)
        raise


@DBOS.workflow(name="cancels a sleep and a receive")
async def cancels_both() -> list[str]:
    LOG.clear()
    with suppress(TimeoutError):
        async with asyncio.timeout(SECONDS["limit"]):
            await asyncio.gather(note("sleep", DBOS.sleep(SECONDS["sleep"])), note("recv", DBOS.recv("never", None)))
    await tell("both are cancelled")
    return [*LOG]


async def test_w4_a_sleep_whose_record_is_being_mended_is_cancelled_in_its_turn_as_in_a_replay(
    database_url: str, connection: Any
) -> None:
    async with DBOS(database_url):
        SECONDS.update(sleep=0.2, limit=0.6)
        with SetWorkflowID("w"):
            handle = await DBOS.start_workflow(cancels_both)
        row = "select from dbos_async.steps where workflow_id = 'w' and verb = 'sleep'"
        await eventually(lambda: connection.fetch(row), "the sleep has begun")
        async with holding(database_url, f"{row} for update") as somebody:
            waiting = "select count(*) from pg_locks where not granted"
            await eventually(lambda: somebody.fetchval(waiting), "the record of the end waits")
            await asyncio.sleep(0.7)  # the timer of the workflow comes
        live = await handle.get_result()
    assert live == await replayed(database_url, connection) == ["sleep", "recv"]


@DBOS.workflow(name="sleeps, and cleans up")
async def sleeps_and_cleans_up() -> None:
    try:
        await DBOS.sleep(SECONDS["sleep"])
        await tell("slept")
    finally:
        await tell("cleans up")
        await DBOS.recv("done", None)


async def test_w6_a_request_to_end_that_finds_a_sleep_over_has_the_same_outcome_in_each_replay(
    database_url: str, connection: Any
) -> None:
    """The time of the sleep came while nobody ran the workflow, and so did the request to end with time to clean up."""
    over = "select completed_at < clock_timestamp() from dbos_async.steps where verb = 'sleep'"
    cleans_up = "select true from dbos_async.steps where workflow_id = 'w' and verb = 'recv'"
    async with DBOS(database_url, drain_seconds=0):
        SECONDS.update(sleep=0.5)
        with SetWorkflowID("w"):
            await DBOS.start_workflow(sleeps_and_cleans_up)
        await eventually(lambda: connection.fetchval("select true from dbos_async.steps"), "the sleep has begun")
    await eventually(lambda: connection.fetchval(over), "the time of the sleep has come")
    async with DBOSClient(database_url) as client:
        await client.cancel_workflow("w", cleanup_seconds=3600)
    async with DBOS(database_url, drain_seconds=0):
        await eventually(lambda: connection.fetchval(cleans_up), "it cleans up")
    async with DBOS(database_url), asyncio.timeout(20):
        handle = await DBOS.retrieve_workflow("w")
        await DBOS.send("w", "now", "done")
        with pytest.raises(WorkflowCancelledError):
            await handle.get_result()
