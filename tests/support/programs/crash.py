"""A program that kills itself (SIGKILL) at the n-th step boundary of its workflows, or prints how everything ended.

    python -m tests.support.programs.crash URL WORKFLOW FILE [before|during|after N]

FILE gets a line each time the body of a step runs.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from dbos_async import (
    DBOS,
    AskTimeoutError,
    EventOf,
    EventValue,
    Question,
    RefusedError,
    SendMessage,
    SetStartDelay,
    SetWorkflowID,
    Start,
    StepCancelledError,
    StreamOf,
    StreamValue,
    Topic,
)
from dbos_async._messaging import ask, events, read_stream, recv
from dbos_async._runs import sleep
from dbos_async._runs.step import Step
from dbos_async._runs.step_result import StepResult
from dbos_async._runs.waiting import wait
from dbos_async._workflows import handle
from tests.support.programs.tills import rome

URL, WORKFLOW, FILE = sys.argv[1:4]


@DBOS.step()
async def effect(name: str) -> str:
    await asyncio.sleep(random.uniform(0, 0.005))
    with Path(FILE).open("a") as file:
        file.write(f"{name}\n")
    return name.upper()


@DBOS.step()
def blocking_effect(name: str) -> str:
    with Path(FILE).open("a") as file:
        file.write(f"{name}\n")
    return name.upper()


@DBOS.step()
async def fail(reason: str) -> None:
    raise ValueError(reason)


@DBOS.step()
async def told(who: str, length: int, last: str) -> str:
    with Path(FILE).open("a") as file:
        file.write(json.dumps([who, length, last]) + "\n")
    await asyncio.sleep(random.uniform(0, 0.005))
    return who


@DBOS.workflow()
async def partner() -> list[Any]:
    got: list[Any] = []
    while (message := await DBOS.recv(timeout_seconds=60)) != "stop":
        got.append(message)
        await DBOS.write_stream("echo", message)
    return got


@DBOS.workflow()
async def everything() -> dict[str, Any]:
    """Uses every verb once."""
    me = str(DBOS.workflow_id)
    outcome: dict[str, Any] = {"a": await effect("a")}
    await DBOS.set_event("e", outcome["a"])
    await DBOS.write_stream("s", 1)
    child = await DBOS.start_workflow(partner)
    await DBOS.send(child.workflow_id, "one")
    await DBOS.send_bulk([SendMessage(child.workflow_id, "two"), SendMessage(child.workflow_id, "three")])
    outcome["first"] = await DBOS.recv("in", 60)
    outcome["timeout"] = await DBOS.recv("never", 0.05)
    envelope = await DBOS.recv_envelope("in", 60)
    outcome["second"] = envelope.payload if envelope else None
    outcome["event"] = await DBOS.get_event(me, "e")
    await DBOS.set_event("e", "newer")
    try:
        await fail("on purpose")
    except ValueError as error:
        outcome["error"] = error.args
    outcome["b"] = await blocking_effect("b")
    await DBOS.sleep(0.05)
    await DBOS.send(child.workflow_id, "stop")
    outcome["child"] = await child.get_result()
    outcome["stream"] = [value async for value in DBOS.read_stream(child.workflow_id, "echo")]
    await DBOS.write_stream("s", 2)
    await DBOS.close_stream("s")
    return outcome


@DBOS.workflow()
async def side_by_side() -> dict[str, Any]:
    """Tasks of several steps each, with delays that differ from run to run."""

    async def branch(name: str) -> list[Any]:
        found = [await effect(f"{name}{n}") for n in range(3)]
        await DBOS.write_stream(name, found[-1])
        found.append(await DBOS.recv("in", 60))
        await DBOS.sleep(random.uniform(0, 0.003))
        found += await asyncio.gather(effect(f"{name}x"), blocking_effect(f"{name}y"))
        return found

    gathered = await asyncio.gather(branch("g"), branch("h"))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(effect(f"t{n}")) for n in range(3)]
    return {
        "gathered": [[step for step in found if step not in (1, 2)] for found in gathered],
        "received": sorted(step for found in gathered for step in found if step in (1, 2)),
        "group": [task.result() for task in tasks],
    }


@DBOS.workflow()
async def shared_log() -> dict[str, Any]:
    """Tasks that share a log, a lock and a queue; each step is told how far the log had come, and one task loses a race."""
    log: list[Any] = []
    said: dict[str, list[Any]] = {}
    lock, queue = asyncio.Lock(), asyncio.Queue[str]()

    async def act(who: str) -> None:
        said[who] = [who, len(log), log[-1] if log else ""]
        log.append(await told(who, len(log), log[-1] if log else ""))

    async def producer(name: str) -> None:
        for n in range(3):
            async with lock:
                await act(f"{name}{n}")
            await queue.put(f"{name}{n}")

    async def consumer() -> None:
        for _ in range(6):
            await act(f"for {await queue.get()}")

    async def receiver() -> None:
        for _ in range(2):
            await DBOS.sleep(0.02)
            message = await DBOS.recv("in", 60)
            log.append(f"received {message}")

    async def half_an_answer() -> None:
        for n in range(50):
            await act(f"part {n}")

    await asyncio.gather(producer("a"), producer("b"), consumer())
    tasks = [asyncio.create_task(half_an_answer()), asyncio.create_task(receiver())]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    tasks[0].cancel()
    await asyncio.wait(tasks)
    await act("over")
    return {"log": log, "said": said}


@DBOS.step()
async def endless(name: str) -> None:
    await effect(name)
    await asyncio.sleep(3600)


@DBOS.workflow()
async def first_of_several() -> dict[str, Any]:
    """Waits for the first of messages, steps, a child, an event and a stream."""
    me = str(DBOS.workflow_id)
    child = await DBOS.start_workflow(partner)
    slow = await DBOS.start_step(endless, "slow")
    outcome: dict[str, Any] = {"messages": []}
    for _ in range(2):
        won = await DBOS.wait_first("stop", "in", slow)
        outcome["messages"].append(won.payload)
    await slow.cancel()
    try:
        await slow.get_result()
    except StepCancelledError as error:
        outcome["cancelled"] = error.step
    quick = await DBOS.start_step(effect, "quick")
    await DBOS.wait_first(Topic[Any]("stop", Any), quick)
    outcome["quick"] = await quick.get_result()
    await DBOS.send(child.workflow_id, "one")
    word = await DBOS.wait_first(StreamOf[Any](child.workflow_id, "echo"), Topic[Any]("stop", Any))
    outcome["word"] = word.value if isinstance(word, StreamValue) else None
    await DBOS.send(child.workflow_id, "stop")
    await DBOS.wait_first(Topic[Any]("stop", Any), child)
    outcome["child"] = await child.get_result()
    outcome["nothing"] = await DBOS.wait_first(EventOf[Any](me, "e"), timeout_seconds=0.05)
    await DBOS.set_event("e", 7)
    event = await DBOS.wait_first(EventOf[Any](me, "e"))
    outcome["event"] = event.value if isinstance(event, EventValue) else None
    return outcome


QUOTE = Question("quote", str, int)


@DBOS.step()
async def answer_in_a_step(cents: int) -> bool:
    return bool(await questions[str(DBOS.workflow_id)].answer(cents))


questions: dict[str, Any] = {}


@DBOS.workflow()
async def quoter() -> list[Any]:
    """Answers in its body, in a step, late and not at all."""
    told: list[Any] = []
    while True:
        asked = await DBOS.recv_envelope(QUOTE, None)
        assert asked is not None
        if asked.payload == "late":
            await DBOS.sleep(0.1)
        if asked.payload == "refuse":
            told += [await asked.refuse("no stock"), await asked.answer(0)]
        elif asked.payload == "step":
            questions[str(DBOS.workflow_id)] = asked
            await answer_in_a_step(6)  # a step that is repeated hears that there is an answer
        else:
            told.append(await asked.answer(len(asked.payload)))
        if asked.payload == "stop":
            return told


@DBOS.workflow()
async def conversation() -> dict[str, Any]:
    """Asks in every way."""
    outcome: dict[str, Any] = {"a": await effect("a")}
    shop = await DBOS.start_workflow(quoter)
    outcome["quote"] = await DBOS.ask(shop.workflow_id, QUOTE, "abc")
    try:
        await DBOS.ask(shop.workflow_id, QUOTE, "refuse")
    except RefusedError as refused:
        outcome["refused"] = refused.reason
    try:
        outcome["late"] = await DBOS.ask(shop.workflow_id, QUOTE, "late", timeout_seconds=0.02)
    except AskTimeoutError as late:
        outcome["late"] = await DBOS.get_answer(late.message_id, QUOTE)
    outcome["step"] = await DBOS.ask(shop.workflow_id, QUOTE, "step")
    outcome["keyed"] = [await DBOS.ask(shop.workflow_id, QUOTE, "keyed", idempotency_key="k") for _ in range(2)]
    outcome["stop"] = await DBOS.ask(shop.workflow_id, QUOTE, "stop")
    outcome["told"] = await shop.get_result()
    return outcome


@DBOS.workflow()
async def listener(expected: int) -> list[Any]:
    return [await DBOS.recv("in", None) for _ in range(expected)]


@DBOS.workflow()
async def later() -> dict[str, Any]:
    """Uses every verb for what comes later, and every one that is recorded because a replay would find another value."""
    me = str(DBOS.workflow_id)
    began, number, key = await DBOS.now(), await DBOS.random(), await DBOS.uuid()
    await told(f"{began.isoformat()} {number} {key}", 0, "")
    await DBOS.send(me, "alone", "later", delay_seconds=0.05)
    delayed_ones = [
        SendMessage(me, name, "later", delay_seconds=delay) for name, delay in (("third", 0.2), ("second", 0.1))
    ]
    await DBOS.send_bulk([*delayed_ones, SendMessage(me, "first", "later")])
    for n in range(2):
        await DBOS.send("started", n, "in", start=Start(listener, 3))
    await DBOS.send("started", 2, "in", start=Start(listener, 3), delay_seconds=0.2)
    with SetStartDelay(0.1):
        delayed = await DBOS.start_workflow(listener, 1)
    await DBOS.send(delayed.workflow_id, "delayed", "in")
    await DBOS.sleep_until(began + timedelta(seconds=0.05))
    got = [await DBOS.recv("later", 60) for _ in range(4)]
    started = await DBOS.retrieve_workflow("started")
    results = [await started.get_result(), await delayed.get_result()]
    return {"got": got, "results": results, "key": str(key), "number": number, "none": await DBOS.recv("later", 0)}


def crash(mode: str, at: int) -> None:
    """Kill this process around the given step."""
    count = 0

    def dies(perform: Any) -> Any:
        async def perform_or_die(*args: Any, **kwargs: Any) -> StepResult:
            nonlocal count
            count += 1
            mine = count == at
            if mine and mode == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            if mine and mode == "during":
                asyncio.get_running_loop().call_later(random.uniform(0, 0.002), os.kill, os.getpid(), signal.SIGKILL)
            try:
                result: StepResult = await perform(*args, **kwargs)
            finally:  # a step that is cancelled dies there, too
                if mine and mode == "after":
                    os.kill(os.getpid(), signal.SIGKILL)
            return result

        return perform_or_die

    # A step is executed at once, or it waits.
    Step.perform = dies(Step.perform)  # type: ignore[method-assign]  # the crash must come at exactly this place
    for module in (ask, events, handle, read_stream, recv, sleep):
        assert module.wait is wait  # all of them import it
        module.wait = dies(wait)  # type: ignore[attr-defined]  # as above


@DBOS.workflow()
async def cleaning() -> list[Any]:
    """Is cancelled with time to clean up, while tasks of its own are at work."""
    story: list[Any] = [await effect("a")]

    async def listen(name: str) -> None:
        story.append(await DBOS.recv("in", None))
        await effect(name)
        await DBOS.recv("never", None)

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(listen("first"))
            group.create_task(listen("second"))
            await effect("b")
            story.append(await DBOS.cancel_workflow(str(DBOS.workflow_id), cleanup_seconds=600))
            await DBOS.recv("never", None)
    except asyncio.CancelledError:
        story.append("cleans up")
        await DBOS.set_event("status", story)
        story.append(await effect("c"))
        await DBOS.write_stream("s", "the end")
    return story


async def main() -> None:
    workflow: Any = {
        "everything": everything,
        "side_by_side": side_by_side,
        "shared_log": shared_log,
        "first_of_several": first_of_several,
        "conversation": conversation,
        "later": later,
        "serve": rome.serve,
        "cleaning": cleaning,
    }[WORKFLOW]
    async with DBOS(URL, executor_id="crash"):
        with SetWorkflowID("w"):
            handle = await DBOS.start_workflow(workflow)
        for n in (1, 2):
            await DBOS.send("w", n, "in", idempotency_key=str(n))
        result = await handle.get_result()
        names = [status.workflow_id for status in await DBOS.list_workflows()]
        steps = {name: await DBOS.list_workflow_steps(name) for name in names}
        messages = {name: await DBOS.list_messages(name) for name in names}
        child = next((name for name in names if name != "w"), "")
        story = {
            "result": result,
            "events": await DBOS.get_all_events("w"),
            "streams": {key: [v async for v in DBOS.read_stream("w", key)] for key in ("s", "g", "h")},
            "sent": sorted(str(message.payload) for name in names for message in messages[name]),
            "steps": sorted(
                ["w" if name == "w" else "child", step.step, step.verb, step.key.replace(child or "w", "child")]
                for name in names
                for step in steps[name]
            ),
        }
        print(json.dumps(story))


if __name__ == "__main__":
    if len(sys.argv) > 4:
        crash(sys.argv[4], int(sys.argv[5]))
    asyncio.run(main())
