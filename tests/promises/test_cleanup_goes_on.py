"""Clean-ups that are resumed, forked, killed, continued as new, and those of families: promise W6."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from dbos_async import DBOS, DBOSClient, SetWorkflowID, WorkflowCancelledError
from tests.support.cleaning_up import ENDED, RAN, cleans_up, note_of_cleanup, stands, start, waits_while_asked
from tests.support.crashing import killed_and_taken_over
from tests.support.eventually import eventually


@pytest.fixture(autouse=True)
def _clean() -> None:
    RAN.clear()
    ENDED.clear()


async def test_w6_a_resumed_clean_up_goes_on_and_a_fork_of_before_goes_its_way(
    database_url: str, connection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with DBOS(database_url):
        await start("recv", "waits")
        await stands(connection, "recv")
        await DBOS.cancel_workflow("w", cleanup_seconds=3600)
        await eventually(lambda: "cleans up" in RAN, "it cleans up")
        await DBOS.cancel_workflow("w")
        handle = await DBOS.resume_workflow("w")
        await DBOS.send("w", "now", "done")
        with pytest.raises(WorkflowCancelledError):
            await handle.get_result()
        assert (RAN.count("began"), RAN.count("cleans up")) == (1, 1)
        with SetWorkflowID("copy"):
            copy = await DBOS.fork_workflow("w", 2)
        await DBOS.send("copy", "go", "go")
        await eventually(
            lambda: connection.fetchval(
                "select true from dbos_async.steps where workflow_id = 'copy' and verb = 'sleep'"
            )
        )
        await DBOS.cancel_workflow("copy")
        with SetWorkflowID("copy of the end"):
            copy = await DBOS.fork_workflow("w", 6)
        await DBOS.send("copy of the end", "now", "done")
        with pytest.raises(WorkflowCancelledError):
            await copy.get_result()


@pytest.mark.parametrize("at", range(1, 6))
@pytest.mark.parametrize("mode", ["before", "during", "after"])
async def test_w4_w6_a_workflow_that_cleans_up_is_killed_at_any_step(
    database_url: str, tmp_path: Path, mode: str, at: int
) -> None:
    story = await killed_and_taken_over(database_url, "cleaning", tmp_path / "ran", mode, at)
    told = story["result"]
    assert [one for one in told if one not in (1, 2)] in (["A", "cleans up", "C"], ["A", True, "cleans up", "C"])
    assert story["events"] == {"status": told[:-1]}
    assert story["streams"]["s"] == ["the end"]


@DBOS.workflow()
async def parent_that_cleans_up() -> None:
    with SetWorkflowID("w"):
        await DBOS.start_workflow(cleans_up, "recv", "passes")
    try:
        await DBOS.recv("never", None)
    finally:
        with SetWorkflowID("started to clean up"):
            await DBOS.start_workflow(waits_while_asked)
        await DBOS.recv("done", None)


async def test_w6_a_family_cleans_up_and_what_is_started_for_that_goes_on(database_url: str, connection: Any) -> None:
    async with DBOS(database_url):
        with SetWorkflowID("parent"):
            await DBOS.start_workflow(parent_that_cleans_up)
        with SetWorkflowID("child"):
            await DBOS.start_workflow(waits_while_asked)
        await eventually(lambda: "began" in RAN, "the child has begun")
        await stands(connection, "recv")
        outcomes = await DBOS.cancel_workflows(["parent"], children=True, cleanup_seconds=3600)
        assert outcomes == {"parent": "cancelled", "w": "cancelled"}
        with pytest.raises(WorkflowCancelledError):
            await (await DBOS.retrieve_workflow("w")).get_result()
        assert await DBOS.get_event("w", "status") == "cleaned up"
        cleaner = await DBOS.retrieve_workflow("started to clean up")
        assert await DBOS.cancel_workflow("parent", children=True, cleanup_seconds=3600), "it cleans up still"
        assert (await cleaner.get_status()).status == "PENDING"
        assert await DBOS.cancel_workflow("parent", children=True)
        assert (await cleaner.get_status()).status == "CANCELLED", "that ends all of them"


@DBOS.workflow()
async def continues_to_clean_up(count: int) -> None:
    await note_of_cleanup(f"generation {count}")
    if count == 1:
        try:
            await DBOS.recv("never", None)
        except asyncio.CancelledError:
            await DBOS.continue_as_new(2)
    await DBOS.recv("never", None)


async def test_w6_the_next_generation_is_told_again(database_url: str, connection: Any) -> None:
    async with DBOS(database_url):
        with SetWorkflowID("w"):
            handle = await DBOS.start_workflow(continues_to_clean_up, 1)
        await stands(connection, "recv")
        await DBOS.cancel_workflow("w", cleanup_seconds=3600)
        with pytest.raises(WorkflowCancelledError):
            await handle.get_result()
        assert RAN == ["generation 1"], "the second one is told at its first step"
        assert (await handle.get_status()).generation == 2


async def test_w6_a_workflow_that_was_never_told_goes_on_when_it_is_resumed(database_url: str, connection: Any) -> None:
    async with DBOS(database_url, drain_seconds=0):
        await start("recv")
        await stands(connection, "recv")
    async with DBOSClient(database_url) as client:
        assert await client.cancel_workflow("w", cleanup_seconds=3600)
        assert await client.cancel_workflow("w"), "before any executor could tell it"
        await client.resume_workflow("w")
        await client.send("w", "on", "go")
    async with DBOS(database_url):
        sleeps = "select true from dbos_async.steps where workflow_id = 'w' and verb = 'sleep'"
        await eventually(lambda: connection.fetchval(sleeps), "it has received its message")
        assert RAN == ["began"]


@DBOS.workflow()
async def starts_until_it_is_told() -> None:
    async def starts() -> None:
        while True:
            await DBOS.start_workflow(waits_while_asked)

    await note_of_cleanup("began")
    try:
        await asyncio.gather(*[starts() for _ in range(10)])
    finally:
        await DBOS.recv("done", None)


async def test_w6_what_a_parent_starts_until_it_is_told_is_reached(database_url: str, connection: Any) -> None:
    async with DBOS(database_url), DBOSClient(database_url) as client:
        with SetWorkflowID("w"):
            await DBOS.start_workflow(starts_until_it_is_told)
        await eventually(
            lambda: connection.fetchval("select count(*) > 20 from dbos_async.workflows where parent_id = 'w'")
        )
        assert await client.cancel_workflow("w", children=True, cleanup_seconds=3600)
        kids = "select count(*) from dbos_async.workflows where parent_id = 'w'"
        goes_on = f"{kids} and status = 'PENDING' and cancel_asked_at is null"
        assert await connection.fetchval(goes_on) == 0
        status = await (await DBOS.retrieve_workflow("w")).get_status()
        assert (status.status, status.cancel_asked_at is None) == ("PENDING", False), "it cleans up"
        assert await DBOS.cancel_workflow("w")
