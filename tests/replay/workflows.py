"""The workflow that plays a random program, and its two partners."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from dbos_async import DBOS, Asked, NotAnsweredError, SetWorkflowID
from tests.replay import endings as _  # noqa: F401 - registers its blocks
from tests.replay.acts import Node, Play, Scope, write_value
from tests.replay.blocks import play_body
from tests.replay.deploys import begins_with_new_code
from tests.replay.talks import ASKS, question_of


@DBOS.workflow(name="random program", max_recovery_attempts=1000)
async def program(program: dict[str, Any]) -> dict[str, Any]:
    """Play a program; the result is all that its tasks saw, and all that they told the world."""
    me = str(DBOS.workflow_id)
    scope = Scope(Play(me, has_new_code=begins_with_new_code(me, program)))
    try:
        await play(scope, me, program)
    except asyncio.CancelledError:
        scope.log.append("asked to end")
        await play_body(scope, program["farewell"])
    return {"log": scope.log, "asked": dict(sorted(scope.play.asked.items())), "done": sorted(scope.play.done)}


async def play(scope: Scope, me: str, program: dict[str, Any]) -> None:
    """Play it, with its partners."""
    if program["script"]:
        with SetWorkflowID(f"{me} actor"):
            await DBOS.start_workflow(actor, me, program["script"])
    if program["asks"]:
        with SetWorkflowID(f"{me} echo"):
            await DBOS.start_workflow(echo, me)
    await play_body(scope, program["body"])
    if program["asks"]:
        await DBOS.send(f"{me} echo", None, "ask")


@DBOS.workflow(name="random actor", max_recovery_attempts=1000)
async def actor(whose: str, script: list[Node]) -> None:
    """Does what is in the script, each at its time."""
    questions: list[asyncio.Task[None]] = []
    for act in script:
        if act["after"]:
            await DBOS.sleep(act["after"])
        match act["do"]:
            case "send":
                await DBOS.send(whose, act["value"], act["topic"])
            case "set":
                await DBOS.set_event(act["key"], act["value"])
            case "write":
                await write_value(act["how"], act["key"], act["value"])
            case "ask":
                questions.append(asyncio.create_task(_ask(whose, act)))
            case _:
                await DBOS.close_stream(act["key"])
    await asyncio.gather(*questions)


async def _ask(whose: str, act: Node) -> None:
    """Wait for an answer, unless the program ends without one: its act was cancelled."""
    with suppress(NotAnsweredError):
        await DBOS.ask(whose, question_of(act["topic"]), act["value"], timeout_seconds=None)


@DBOS.workflow(name="random echo", max_recovery_attempts=1000)
async def echo(whose: str) -> None:
    """Sends each question back, on the topic that is the tag of the question."""
    while True:
        won = await DBOS.wait_first("ask", *ASKS.values())
        said = won.payload
        if isinstance(won, Asked):
            await (won.refuse(str(said)) if won.topic == ASKS["refuse"].name else won.answer(said))
            if won.topic == ASKS["twice"].name:
                await won.answer(["too", "late"])
        elif said is None:
            return
        else:
            await DBOS.send(whose, said, said[0])
