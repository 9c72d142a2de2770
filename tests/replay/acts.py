"""The acts of a random program: steps and verbs, each of which tells the world how far the program's log had come.

Nothing but the outcomes of acts decides what a program does. So when the same outcomes come in the same order, every act is the
same one with the same arguments.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from dbos_async import DBOS, StepTimeoutError
from tests.replay import steps
from tests.replay.ledger import Said

Node = dict[str, Any]
"""One act or block of a program. ``do`` says what it is, ``tag`` is its name in the log."""

PATIENCE_SECONDS = 36_000.0
"""How long an act waits for something that surely comes. No outage of the fault suite is so long."""

STEPS: dict[str, Callable[..., Awaitable[Said]]] = {
    "plain": steps.work,
    "thread": steps.work_in_thread,
    "flaky": steps.flaky,
    "failing": steps.failing,
    "limited": steps.limited,
    "endless": steps.endless,
}


@dataclass
class Play:
    """One execution of a program: what all its tasks share."""

    me: str
    asked: dict[str, Said] = field(default_factory=dict)
    """What each act told the world."""
    done: set[str] = field(default_factory=set)
    """The acts that have stored something and returned."""
    has_new_code: bool = False
    """Whether its code has changed since the program began (`deploys.py`)."""


class Scope:
    """The log that some tasks of a program share. What they do depends on it."""

    def __init__(self, play: Play) -> None:
        self.play = play
        self.log: list[str] = []

    def private(self) -> Scope:
        """A log of one task's own."""
        return Scope(self.play)

    def add(self, entry: str) -> None:
        """Let something happen."""
        self.log.append(entry)

    def say(self, tag: str) -> Said:
        """What the act of this tag tells the world."""
        assert tag not in self.play.asked, f"{tag} acts twice"
        said: Said = [tag, len(self.log), self.log[-1] if self.log else ""]
        self.play.asked[tag] = said
        return said

    def check(self, said: object, got: object) -> None:
        """An outcome repeats what its act had told. Another act's outcome shows in the log."""
        if said != got:
            self.add(f"!! {said} got the outcome of {got}")


async def step(scope: Scope, node: Node) -> None:
    """A step: async or in a thread, perhaps with retries, an error or a time limit."""
    tag = node["tag"]
    said = scope.say(tag)
    try:
        got = await STEPS[node["how"]](*said)
    except StepTimeoutError:
        scope.add(f"{tag} was too slow")
    except ValueError as error:
        scope.check(said, list(error.args))
        scope.add(f"{tag} failed")
    else:
        scope.check(said, got)
        scope.add(tag)


async def mail(scope: Scope, node: Node) -> None:
    """A message to this workflow itself, or a question to the echo; and what comes back."""
    tag = node["tag"]
    said = scope.say(tag)
    if node["do"] == "mail":
        await DBOS.send(scope.play.me, said, tag)
    else:
        await DBOS.send(f"{scope.play.me} echo", said, "ask")
    scope.play.done.add(tag)
    scope.add(f"{tag} sent")
    if node["how"] == "envelope":
        envelope = await DBOS.recv_envelope(tag, PATIENCE_SECONDS)
        scope.check(said, envelope and envelope.payload)
    else:
        scope.check(said, await DBOS.recv(tag, PATIENCE_SECONDS))
    scope.add(f"{tag} received")


async def take(scope: Scope, node: Node) -> None:
    """One message of the actor, or none in time."""
    got = await DBOS.recv(node["topic"], node.get("seconds", PATIENCE_SECONDS))
    scope.add(f"{node['tag']} took {got}")


async def set_event(scope: Scope, node: Node) -> None:
    """An event of this workflow."""
    await DBOS.set_event(node["key"], scope.say(node["tag"]))
    scope.play.done.add(node["tag"])
    scope.add(f"{node['tag']} set")


async def get_event(scope: Scope, node: Node) -> None:
    """An event of the actor, once there is one."""
    got = await DBOS.get_event(f"{scope.play.me} actor", node["key"], PATIENCE_SECONDS)
    scope.add(f"{node['tag']} got {got}")


async def get_own_event(scope: Scope, node: Node) -> None:
    """An event of this workflow that another task sets."""
    got = await DBOS.get_event(scope.play.me, node["key"], PATIENCE_SECONDS)
    scope.check(scope.play.asked.get(node["of"]), got)
    scope.add(f"{node['tag']} got")


async def write(scope: Scope, node: Node) -> None:
    """A value for a stream of this workflow, and perhaps more words around it."""
    await write_value(node["how"], node["key"], scope.say(node["tag"]))
    scope.play.done.add(node["tag"])
    scope.add(f"{node['tag']} written")


async def write_value(how: str, key: str, value: Said | str) -> None:
    """Write a value alone, with others at once, through a writer, or in a step that may be tried again."""
    match how:
        case "one":
            await DBOS.write_stream(key, value)
        case "many":
            await DBOS.write_stream_many(key, ["before", value, "after"])
        case "writer":
            async with DBOS.stream_writer(key, max_values=2, max_seconds=0.003) as out:
                await out.write("before")
                await out.write(value)
                await DBOS.sleep(0.004)
                await out.write("after")
        case _:
            await steps.speak(key, value)


async def close(scope: Scope, node: Node) -> None:
    """The end of a stream of this workflow."""
    await DBOS.close_stream(node["key"])
    scope.add(f"{node['tag']} closed")


async def read(scope: Scope, node: Node) -> None:
    """A stream of the actor, or of this workflow itself, to its end."""
    of = scope.play.me if node["own"] else f"{scope.play.me} actor"
    async with aclosing(DBOS.read_stream(of, node["key"], timeout_seconds=PATIENCE_SECONDS)) as values:
        async for value in values:
            if isinstance(value, list):
                scope.check(scope.play.asked.get(value[0]), value)
            scope.add(f"{node['tag']} read {value[0] if isinstance(value, list) else value}")


async def child(scope: Scope, node: Node) -> None:
    """A child that returns what it was told, or raises that."""
    tag = node["tag"]
    said = scope.say(tag)
    handle = await DBOS.start_workflow(child_workflow, *typed(said), node["fails"], node["seconds"])
    scope.play.done.add(tag)
    scope.add(f"{tag} started")
    try:
        scope.check(said, await handle.get_result())
    except ValueError as error:
        scope.check(said, list(error.args))
    scope.add(f"{tag} ended")


async def sleep(scope: Scope, node: Node) -> None:
    """A durable sleep."""
    await DBOS.sleep(node["seconds"])
    scope.add(f"{node['tag']} slept")


async def turns(scope: Scope, node: Node) -> None:
    """Some turns of the event loop without any act."""
    for _ in range(node["count"]):
        await asyncio.sleep(0)
    scope.add(f"{node['tag']} turned")


def typed(said: Said) -> tuple[str, int, str]:
    """What an act tells, as the arguments of a child."""
    tag, length, last = said
    return str(tag), int(str(length)), str(last)


@DBOS.workflow(name="random child", max_recovery_attempts=1000)
async def child_workflow(tag: str, length: int, last: str, fails: bool, seconds: float) -> Any:
    if seconds:
        await DBOS.sleep(seconds)
    if fails:
        raise ValueError(tag, length, last)
    return [tag, length, last]


ACTS: dict[str, Callable[[Scope, Node], Awaitable[None]]] = {
    "step": step, "mail": mail, "question": mail, "take": take, "set": set_event, "get": get_event,
    "get_own": get_own_event, "write": write, "close": close, "read": read, "child": child, "sleep": sleep, "turns": turns,
}  # fmt: skip
