"""Programs whose path depends on which of their tasks receives a result first. What each has seen is its result."""

# ruff: noqa: PERF401 - a list that several tasks append to is what these programs are about

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

from dbos_async import DBOS

Program = Callable[[list[Any]], Awaitable[None]]

RAN: list[str] = []
PROGRAMS: dict[str, Program] = {}


def program(function: Program) -> Program:
    PROGRAMS[function.__name__] = function
    return function


@DBOS.step()
async def note(what: str) -> str:
    RAN.append(what)
    await asyncio.sleep(random.random() * 0.005)
    return what


@DBOS.step()
def note_in_a_thread(what: str) -> str:
    return what


@DBOS.step(name="concurrent fail")
async def fail(what: str) -> None:
    raise ValueError(what)


@DBOS.step()
async def unwind(what: str) -> str:
    try:
        await asyncio.sleep(0.05)
    finally:
        await asyncio.sleep(0.005)
    return what


@DBOS.workflow(name="child in order")
async def child(n: int) -> int:
    await DBOS.set_event("e", n)
    for value in (n, n + 10):
        await DBOS.write_stream("s", value)
    await DBOS.close_stream("s")
    return n * 100


@program
async def shared_list(seen: list[Any]) -> None:
    async def work(name: str) -> None:
        for n in range(3):
            seen.append(await note(f"{name}{n}"))

    await asyncio.gather(*map(work, "abcd"))


@program
async def all_kinds(seen: list[Any]) -> None:
    me = DBOS.workflow_id or ""

    async def act(name: str, verb: Awaitable[Any]) -> None:
        seen.append((name, await verb))
        await note(f"after {name} at {len(seen)}")

    await asyncio.gather(
        act("step", note("a")),
        act("thread", note_in_a_thread("b")),
        act("send", DBOS.send(me, "m", "t")),
        act("recv", DBOS.recv("t", 5)),
        act("nothing", DBOS.recv("u", 0.01)),
        act("set", DBOS.set_event("e", 1)),
        act("get", DBOS.get_event(me, "e", 5)),
        act("write", DBOS.write_stream("s", 1)),
        act("sleep", DBOS.sleep(0.003)),
    )


@program
async def queue(seen: list[Any]) -> None:
    items: asyncio.Queue[str] = asyncio.Queue()

    async def produce(name: str) -> None:
        for n in range(3):
            await items.put(await note(f"{name}{n}"))

    async def consume(name: str) -> None:
        while (item := await items.get()) != "end":
            seen.append((name, item))
            await note(f"{name} has {item}")

    consumers = [asyncio.create_task(consume(name)) for name in "xy"]
    await asyncio.gather(*map(produce, "ab"))
    for _ in consumers:
        await items.put("end")
    await asyncio.gather(*consumers)


@program
async def races(seen: list[Any]) -> None:
    for n in range(3):
        tasks = [asyncio.create_task(note(f"{n}{name}"), name=name) for name in "abc"]
        done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        seen.append([task.get_name() for task in done])  # in the order of the set
        for task in rest:
            task.cancel()
        seen.append(await asyncio.gather(*rest, return_exceptions=True) == [])
        await note(f"winner {seen[-2]}")


@program
async def completed(seen: list[Any]) -> None:
    for first in asyncio.as_completed([asyncio.create_task(note(name)) for name in "abcde"]):
        seen.append(await first)
        await note(f"{len(seen)} {seen[-1]}")


@program
async def completed_coroutines(seen: list[Any]) -> None:
    async def work(name: str, n: int) -> str:
        seen.append(f"{name}{n} begins")
        return await note(f"{name}{n}")

    for first in asyncio.as_completed([work(name, n) for name in "abc" for n in range(4)]):
        seen.append(await first)
    for first in asyncio.as_completed([note(name) for name in "defgh"]):
        seen.append(await first)
        await note(f"{len(seen)} {seen[-1]}")


@program
async def stopped_by_a_message(seen: list[Any]) -> None:
    me = DBOS.workflow_id or ""

    async def answer() -> None:
        try:
            for n in range(20):
                seen.append(await note(str(n)))
        except asyncio.CancelledError:
            seen.append("half")
            await note(f"half after {len(seen)}")
            raise

    async def stop() -> None:
        await note("wait")
        await note("a bit")
        await DBOS.send(me, "stop", "control")

    stopping, answering = asyncio.create_task(stop()), asyncio.create_task(answer())
    await DBOS.recv("control", None)
    answering.cancel()
    await asyncio.gather(stopping, answering, return_exceptions=True)


