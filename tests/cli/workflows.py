"""The workflows that the tests of the command line look at and steer."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from dbos_async import DBOS, Question, SetWorkflowID, Topic, WorkflowHandle

HOSTILE = "\x1b[31m[bold red]x[/]\x9b2J\u202e\r\n\t'\"\\"
"""An escape sequence, markup of rich, a C1 control character, a change of direction, lines and quotes."""
QUOTE = Question("quote", str, int)
NUMBER = Topic("number", int)


@DBOS.workflow(name="cli-greet")
async def greet(name: str = "you", times: int = 1) -> str:
    return " ".join(["hello"] * times + [name])


@DBOS.workflow(name="cli-wait")
async def wait(topic: str = "go", seconds: float | None = None) -> Any:
    return await DBOS.recv(topic, timeout_seconds=seconds)


@DBOS.workflow(name="cli-family")
async def have_children(*below: str) -> None:
    for one in below:
        with SetWorkflowID(one):
            await DBOS.start_workflow(wait)
    await DBOS.recv("go", timeout_seconds=None)


@DBOS.workflow(name="cli-fail")
async def fail(text: str = "no such item") -> None:
    raise ValueError(text)


@DBOS.step()
async def set_aside(item: str) -> int:
    return 41


@DBOS.step()
async def refuse(text: str) -> None:
    raise ValueError(text)


@DBOS.workflow(name="cli-order")
async def order(item: str) -> str:
    """Does a little of everything, and waits for the payment."""
    await DBOS.set_event("state", "reserving")
    await set_aside(item)
    await DBOS.set_event("state", "waiting")
    for number in range(4):
        await DBOS.write_stream("progress", number)
    child = await DBOS.start_workflow(greet, "child")
    await child.get_result()
    await DBOS.send(child.workflow_id, "bye", "later")
    with suppress(ValueError):
        await refuse("no stock")
    paid = await DBOS.recv("paid", timeout_seconds=300)
    await DBOS.close_stream("progress")
    return f"{item}: {paid}"


@DBOS.workflow(name="cli-shop")
async def shop() -> int:
    count = 0
    while (asked := await DBOS.recv_envelope(QUOTE, timeout_seconds=None)) is not None:
        count += 1
        if asked.payload == "end":
            await asked.refuse("closed")
            break
        await asked.answer(100 * len(asked.payload))
    return count


@DBOS.workflow(name="cli-hostile")
async def hostile(text: str) -> str:
    await DBOS.set_event(text, text)
    await DBOS.write_stream(text, text)
    with suppress(ValueError):
        await refuse(text)
    await DBOS.recv(text, timeout_seconds=None)
    return text


@DBOS.workflow(name="cli-number")
async def read_number() -> int | None:
    try:
        return await DBOS.recv(NUMBER, timeout_seconds=None)
    except ValueError:
        return await DBOS.recv(NUMBER, timeout_seconds=None)


@DBOS.workflow(name="cli-count")
async def count(end: int) -> None:
    for number in range(end):
        await DBOS.set_event("number", number)


async def started(workflow_id: str, function: Any, *arguments: Any) -> WorkflowHandle[Any]:
    """Start one of them under this id."""
    with SetWorkflowID(workflow_id):
        return await DBOS.start_workflow(function, *arguments)


async def ended(workflow_id: str, function: Any, *arguments: Any) -> WorkflowHandle[Any]:
    """Start one of them, and let it end, however it ends."""
    handle = await started(workflow_id, function, *arguments)
    with suppress(Exception):
        await handle.get_result()
    return handle


async def waits(workflow_id: str) -> bool:
    """Whether it waits for something now."""
    return bool((await DBOS.describe_workflow(workflow_id)).waits)


@DBOS.step(retries_allowed=True, interval_seconds=3600)
async def call_the_bank() -> None:
    raise ConnectionError("the bank does not answer\n\x1b[31m")


@DBOS.workflow(name="cli-retry")
async def retry() -> None:
    await call_the_bank()
