"""An executor process of the fault suite: ``python -m tests.chaos.program URL LEDGER_URL EXECUTOR_ID BODIES RUNS [WORD]``.

WORD says how it listens: `tests.support.listening.options_of`.

It runs until it gets a signal. Its workflow performs the program that it gets as its argument, instruction by instruction, and
returns what it saw. Every value that it writes carries a token of the run that wrote it, which is not part of the program: so it
shows which run wrote. It also plays random programs (`tests.replay`). Their steps leave their traces in the file BODIES. Each run
of a workflow says in the file RUNS that it begins. A line ``loop 3.5`` or ``step 3.5`` on its standard input blocks the event loop
for so many seconds: at once, or in the next body of a step.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from dbos_async import DBOS, DBOSError, SendMessage, SetStartDelay, SetWorkflowID
from dbos_async._runs.context import current
from tests.chaos import bank
from tests.chaos.direct import Direct
from tests.chaos.steps import STEPS, blocks, outcome, traces
from tests.chaos.talking import TALKS, Instruction, Memory, receive_in_a_loop
from tests.replay import ledger as replay_ledger
from tests.replay import workflows as random_programs  # noqa: F401 - registers them
from tests.support.listening import options_of

runs_file = -1


@DBOS.workflow(name="chaos")
async def chaos(program: list[Instruction]) -> list[Any]:
    note_run()
    return await perform(program, Memory())


def note_run() -> None:
    """Say that a run begins: of which workflow, which attempt, here, now."""
    context = current.get()
    assert context is not None
    line = json.dumps([DBOS.workflow_id, context.run.attempt, traces.executor_id, time.time()])
    os.write(runs_file, f"{line}\n".encode())


async def perform(program: list[Instruction], memory: Memory) -> list[Any]:
    """What each instruction saw, in order."""
    return [await VERBS[instruction["do"]](instruction, memory) for instruction in program]


async def do_step(instruction: Instruction, memory: Memory) -> Any:
    more = {"inside": ("to", "topic"), "long": ("seconds",)}.get(instruction["kind"], ())
    try:
        return await STEPS[instruction["kind"]](instruction["tag"], memory.run, *(instruction[name] for name in more))
    except ValueError as error:
        tag, entry, run = error.args
        return {"raised": type(error).__name__, **outcome(tag, entry, run)}


async def do_send(instruction: Instruction, memory: Memory) -> None:
    value = {**instruction["value"], "run": memory.run}
    for _ in range(instruction.get("times", 1)):
        await DBOS.send(instruction["to"], value, instruction["topic"], idempotency_key=instruction.get("key"))


async def do_bulk(instruction: Instruction, memory: Memory) -> None:
    await DBOS.send_bulk(
        [
            SendMessage(message["to"], {**message["value"], "run": memory.run}, message["topic"])
            for message in instruction["messages"]
        ]
    )


async def do_send_astray(instruction: Instruction, memory: Memory) -> str:
    try:
        await DBOS.send_bulk(
            [SendMessage(instruction["to"], "all or nothing", "astray"), SendMessage("nobody", "nothing", "astray")]
        )
    except DBOSError as error:
        return type(error).__name__
    return "sent"


async def do_drain(instruction: Instruction, memory: Memory) -> list[Any]:
    topic = instruction["topic"]
    got: list[Any] = []
    while memory.received[topic] < instruction["up_to"]:
        if instruction["how"] == "messages":
            return got + await receive_in_a_loop(instruction, memory)
        if instruction["how"] == "envelope":
            envelope = await DBOS.recv_envelope(topic, None)
            assert envelope is not None
            got.append(envelope.payload)
        else:
            got.append(await DBOS.recv(topic, None))
        memory.received[topic] += 1
    return got


async def do_maybe(instruction: Instruction, memory: Memory) -> Any:
    message = await DBOS.recv(instruction["topic"], instruction["seconds"])
    memory.received[instruction["topic"]] += message is not None
    return message


async def do_pair(instruction: Instruction, memory: Memory) -> list[Any]:
    topic = instruction["topic"]
    return list(await asyncio.gather(DBOS.recv(topic, None), DBOS.recv(topic, None)))


async def do_until_end(instruction: Instruction, memory: Memory) -> list[Any]:
    got: list[Any] = []
    while not got or "from" not in got[-1]:
        got.append(await DBOS.recv(instruction["topic"], None))
    return got


async def do_set(instruction: Instruction, memory: Memory) -> None:
    await DBOS.set_event(instruction["key"], {"n": instruction["n"], "run": memory.run})


async def do_get(instruction: Instruction, memory: Memory) -> Any:
    value = await DBOS.get_event(instruction["of"], instruction["key"], None)
    return None if value is None else value["n"]


async def do_write(instruction: Instruction, memory: Memory) -> None:
    for n in range(instruction["from"], instruction["to"]):
        await DBOS.write_stream(instruction["key"], {"n": n, "run": memory.run})


async def do_close(instruction: Instruction, memory: Memory) -> str | None:
    await DBOS.close_stream(instruction["key"])
    if instruction["again"]:
        await DBOS.close_stream(instruction["key"])
        try:
            await DBOS.write_stream(instruction["key"], "too late")
        except DBOSError as error:
            return type(error).__name__
    return None


async def do_read(instruction: Instruction, memory: Memory) -> list[int]:
    stream = DBOS.read_stream(instruction["of"], instruction["key"], offset=instruction["offset"])
    return [value["n"] async for value in stream]


async def do_start(instruction: Instruction, memory: Memory) -> str:
    with SetStartDelay(instruction["delay"]):
        if instruction["id"] is None:
            handle = await DBOS.start_workflow(chaos, instruction["program"])
        else:
            with SetWorkflowID(instruction["id"]):
                handle = await DBOS.start_workflow(chaos, instruction["program"])
    memory.children[instruction["name"]] = handle
    return handle.workflow_id


async def do_result(instruction: Instruction, memory: Memory) -> list[Any]:
    return await memory.children[instruction["name"]].get_result()


async def do_sleep(instruction: Instruction, memory: Memory) -> None:
    await DBOS.sleep(instruction["seconds"])


async def do_gather(instruction: Instruction, memory: Memory) -> list[list[Any]]:
    return list(await asyncio.gather(*(perform(branch, memory) for branch in instruction["branches"])))


VERBS: dict[str, Callable[[Instruction, Memory], Awaitable[Any]]] = {
    "step": do_step,
    "send": do_send,
    "bulk": do_bulk,
    "send_astray": do_send_astray,
    "drain": do_drain,
    "maybe": do_maybe,
    "pair": do_pair,
    "until_end": do_until_end,
    "set": do_set,
    "get": do_get,
    "write": do_write,
    "close": do_close,
    "read": do_read,
    "start": do_start,
    "result": do_result,
    "sleep": do_sleep,
    "gather": do_gather,
    **TALKS,
}


def obey_the_driver(loop: asyncio.AbstractEventLoop) -> None:
    """Do what the driver says. A driver that is gone leaves nothing running."""
    for line in sys.stdin:
        where, seconds = line.split()
        loop.call_soon_threadsafe(time.sleep if where == "loop" else blocks.append, float(seconds))
    os._exit(0)


async def main(url: str, ledger_url: str, name: str, bodies: str, runs: str, *listening: str) -> None:
    global runs_file
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    traces.ledger, traces.executor_id = Direct(ledger_url), name
    replay_ledger.keep_in(Path(bodies))
    runs_file = os.open(runs, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    bank.use_sessions(url, is_pooled=bool(listening))
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    threading.Thread(target=obey_the_driver, args=[loop], daemon=True).start()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    while not ended.is_set():
        dbos = DBOS(url, **options_of(list(listening)), executor_id=name)
        try:
            await dbos.__aenter__()
        except DBOSError as error:  # The database is away, or refuses what a launch needs.
            logging.getLogger("chaos").warning("Not launched: %s", error)
            await asyncio.sleep(0.2)
            continue
        try:
            await ended.wait()
        finally:
            await dbos.__aexit__(None, None, None)
    await traces.ledger.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
