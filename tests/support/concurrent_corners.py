"""More programs of `concurrent.py`: anyio, many turns of the loop without a verb, and cancellations that come early."""

# ruff: noqa: PERF401 - a list that several tasks append to is what these programs are about

from __future__ import annotations

import asyncio
from typing import Any

import anyio

from dbos_async import DBOS
from tests.support.concurrent import fail, note, program, unwind


@program
async def anyio_group(seen: list[Any]) -> None:
    """A group of anyio cancels its tasks again in every turn: some in verbs, some in steps, some that wait for each other."""
    opened = anyio.Event()

    async def work(n: int) -> None:
        try:
            for step in range(2):
                seen.append(await (unwind if n % 3 else note)(f"{n}.{step}"))
            await (opened.wait() if n % 2 else DBOS.recv("never", None))
        finally:
            seen.append(("cancelled", n, len(seen)))

    try:
        async with anyio.create_task_group() as group:
            for n in range(7):
                group.start_soon(work, n)
            await DBOS.sleep(0.02)
            await fail("the group")
    except* ValueError as errors:
        seen.append(str(errors.exceptions[0]))
    await note(f"end {len(seen)}")


@program
async def anyio_scopes(seen: list[Any]) -> None:
    """Scopes of anyio within each other are cancelled while their tasks wait for each other only."""
    never = anyio.Event()

    async def work(name: str) -> None:
        with anyio.CancelScope():
            try:
                await never.wait()
            finally:
                seen.append(name)

    async def family(name: str) -> None:
        async with anyio.create_task_group() as group:
            for n in range(5):
                group.start_soon(work, f"{name}{n}")

    for n in range(3):
        with anyio.move_on_after(3600) as scope:
            async with anyio.create_task_group() as group:
                for name in "abc":
                    group.start_soon(family, f"{n}{name}")
                await note(f"{n}")
                scope.cancel()
    await note(" ".join(map(str, seen)))


@program
async def cancelled_by_a_set(seen: list[Any]) -> None:
    """What cancels the tasks is in a set that has the order of addresses, and so are the futures for which they wait."""

    async def work(n: int) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            seen.append(n)

    for _ in range(3):
        tasks = [asyncio.create_task(work(n)) for n in range(9)]
        await note("all wait")
        for cancel in {task.cancel for task in tasks} if len(seen) % 2 else {_Canceller(task) for task in tasks}:
            cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await note(" ".join(map(str, seen)))


class _Canceller:
    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    def __call__(self) -> None:
        self._task.cancel()


@program
async def anyio_stream(seen: list[Any]) -> None:
    """Producers and consumers of a memory stream, nested groups, and a scope that is cancelled from the inside."""
    send, receive = anyio.create_memory_object_stream[str](1)

    async def produce(n: int) -> None:
        async with send.clone() as out:
            for step in range(3):
                await out.send(await note(f"{n}.{step}"))

    async def consume(n: int) -> None:
        async with receive.clone() as source:
            async for entry in source:
                seen.append((n, entry))
                await note(f"{n} has {entry} as {len(seen)}")

    async with receive, send, anyio.create_task_group() as outer:
        for n in range(2):
            outer.start_soon(consume, n)
        async with anyio.create_task_group() as inner:
            for n in range(3):
                inner.start_soon(produce, n)
        send.close()
        with anyio.CancelScope() as scope:
            outer.start_soon(note, "beside the scope")
            await note("in the scope")
            scope.cancel()
            await note("never")
        seen.append(scope.cancelled_caught)


@program
async def many_turns(seen: list[Any]) -> None:
    """A task takes many turns and fails, while others have asked for steps whose records a replay has not read yet."""

    async def turn(count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(0)
        seen.append(f"{count} turns")
        raise ValueError(count)

    async def work(n: int) -> None:
        try:
            seen.append(await note(str(n)))
        finally:
            seen.append(("over", n))

    for count in (3, 20, 60):
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(turn(count))
                for n in range(5):
                    group.create_task(work(n))
        except* ValueError:
            await note(f"{count} {len(seen)}")


@program
async def sleep_beside_turns(seen: list[Any]) -> None:
    """The main task alone calls verbs, and a sleep of it ends while another task takes turns."""

    async def turn() -> None:
        for _ in range(400):
            await asyncio.sleep(0)
        seen.append("turned")
        seen.append(await note("after the turns"))

    for seconds in (0.0, 0.002, 0.004):
        task = asyncio.create_task(turn())
        await DBOS.sleep(seconds)
        seen.append("slept")
        await task
