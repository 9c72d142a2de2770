"""Acts that are conversations: started steps, the first of several, questions, loops over what others say, and what comes later."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

from dbos_async import (
    DBOS,
    Asked,
    Envelope,
    EventEnd,
    EventOf,
    EventValue,
    Question,
    RefusedError,
    SetStartDelay,
    Start,
    StepCancelledError,
    StepHandle,
    StreamEnd,
    StreamOf,
    StreamValue,
    WorkflowHandle,
)
from tests.replay.acts import ACTS, PATIENCE_SECONDS, STEPS, Node, Scope, child_workflow, typed
from tests.replay.ledger import Said

HOW_TO_ANSWER = ("answer", "refuse", "twice")
ASKS: dict[str, Question[Any, Any]] = {how: Question(f"asks for {how}", list, list) for how in HOW_TO_ANSWER}


def question_of(topic: str) -> Question[Any, Any]:
    """What the actor asks of this topic."""
    return Question(topic, Any, list)


async def moment(scope: Scope, node: Node) -> None:
    """The time, a random number or a UUID, which decides what comes next."""
    tag = node["tag"]
    match node["how"]:
        case "now":
            value: object = await DBOS.now()
            again = (await DBOS.now()).microsecond % 2
        case "random":
            value = await DBOS.random()
            again = value < 0.5
        case _:
            value = await DBOS.uuid()
            again = value.int % 3
    scope.add(f"{tag} is {value}")
    for number in range(again):
        await ACTS["step"](scope, {"tag": f"{tag}#{number}", "how": "plain"})


async def started(scope: Scope, node: Node) -> None:
    """A step that is started; after some acts it is awaited, cancelled, or left alone."""
    handle = await _start(scope, node)
    try:
        for inner in node["meanwhile"]:
            await ACTS[inner["do"]](scope, inner)
        if node["how"] == "endless" and not node["cancels"]:
            return  # It goes on until the program ends.
        if not node["cancels"]:
            await _end(scope, node["tag"], handle)
    finally:
        if node["how"] != "endless" or node["cancels"]:
            await handle.cancel()
    if node["cancels"]:
        await _end(scope, node["tag"], handle)


async def _start(scope: Scope, node: Node) -> StepHandle[Any]:
    said = scope.say(node["tag"])
    handle: StepHandle[Any] = await DBOS.start_step(STEPS[node["how"]], *said)  # type: ignore[arg-type]  # they are steps
    scope.add(f"{node['tag']} started as {handle.step_id}")
    return handle


async def _end(scope: Scope, tag: str, handle: StepHandle[Any]) -> None:
    said = scope.play.asked[tag]
    try:
        scope.check(said, await handle.get_result())
    except StepCancelledError:
        scope.add(f"{tag} was cancelled")
    except TimeoutError:
        scope.add(f"{tag} was too slow")
    except ValueError as error:
        scope.check(said, list(error.args))
        scope.add(f"{tag} failed")
    else:
        scope.add(f"{tag} ended")


async def first_of(scope: Scope, node: Node) -> None:
    """The first of several, again and again; how far the log is decides which of them comes first. Losers are taken later."""
    tag, several = node["tag"], _Several(scope)
    try:
        for one in node["waits"]:
            await several.add(one)
        for turn in range(node["turns"]):
            if not several.waits.keys() - several.endless:
                break
            at = len(scope.log) % len(several.waits)
            names = [*several.waits][at:] + [*several.waits][:at]
            won = await DBOS.wait_first(*(several.waits[name] for name in names), timeout_seconds=node["seconds"])
            if won is None:
                scope.add(f"{tag} got nothing")
            else:
                await several.take(won)
            await ACTS["step"](scope, {"tag": f"{tag}#{turn}", "how": "plain"})
    finally:
        for handle in several.steps.values():
            await handle.cancel()
    await several.take_the_rest()


class _Several:
    """What one act waits for."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.waits: dict[str, Any] = {}
        self.steps: dict[str, StepHandle[Any]] = {}
        self.endless: set[str] = set()
        """Steps that end only when they are cancelled."""

    async def add(self, one: Node) -> None:
        """Begin what is to be waited for."""
        scope, tag, actor = self.scope, one["tag"], f"{self.scope.play.me} actor"
        match one["kind"]:
            case "topic":
                self.waits[tag] = tag
            case "mail":
                await DBOS.send(scope.play.me, scope.say(tag), tag)
                scope.play.done.add(tag)
                self.waits[tag] = tag
            case "question":
                self.waits[tag] = question_of(tag)
            case "event":
                self.waits[tag] = EventOf(actor, tag)
            case "stream":
                self.waits[tag] = StreamOf(actor, tag)
            case "step":
                self.waits[tag] = self.steps[tag] = await _start(scope, one)
                if one["how"] == "endless":
                    self.endless.add(tag)
            case _:
                said = scope.say(tag)
                self.waits[tag] = await DBOS.start_workflow(child_workflow, *typed(said), one["fails"], one["seconds"])
                scope.play.done.add(tag)

    async def take(self, won: Any) -> None:
        """One that has won."""
        scope = self.scope
        match won:
            case Asked(topic=str(tag)):
                scope.add(f"{tag} asked {won.payload}")
                counts = await won.answer(scope.say(tag))
                scope.add(f"{tag} answered: {counts}")
            case Envelope(topic=str(tag)):
                said = scope.play.asked.get(tag)
                if said is not None:
                    scope.check(said, won.payload)
                scope.add(f"{tag} brought {won.payload}")
            case EventValue(key=tag) | EventEnd(key=tag):
                scope.add(f"{tag} brought {won}")
            case StreamValue(key=tag):
                scope.add(f"{tag} brought {won}")
                self.waits[tag] = StreamOf(won.workflow_id, tag, won.offset + 1)
                return
            case StreamEnd(key=tag):
                scope.add(f"{tag} brought {won}")
            case _:
                tag = next(tag for tag, one in self.waits.items() if one is won)
                await self._end(tag, won)
        if self.waits.pop(tag, None) is None:
            scope.add(f"!! {tag} was not waited for")

    async def take_the_rest(self) -> None:
        """The losers. Nothing of them is lost."""
        while self.waits:
            tag, one = next(iter(self.waits.items()))
            if isinstance(one, str):
                self.waits.pop(tag)
                self.scope.add(f"{tag} later brought {await DBOS.recv(tag, PATIENCE_SECONDS)}")
            elif isinstance(one, StepHandle | WorkflowHandle):
                self.waits.pop(tag)
                await self._end(tag, one)
            elif isinstance(one, Question):
                await self.take(await DBOS.recv_envelope(one, PATIENCE_SECONDS))
            else:
                await self.take(await DBOS.wait_first(one))

    async def _end(self, tag: str, handle: Any) -> None:
        if isinstance(handle, StepHandle):
            await _end(self.scope, tag, handle)
            return
        said = self.scope.play.asked[tag]
        try:
            self.scope.check(said, await handle.get_result())
        except ValueError as error:
            self.scope.check(said, list(error.args))
        self.scope.add(f"{tag} ended")


