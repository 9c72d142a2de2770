"""A cancelled workflow that is given time to clean up: promise W6."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from dbos_async import DBOS, DBOSClient, InvalidArgumentError, Question, SetWorkflowID, Topic, WorkflowCancelledError
from tests.support.crashing import killed_and_taken_over
from tests.support.eventually import eventually

RAN: list[str] = []
ENDED: list[str] = []


@pytest.fixture(autouse=True)
def _clean() -> None:
    RAN.clear()
    ENDED.clear()


@DBOS.step()
async def note_of_cleanup(what: str) -> str:
    RAN.append(what)
    return what


@DBOS.step()
async def endless_while_asked() -> None:
    RAN.append("endless")
    try:
        await asyncio.Event().wait()
    finally:
        ENDED.append("body")


@DBOS.step()
def thread_while_asked() -> None:
    RAN.append("thread")
    threading.Event().wait(0.3)


@DBOS.workflow()
async def waits_while_asked() -> None:
    await DBOS.recv("never", None)


async def stand(verb: str) -> Any:
    if verb == "recv":
        await DBOS.recv("go", None)
    elif verb == "recv with a limit":
        await DBOS.recv("go", 3600)
    elif verb == "messages":
        async for _ in DBOS.messages(Topic("go", str)):
            pass
    elif verb == "get_event":
        await DBOS.get_event("nobody", "k", None)
    elif verb == "read_stream":
        async for _ in DBOS.read_stream(str(DBOS.workflow_id), "k"):
            pass
    elif verb == "wait_first":
        await DBOS.wait_first(Topic("a", str), Topic("b", str))
    elif verb == "sleep":
        await DBOS.sleep(3600)
    elif verb == "step":
        await endless_while_asked()
    elif verb == "thread":
        await thread_while_asked()
        await DBOS.recv("go", None)
    elif verb == "step handle":
        await (await DBOS.start_step(endless_while_asked)).get_result()
    elif verb == "child":
        await waits_while_asked()
    elif verb == "ask":
        await DBOS.ask("child", Question("question", str, str), "?", timeout_seconds=3600)
    elif verb == "gather":
        await asyncio.gather(DBOS.recv("a", None), DBOS.sleep(3600), endless_while_asked())
    elif verb == "group":
        async with asyncio.TaskGroup() as group:
            group.create_task(DBOS.recv("a", None))
            group.create_task(endless_while_asked())
    elif verb == "body of a group":
        async with asyncio.TaskGroup() as group:
            group.create_task(DBOS.recv("a", None))
            await DBOS.recv("b", None)


VERBS = [
    "recv", "recv with a limit", "messages", "get_event", "read_stream", "wait_first", "sleep", "step", "thread", "step handle",
    "child", "ask", "gather", "group", "body of a group",
]  # fmt: skip


@DBOS.workflow()
async def cleans_up(verb: str, ends: str) -> str:
    await note_of_cleanup("began")
    try:
        await stand(verb)
        await DBOS.sleep(3600)  # a group may have swallowed the cancellations of its tasks
    except asyncio.CancelledError:
        await note_of_cleanup("cleans up")
        await DBOS.set_event("status", "cleaned up")
        await DBOS.send("child", "the end", "news")
        if ends == "waits":
            await DBOS.recv("done", None)
        if ends == "returns":
            return "half of it"
        raise
    return "whole"


async def start(verb: str, ends: str = "passes") -> Any:
    with SetWorkflowID("child"):
        await DBOS.start_workflow(waits_while_asked)
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(cleans_up, verb, ends)
    await eventually(lambda: "began" in RAN, "it has begun")
    return handle


async def stands(connection: Any, verb: str) -> None:
    """Return when the workflow stands at its verb."""
    body = {"step": "endless", "step handle": "endless", "thread": "thread", "gather": "endless", "group": "endless"}
    if verb in body:
        await eventually(lambda: body[verb] in RAN, "the body runs")
    elif verb == "child":
        await eventually(lambda: connection.fetchval("select true from dbos_async.workflows where parent_id = 'w'"))
    else:
        await eventually(
            lambda: connection.fetchval("select true from dbos_async.steps where workflow_id = 'w' and number > 1")
        )


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


@pytest.mark.parametrize("at", range(1, 7))
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
