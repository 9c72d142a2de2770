"""Workflows that an older release has begun, which recorded no order of results, go on in this one (W4)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dbos_async import DBOS, SetWorkflowID
from tests.support.eventually import eventually
from tests.support.shared_log import GATES, RAN, SHUT, Log, check_bodies, ending, forget, recorded, replays_alike, rows

BEFORE_ORDER = """
    drop table dbos_async.channels;
    drop function dbos_async.notify, dbos_async.tell;
    alter table dbos_async.workflows drop column generation, drop column patches, drop column deadline_reaches_children,
        drop column cancel_asked_at, drop column began_as;
    alter table dbos_async.messages drop column is_question;
    drop function dbos_async.end_generation;
    drop index dbos_async.workflows_in_trouble, dbos_async.messages_rejected;
    drop function dbos_async.purge_workflow;
    drop table dbos_async.retention;
    drop function dbos_async.trim_stream;
    drop function dbos_async.repeat_if;
    alter table dbos_async.stream_entries drop column batch, drop column count, drop column nth, drop column rewinds_to,
        drop column taken_back_by, drop column copy_of, drop column trimmed;
    alter table dbos_async.messages drop column answer, drop column answer_error, drop column answered_at, drop column copy_of;
    drop table dbos_async.delayed_messages;
    drop sequence dbos_async.delayed_seq;
    alter table dbos_async.workflows drop column due_at;
    alter table dbos_async.steps drop column place, drop column asked_after;
    alter table dbos_async.executors drop column running_steps, drop column keeps_session;
    alter table dbos_async.workflows drop column born;
    alter table dbos_async.messages drop column born;
    delete from dbos_async.migrations where name >= '0002'
"""
"""Makes the tables what they were before the order of results was recorded."""


@pytest.fixture(autouse=True)
def _clean() -> None:
    forget()


@DBOS.workflow(name="deployed, side by side")
async def side_by_side(sleep_seconds: float) -> dict[str, Any]:
    log = Log()

    async def branch(name: str) -> None:
        await log.step(f"{name}1")
        await log.step(f"{name}2")
        await log.receive(name)
        await log.step(f"{name}3")
        await log.step(f"{name}4")

    async def sleeper() -> None:
        await log.sleep(sleep_seconds)
        await log.step("after the sleep")

    await asyncio.gather(branch("a"), branch("b"), branch("c"), sleeper())
    return log.result


@DBOS.workflow(name="deployed, one after the other")
async def one_by_one() -> dict[str, Any]:
    log = Log()
    await log.step("a1")
    await log.receive("a")
    await log.step("a2")
    await log.sleep(0.001)
    await log.receive("b")
    await log.step("a3")
    return log.result


async def test_w4_a_workflow_of_several_tasks_goes_on_after_a_deploy_and_a_crash(
    database_url: str, connection: Any
) -> None:
    SHUT.update(("b2", "a4"))
    async with DBOS(database_url, drain_seconds=0):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(side_by_side, 0.001)
        await recorded(connection, "a2", "b1", "c2", "a", "c", "after the sleep")
    await connection.execute(BEFORE_ORDER)
    old = len(RAN)
    SHUT.remove("b2")
    async with DBOS(database_url, drain_seconds=0):
        await DBOS.send("w", 1, "a")
        await DBOS.send("w", 2, "b")
        await recorded(connection, "a3", "b4")
        await eventually(lambda: "a4" in {who for who, *_ in RAN}, "it runs")
    placed = {row["output"]: row["place"] for row in await rows(connection)}
    assert [placed[f'"{who}"'] for who in ("a1", "a2", "b1", "c1", "c2", "after the sleep")] == [None] * 6
    assert None not in [placed[f'"{who}"'] for who in ("b2", "b3", "b4", "a3")]
    SHUT.clear()
    async with DBOS(database_url):
        await DBOS.send("w", 3, "c")
        result = await ending(connection)
    assert [who for who, *_ in RAN[old:]].count("a4") == 2
    assert not {who for who, *_ in RAN[old:]} & {"a1", "a2", "b1", "c1", "c2", "after the sleep"}
    del RAN[:old]
    check_bodies(result)
    await replays_alike(database_url, connection, result)


async def test_w4_a_sequence_goes_on_after_a_deploy_and_a_crash(database_url: str, connection: Any) -> None:
    async with DBOS(database_url, drain_seconds=0):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(one_by_one)
        await recorded(connection, "a1", "a")
    await connection.execute(BEFORE_ORDER)
    async with DBOS(database_url, drain_seconds=0):
        await DBOS.send("w", 1, "a")
        await recorded(connection, "a2", "b")
    async with DBOS(database_url):
        await DBOS.send("w", 2, "b")
        result = await ending(connection)
    assert result["seen"] == ["a1", "a received 1", "a2", "slept", "b received 2", "a3"]
    assert [who for who, *_ in RAN] == ["a1", "a2", "a3"]
    check_bodies(result)
    assert [(row["place"], row["asked_after"]) for row in await rows(connection)] == [(None, None)] * 6
    await replays_alike(database_url, connection, result)


LATE_ROW = """
    insert into dbos_async.steps (workflow_id, branch, number, verb, key, output, completed_at)
    values ('w', '0.1', 2, 'step', 'told', '"a2"', clock_timestamp())
"""
"""What a run of the older release, which has lost the workflow meanwhile, commits late."""


async def test_w4_what_an_older_release_commits_late_gets_its_place_when_it_is_received(
    database_url: str, connection: Any
) -> None:
    SHUT.update(("a2", "b2"))
    async with DBOS(database_url, drain_seconds=0):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(side_by_side, 0.001)
        await recorded(connection, "a1", "b1", "c2", "c", "after the sleep")
    await connection.execute(BEFORE_ORDER)
    old = len(RAN)
    SHUT.remove("b2")
    async with DBOS(database_url, drain_seconds=0):
        await eventually(lambda: "a2" in {who for who, *_ in RAN[old:]}, "it runs")
        await DBOS.send("w", 2, "b")
        await recorded(connection, "b4")
        await connection.execute(LATE_ROW)
        GATES["a2"].set()
        await recorded(connection, "a")
    places = {row["output"]: row["place"] for row in await rows(connection)}
    assert places['"a2"'] > places['"b4"'] > 0
    async with DBOS(database_url):
        for number, topic in enumerate("ac"):
            await DBOS.send("w", number, topic)
        result = await ending(connection)
    assert result["seen"].index("a2") > result["seen"].index("b4")
    del RAN[:old]
    check_bodies(result)
    await replays_alike(database_url, connection, result)


async def test_w4_a_sleep_that_an_older_release_has_begun_ends_in_its_turn(database_url: str, connection: Any) -> None:
    """The run that took over after the deploy crashed before the sleep was over, and had gone on without it."""
    async with DBOS(database_url, drain_seconds=0):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(side_by_side, 1.5)
        await recorded(connection, "a2", "b2", "c2", "a", "b", "c")
    await connection.execute(BEFORE_ORDER)
    old = len(RAN)
    async with DBOS(database_url, drain_seconds=0):
        await DBOS.send("w", 1, "a")
        await recorded(connection, "a4")
    is_over = "select deadline < clock_timestamp() from dbos_async.steps where verb = 'sleep'"
    assert not await connection.fetchval(is_over)
    await eventually(lambda: connection.fetchval(is_over))
    async with DBOS(database_url):
        await DBOS.send("w", 2, "b")
        await DBOS.send("w", 3, "c")
        result = await ending(connection)
    del RAN[:old]
    check_bodies(result)
    await replays_alike(database_url, connection, result)