async def ask(scope: Scope, node: Node) -> None:
    """A question to the echo, which answers or refuses, or answers twice."""
    tag = node["tag"]
    said = scope.say(tag)
    try:
        got = await DBOS.ask(f"{scope.play.me} echo", ASKS[node["how"]], said, timeout_seconds=None)
    except RefusedError as refused:
        scope.check(str(said), refused.reason)
        scope.add(f"{tag} was refused")
    else:
        scope.check(said, got)
        scope.add(f"{tag} was answered")
    scope.play.done.add(tag)


async def answer(scope: Scope, node: Node) -> None:
    """A question of the actor, which is answered twice: the first answer counts."""
    tag = node["tag"]
    asked = await DBOS.recv_envelope(question_of(tag), PATIENCE_SECONDS)
    assert asked is not None
    scope.add(f"{tag} asked {asked.payload}")
    counts = await asked.answer(scope.say(tag)), await asked.answer(["too", "late"])
    scope.add(f"{tag} answered: {counts}")


async def loop(scope: Scope, node: Node) -> None:
    """So many messages of the actor, each with a step."""
    tag, count = node["tag"], 0
    async with aclosing(DBOS.messages(node["topic"], timeout_seconds=PATIENCE_SECONDS)) as found:
        async for envelope in found:
            scope.add(f"{tag} took {envelope.payload}")
            await ACTS["step"](scope, {"tag": f"{tag}#{count}", "how": "plain"})
            count += 1
            if count == node["count"]:
                break


