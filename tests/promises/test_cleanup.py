"""A cancelled workflow that is given time to clean up: promise W6."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dbos_async import DBOS, DBOSClient, InvalidArgumentError, WorkflowCancelledError
from tests.support.cleaning_up import ENDED, RAN, VERBS, note_of_cleanup, stands, start
from tests.support.eventually import eventually


@pytest.fixture(autouse=True)
def _clean() -> None:
    RAN.clear()
    ENDED.clear()


@pytest.mark.parametrize("verb", VERBS)
async def test_w6_a_cancelled_workflow_may_clean_up(database_url: str, connection: Any, verb: str) -> None:
    async with DBOS(database_url):
        handle = await start(verb)
        await stands(connection, verb)
        assert await DBOS.cancel_workflow("w", cleanup_seconds=30)
        with pytest.raises(WorkflowCancelledError):
            await handle.get_result()
        assert await DBOS.get_event("w", "status") == "cleaned up"
        assert RAN.count("cleans up") == 1
        assert (["body"] if "endless" in RAN else []) == ENDED
        status = await handle.get_status()
        assert (status.status, status.attempt) == ("CANCELLED", 1)
        waiting = await DBOS.list_messages("child", status="waiting")
        assert [message.topic for message in waiting if message.topic == "news"] == ["news"]
        assert not await DBOS.cancel_workflow("w", cleanup_seconds=30)


@pytest.mark.parametrize("verb", VERBS)
async def test_w6_a_clean_up_goes_on_after_a_restart(database_url: str, connection: Any, verb: str) -> None:
    async with DBOS(database_url, drain_seconds=0):
        await start(verb, "waits")
        await stands(connection, verb)
        await DBOS.cancel_workflow("w", cleanup_seconds=3600)
        waits = "select true from dbos_async.steps where workflow_id = 'w' and verb = 'recv' and key = 'done'"
        await eventually(lambda: connection.fetchval(waits), "it cleans up")
    async with DBOS(database_url):
        handle = await DBOS.retrieve_workflow("w")
        await DBOS.send("w", "now", "done")
        with pytest.raises(WorkflowCancelledError):
            await handle.get_result()
        assert RAN.count("began") == RAN.count("cleans up") == 1
        assert RAN.count("endless") <= 1, "the cancellation is the outcome of the step"
        assert (await handle.get_status()).attempt == 2


@pytest.mark.parametrize("verb", VERBS)
async def test_w6_a_request_reaches_a_workflow_whose_executor_is_gone(
    database_url: str, connection: Any, verb: str
) -> None:
    async with DBOS(database_url, drain_seconds=0):
        await start(verb)
        await stands(connection, verb)
    async with DBOSClient(database_url) as client:
        assert await client.cancel_workflow("w", cleanup_seconds=3600)
        assert (await (await client.retrieve_workflow("w")).get_status()).status == "PENDING"
    async with DBOS(database_url):
        with pytest.raises(WorkflowCancelledError):
            await (await DBOS.retrieve_workflow("w")).get_result()
        assert RAN.count("cleans up") == 1
        assert await DBOS.get_event("w", "status") == "cleaned up"


async def test_w6_what_the_body_returns_in_its_clean_up_is_its_result(database_url: str, connection: Any) -> None:
    async with DBOS(database_url):
        handle = await start("recv", "returns")
        await stands(connection, "recv")
        await DBOS.cancel_workflow("w", cleanup_seconds=30)
        assert await handle.get_result() == "half of it"


@DBOS.step()
async def swallows_while_asked() -> str:
    RAN.append("swallows")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return "went on"
    return "never"


@DBOS.workflow()
async def has_a_step_that_swallows() -> list[str]:
    seen: list[str] = []
    for name in ("a", "b"):
        try:
            seen += await asyncio.gather(swallows_while_asked(), note_of_cleanup(name))
        except asyncio.CancelledError:
            seen.append("told")
    return seen


async def test_w6_a_step_that_swallows_its_cancellation_keeps_its_result_and_the_next_one_is_told(
    database_url: str,
) -> None:
    async with DBOS(database_url):
        handle = await DBOS.start_workflow(has_a_step_that_swallows)
        await eventually(lambda: "swallows" in RAN and "a" in RAN, "it stands in its first step")
        await DBOS.cancel_workflow(handle.workflow_id, cleanup_seconds=3600)
        assert await handle.get_result() == ["went on", "a", "told"]


async def test_w6_the_time_to_clean_up_has_an_end(database_url: str, connection: Any) -> None:
    async with DBOS(database_url):
        handle = await start("recv", "waits")
        await stands(connection, "recv")
        await DBOS.cancel_workflow("w", cleanup_seconds=0.5)
        with pytest.raises(WorkflowCancelledError):
            await handle.get_result()
        assert RAN[-1] == "cleans up"
        assert (await handle.get_status()).attempt == 2, "the deadline has moved the fence"


async def test_w6_a_second_cancellation_ends_a_clean_up_at_once(database_url: str, connection: Any) -> None:
    async with DBOS(database_url):
        handle = await start("recv", "waits")
        await stands(connection, "recv")
        assert await DBOS.cancel_workflow("w", cleanup_seconds=3600)
        await eventually(lambda: "cleans up" in RAN, "it cleans up")
        assert await DBOS.cancel_workflow("w", cleanup_seconds=3600), "that changes nothing"
        assert await DBOS.cancel_workflow("w")
        with pytest.raises(WorkflowCancelledError):
            await handle.get_result()


async def test_w6_a_message_that_comes_first_wins(database_url: str, connection: Any) -> None:
    """The receive has its message, and the next step is told."""
    async with DBOS(database_url, drain_seconds=0):
        await start("recv")
        await stands(connection, "recv")
    async with DBOSClient(database_url) as client:
        await client.send("w", "first", "go")
        await client.cancel_workflow("w", cleanup_seconds=3600)
    async with DBOS(database_url):
        with pytest.raises(WorkflowCancelledError):
            await (await DBOS.retrieve_workflow("w")).get_result()
    steps = await connection.fetch("select verb, error from dbos_async.steps where workflow_id = 'w' order by number")
    assert [(row["verb"], row["error"] is not None) for row in steps[:3]] == [
        ("step", False),
        ("recv", True),
        ("step", False),
    ]
    assert await connection.fetchval("select received_at is null from dbos_async.messages where topic = 'go'")


async def test_w6_who_has_not_begun_is_cancelled_at_once(database_url: str) -> None:
    async with DBOSClient(database_url) as client:
        handle = await client.start_workflow("nobody knows this")
        assert await client.cancel_workflow(handle.workflow_id, cleanup_seconds=3600)
        assert (await handle.get_status()).status == "CANCELLED"


@DBOS.workflow()
async def cancels_itself() -> None:
    try:
        await DBOS.cancel_workflow(str(DBOS.workflow_id), cleanup_seconds=30)
        await DBOS.recv("never", None)
    finally:
        await note_of_cleanup("cleans up")


async def test_w6_a_workflow_asks_itself_to_end(database_url: str) -> None:
    async with DBOS(database_url):
        handle = await DBOS.start_workflow(cancels_itself)
        with pytest.raises(WorkflowCancelledError):
            await handle.get_result()
        assert RAN == ["cleans up"]


async def test_a_time_to_clean_up_is_a_number_of_seconds(database_url: str) -> None:
    async with DBOS(database_url):
        for wrong in (-1, "5", float("inf")):
            with pytest.raises(InvalidArgumentError, match="cleanup_seconds must be a number of seconds"):
                await DBOS.cancel_workflow("w", cleanup_seconds=wrong)  # type: ignore[arg-type]  # wrong on purpose
