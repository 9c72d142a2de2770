"""The conversations of the fault suite's workflows: each of these functions performs one kind of instruction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from dbos_async import (
    DBOS,
    AskTimeoutError,
    Envelope,
    EventEnd,
    EventOf,
    EventValue,
    RefusedError,
    SendMessage,
    Start,
    StepCancelledError,
    StreamOf,
    WorkflowHandle,
)
from tests.chaos.questions import QUESTION
from tests.chaos.steps import STEPS, answering, endless, outcome

Instruction = dict[str, Any]


@dataclass
class Memory:
    """What one run of a program keeps in mind."""

    run: str = field(default_factory=lambda: uuid4().hex[:8])
    received: Counter[str | None] = field(default_factory=Counter)
    children: dict[str, WorkflowHandle[list[Any]]] = field(default_factory=dict)


async def receive_in_a_loop(instruction: Instruction, memory: Memory) -> list[Any]:
    """All messages that are left to receive, by one loop."""
    topic, got = instruction["topic"], list[Any]()
    async with aclosing(DBOS.messages(topic)) as messages:
        async for envelope in messages:
            got.append(envelope.payload)
            memory.received[topic] += 1
            if memory.received[topic] == instruction["up_to"]:
                break
    return got


async def do_first(instruction: Instruction, memory: Memory) -> list[Any]:
    """Several topics, an event and a step, until all messages are taken; what won each time, in order."""
    left, got = dict(instruction["topics"]), list[Any]()
    thought = await DBOS.start_step(endless, instruction["tag"], memory.run)
    event: EventOf[Any] | None = None if instruction["of"] is None else EventOf(instruction["of"], "e")
    seconds = instruction["seconds"]
    while any(left.values()):
        waits = [topic for topic in left if left[topic]]
        won = await DBOS.wait_first(*waits, *([event] if event else []), thought, timeout_seconds=seconds)
        seconds = None
        match won:
            case Envelope(topic=str(topic)):
                left[topic] -= 1
                got.append([topic, won.payload, str(won.id), waits.index(topic)])
            case EventValue() if event is not None:
                got.append(["event", won.value["n"], won.version, len(waits)])
                event = EventOf(event.workflow_id, "e", won.version)
            case EventEnd():
                event = None
            case None:
                pass
            case _:
                raise AssertionError(f"{won} has won")
    await thought.cancel()
    try:
        await thought.get_result()
    except StepCancelledError:
        got.append(["cancelled", instruction["tag"]])
    return got


async def do_started(instruction: Instruction, memory: Memory) -> dict[str, str]:
    """A step that is started, and awaited or cancelled."""
    tag = instruction["tag"]
    handle: Any = await DBOS.start_step(STEPS[instruction["kind"]], tag, memory.run)  # type: ignore[arg-type]  # it is a step
    if instruction["cancels"]:
        await DBOS.sleep(instruction["seconds"])
        await handle.cancel()
    try:
        found: dict[str, str] = await handle.get_result()
    except StepCancelledError:
        return {"cancelled": tag}
    except ValueError as error:
        return {"raised": type(error).__name__, **outcome(*error.args)}
    return found


async def do_ask(instruction: Instruction, memory: Memory) -> list[Any]:
    """A question to a desk, perhaps several times with one key, and the answers that came."""
    to, value, got = instruction["to"], instruction["value"], list[Any]()
    for _ in range(instruction["times"]):
        try:
            answer = await DBOS.ask(
                to, QUESTION, value, timeout_seconds=instruction["seconds"], idempotency_key=instruction["key"]
            )
        except RefusedError as refused:
            got.append(["refused", refused.reason])
        except AskTimeoutError as late:
            try:
                got.append(["answer", await DBOS.get_answer(late.message_id, QUESTION, None)])
            except RefusedError as refused:
                got.append(["refused", refused.reason])
        else:
            got.append(["answer", answer])
    return got


async def do_desk(instruction: Instruction, memory: Memory) -> list[Any]:
    """Answer so many questions; each question, with the answer that was given and whether it was the first."""
    got: list[Any] = []
    async with aclosing(DBOS.messages(QUESTION)) as questions:
        async for asked in questions:
            value = asked.payload
            tag, token = f"{value['from']}/{value['n']}", str(uuid4())
            match value["how"]:
                case "refuse":
                    got.append([value, tag, await asked.refuse(tag)])
                case "step":
                    told = await answering(tag, memory.run, asked)
                    got.append([value, told, True])
                case _:
                    # A replay makes another token, and is told whether the one of the run before counted.
                    counts = await asked.answer({"token": token, "tag": tag})
                    got.append([value, None, counts])
                    if value["how"] == "twice":
                        got[-1].append(await asked.answer({"token": str(uuid4()), "tag": "too late"}))
            if len(got) == instruction["count"]:
                break
    return got


async def do_watch(instruction: Instruction, memory: Memory) -> list[Any]:
    """The values of an event with their versions, until its workflow has ended or so many have come."""
    got: list[Any] = []
    async with aclosing(DBOS.watch_event(instruction["of"], "e")) as versions:
        async for found in versions:
            got.append([found.value["n"], found.version])
            if len(got) == instruction["most"]:
                break
    return got


async def do_merge(instruction: Instruction, memory: Memory) -> list[Any]:
    """Several streams together."""
    streams = [StreamOf(of, key) for of, key in instruction["streams"]]
    async with aclosing(DBOS.read_streams(*streams)) as parts:
        return [[part.workflow_id, part.key, part.offset, part.value["n"]] async for part in parts]


async def do_later(instruction: Instruction, memory: Memory) -> None:
    """Messages that come later, each at its time."""
    await DBOS.send_bulk(
        [
            SendMessage(
                message["to"], {**message["value"], "run": memory.run}, message["topic"], delay_seconds=message["delay"]
            )
            for message in instruction["messages"]
        ]
    )


async def do_send_start(instruction: Instruction, memory: Memory) -> str:
    """A message that starts its destination, unless another sender has done so."""
    start = Start("chaos", instruction["program"])
    await DBOS.send(instruction["to"], {**instruction["value"], "run": memory.run}, instruction["topic"], start=start)
    to: str = instruction["to"]
    return to


async def do_moments(instruction: Instruction, memory: Memory) -> list[Any]:
    """The time, twice, and what is random between."""
    before = await DBOS.now()
    found = await DBOS.random(), str(await DBOS.uuid())
    return [before.timestamp(), *found, (await DBOS.now()).timestamp()]


TALKS: dict[str, Callable[[Instruction, Memory], Awaitable[Any]]] = {
    "first": do_first,
    "started": do_started,
    "ask": do_ask,
    "desk": do_desk,
    "watch": do_watch,
    "merge": do_merge,
    "later": do_later,
    "send_start": do_send_start,
    "moments": do_moments,
}