async def watch(scope: Scope, node: Node) -> None:
    """The versions of an event of the actor or of this workflow, up to the last one."""
    tag, key, seen, value = node["tag"], node["key"], 0, None
    of = scope.play.me if node["own"] else f"{scope.play.me} actor"
    async with aclosing(DBOS.watch_event(of, key)) as versions:
        async for version in versions:
            if version.version <= seen:
                scope.add(f"!! {tag} saw version {version.version} after {seen}")
            seen, value = version.version, version.value
            scope.add(f"{tag} saw {value} as {seen}")
            if (value[0] if node["own"] else value) == node["last"]:
                return
    scope.add(f"!! {tag} ended with {value}")


async def merged(scope: Scope, node: Node) -> None:
    """Several streams of the actor, as they come."""
    tag, actor, next_offset = node["tag"], f"{scope.play.me} actor", dict.fromkeys(node["counts"], 0)
    async with aclosing(DBOS.read_streams(*(StreamOf(actor, key) for key in node["counts"]))) as parts:
        async for part in parts:
            if part.offset != next_offset[part.key]:
                scope.add(f"!! {tag} read {part} and not offset {next_offset[part.key]}")
            next_offset[part.key] += 1
            scope.add(f"{tag} read {part.value} of {part.key}")
    if next_offset != node["counts"]:
        scope.add(f"!! {tag} read {next_offset} values of {node['counts']}")


async def later(scope: Scope, node: Node) -> None:
    """Messages to this workflow itself that come later, in any order."""
    tag, told = node["tag"], list[Said]()
    for number, seconds in enumerate(node["delays"]):
        name = f"{tag}#{number}"
        told.append(scope.say(name))
        await DBOS.send(scope.play.me, told[-1], f"later {tag}", delay_seconds=seconds)
        scope.play.done.add(name)
        scope.add(f"{name} sent")
    for _ in node["delays"]:
        envelope = await DBOS.recv_envelope(f"later {tag}", PATIENCE_SECONDS)
        assert envelope is not None
        if envelope.payload not in told:
            scope.add(f"!! {tag} received {envelope.payload}")
        scope.add(f"{envelope.payload[0]} received")


async def send_and_start(scope: Scope, node: Node) -> None:
    """A message that starts its destination."""
    tag = node["tag"]
    said, destination = scope.say(tag), f"{scope.play.me} {tag}"
    await DBOS.send(destination, said, "first", start=Start(started_workflow))
    scope.play.done.add(tag)
    scope.check(said, await (await DBOS.retrieve_workflow(destination)).get_result())
    scope.add(f"{tag} ended")


async def late_child(scope: Scope, node: Node) -> None:
    """A child that begins later."""
    tag = node["tag"]
    said = scope.say(tag)
    with SetStartDelay(node["seconds"]):
        handle = await DBOS.start_workflow(child_workflow, *typed(said), False, 0.0)
    scope.play.done.add(tag)
    scope.check(said, await handle.get_result())
    scope.add(f"{tag} ended")


@DBOS.workflow(name="random started", max_recovery_attempts=1000)
async def started_workflow() -> Any:
    return await DBOS.recv("first", None)


TALKS: dict[str, Callable[[Scope, Node], Awaitable[None]]] = {
    "moment": moment, "started": started, "first_of": first_of, "ask": ask, "answer": answer, "loop": loop, "watch": watch,
    "merged": merged, "later": later, "send_and_start": send_and_start, "late_child": late_child,
}  # fmt: skip
ACTS.update(TALKS)
