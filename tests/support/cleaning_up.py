"""Workflows that are cancelled while they stand in any verb, and clean up."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from dbos_async import DBOS, Question, SetWorkflowID, Topic
from tests.support.eventually import eventually

RAN: list[str] = []
ENDED: list[str] = []


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


@DBOS.transaction()
async def transaction_while_asked(connection: Any) -> None:
    await connection.execute("create table public.written (n int)")
    await endless_while_asked()


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
    elif verb == "transaction":
        await transaction_while_asked()
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
    "recv", "recv with a limit", "messages", "get_event", "read_stream", "wait_first", "sleep", "step", "transaction", "thread",
    "step handle", "child", "ask", "gather", "group", "body of a group",
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
    body = {
        "step": "endless",
        "transaction": "endless",
        "turns": "endless",
        "step handle": "endless",
        "thread": "thread",
        "gather": "endless",
        "group": "endless",
    }
    if verb in body:
        await eventually(lambda: body[verb] in RAN, "the body runs")
    elif verb == "child":
        await eventually(lambda: connection.fetchval("select true from dbos_async.workflows where parent_id = 'w'"))
    else:
        await eventually(
            lambda: connection.fetchval("select true from dbos_async.steps where workflow_id = 'w' and number > 1")
        )