@program
async def failing_group(seen: list[Any]) -> None:
    async def work(n: int) -> None:
        try:
            await note(f"{n}")
            if n == 1:
                await fail("1")
            await asyncio.Event().wait() if n % 2 else await note(f"{n} again")
        except BaseException as error:
            seen.append((n, type(error).__name__))
            await note(f"{n} ends at {len(seen)}")
            raise

    try:
        async with asyncio.TaskGroup() as group:
            for n in range(7):
                group.create_task(work(n))
    except* ValueError:
        seen.append("failed")


@program
async def locks(seen: list[Any]) -> None:
    lock, two, condition, box = asyncio.Lock(), asyncio.Semaphore(2), asyncio.Condition(), list[str]()

    async def work(name: str) -> None:
        async with two:
            seen.append(await note(name))
        async with lock:
            seen.append(await note(name * 2))
        async with condition:
            box.append(name)
            condition.notify()

    async def take() -> None:
        async with condition:
            await condition.wait_for(lambda: box)
            seen.append(f"took {box.pop()}")
        await note(seen[-1])

    await asyncio.gather(*map(work, "abcd"), *(take() for _ in range(4)))


@program
async def shields(seen: list[Any]) -> None:
    inner = [asyncio.create_task(note(name)) for name in "abc"]

    async def outer(n: int) -> None:
        try:
            seen.append(await asyncio.shield(inner[n]))
        except asyncio.CancelledError:
            seen.append(("cancelled", n))
            await note(f"cancelled {n}")
            raise

    outside = [asyncio.create_task(outer(n)) for n in range(3)]
    await note("begin")
    outside[0].cancel()
    outside[2].cancel()
    await asyncio.gather(*outside, *inner, return_exceptions=True)


@program
async def cancelled_steps(seen: list[Any]) -> None:
    tasks = [asyncio.create_task(unwind(str(n))) for n in range(3)]
    others = [asyncio.create_task(note(f"other {n}")) for n in range(3)]
    await note("begin")
    tasks[0].cancel()
    seen.append(await note("cancelled 0"))
    tasks[1].cancel()
    found = await asyncio.gather(*tasks, *others, return_exceptions=True)
    seen.extend(type(one).__name__ if isinstance(one, BaseException) else one for one in found)


@program
async def abandoned_receives(seen: list[Any]) -> None:
    me = DBOS.workflow_id or ""

    async def receive() -> None:
        while True:
            seen.append(await DBOS.recv("t", None))
            await note(f"has {seen[-1]}")

    for round_number in range(2):
        receiving = asyncio.create_task(receive())
        for n in range(3):
            await DBOS.send(me, f"{round_number}.{n}", "t")
            seen.append("sent")
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)
    while (left := await DBOS.recv("t", 0)) is not None:
        seen.append(("left", left))


@program
async def two_receivers(seen: list[Any]) -> None:
    me = DBOS.workflow_id or ""

    async def receive(name: str) -> None:
        for _ in range(3):
            seen.append((name, await DBOS.recv("t", 5)))
            await note(f"{seen[-1]}")

    async def send(name: str) -> None:
        for n in range(3):
            await DBOS.send(me, f"{name}{n}", "t")
            seen.append(name)

    await asyncio.gather(receive("x"), receive("y"), send("a"), send("b"))


@program
async def children(seen: list[Any]) -> None:
    async def run(n: int) -> None:
        handle = await DBOS.start_workflow(child, n)
        seen.append(await DBOS.get_event(handle.workflow_id, "e", 5))
        async for value in DBOS.read_stream(handle.workflow_id, "s"):
            seen.append(value)
        seen.append(await handle.get_result())

    await asyncio.gather(*map(run, range(3)))


@program
async def sleeps(seen: list[Any]) -> None:
    async def sleep(n: int) -> None:
        for _ in range(2):
            await DBOS.sleep(0.002 * (n % 3))
            seen.append(n)
            await note(f"{n} at {len(seen)}")

    await asyncio.gather(*map(sleep, range(5)))


@program
async def sleeping_main_task(seen: list[Any]) -> None:
    async def work() -> None:
        for n in range(5):
            seen.append(await note(str(n)))

    task = asyncio.create_task(work())
    await DBOS.sleep(0.008)
    seen.append("awake")
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await note(f"end {len(seen)}")


@program
async def slow_helper(seen: list[Any]) -> None:
    """A task that calls no verb and takes many turns of the loop."""
    items: asyncio.Queue[int] = asyncio.Queue()

    async def help_slowly() -> None:
        while True:
            item = await items.get()
            for _ in range(item * 12):
                await asyncio.sleep(0)
            seen.append(("helper", item))

    task = asyncio.create_task(help_slowly())
    for n in range(6):
        items.put_nowait(n)
        seen.append(await note(str(n)))
    task.cancel()
