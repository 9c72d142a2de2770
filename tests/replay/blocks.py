"""The blocks of a random program: what it does with asyncio between its acts. Every block ends what it has started."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio

from tests.replay.acts import ACTS, Node, Scope
from tests.replay.deploys import change

Body = list[Node]
Block = Callable[[Scope, Node], Awaitable[None]]

BLOCKS: dict[str, Block] = {}


def block(function: Block) -> Block:
    """Register a block by its name."""
    BLOCKS[function.__name__] = function
    return function


async def play_body(scope: Scope, body: Body) -> None:
    """Play acts and blocks one after the other."""
    for node in body:
        if "patch" in node:
            await change(scope, node)
        await (ACTS.get(node["do"]) or BLOCKS[node["do"]])(scope, node)


async def branch(scope: Scope, node: Node, number: int) -> int:
    """Play one branch of a block, and tell the log when it is cancelled."""
    try:
        await play_body(scope, node["branches"][number])
    except asyncio.CancelledError:
        scope.add(f"{node['tag']}.{number} cancelled")
        raise
    return number


def branches(scope: Scope, node: Node) -> list[Coroutine[Any, Any, int]]:
    """A coroutine for each branch."""
    return [branch(scope, node, number) for number in range(len(node["branches"]))]


@asynccontextmanager
async def started(*works: Coroutine[Any, Any, Any]) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """Tasks that have ended when the block has."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@block
async def side_by_side(scope: Scope, node: Node) -> None:
    """Branches side by side, with one log or with a log each."""
    numbers = range(len(node["branches"]))
    scopes = [scope if node["shared"] else scope.private() for _ in numbers]
    match node["how"]:
        case "gather":
            await asyncio.gather(*(branch(scopes[n], node, n) for n in numbers))
        case "group":
            async with asyncio.TaskGroup() as group:
                for n in numbers:
                    group.create_task(branch(scopes[n], node, n))
                await play_body(scopes[0].private(), node.get("meanwhile", []))
        case "anyio":
            async with anyio.create_task_group() as anyio_group:
                for n in numbers:
                    anyio_group.start_soon(branch, scopes[n], node, n)
        case _:
            async with started(*(branch(scopes[n], node, n) for n in numbers)) as tasks:
                for task in reversed(tasks):
                    await task
    if not node["shared"]:
        for private in scopes:
            scope.log += private.log


@block
async def one_by_one(scope: Scope, node: Node) -> None:
    """Every second act of a branch holds a lock, or one of the places of a semaphore or limiter."""
    gates: dict[str, Callable[[], Any]] = {
        "lock": asyncio.Lock,
        "semaphore": lambda: asyncio.Semaphore(2),
        "anyio_lock": anyio.Lock,
        "limiter": lambda: anyio.CapacityLimiter(2),
    }
    gate = gates[node["how"]]()

    async def worker(number: int) -> None:
        for count, inner in enumerate(node["branches"][number]):
            if count % 2 == 0:
                await play_body(scope, [inner])
                continue
            async with gate:
                scope.add(f"{node['tag']}.{number} in")
                await play_body(scope, [inner])

    await asyncio.gather(*map(worker, range(len(node["branches"]))))


@block
async def condition(scope: Scope, node: Node) -> None:
    """Workers count what they have done, and waiters go on when it is enough."""
    changed, count = asyncio.Condition(), 0

    async def worker(body: Body) -> None:
        nonlocal count
        for inner in body:
            await play_body(scope, [inner])
            async with changed:
                count += 1
                changed.notify_all()

    async def waiter(number: int, enough: int, body: Body) -> None:
        async with changed:
            await changed.wait_for(lambda: count >= enough)
        scope.add(f"{node['tag']}.{number} sees {count}")
        await play_body(scope, body)

    waiters = [waiter(n, enough, body) for n, (enough, body) in enumerate(node["waiters"])]
    await asyncio.gather(*map(worker, node["branches"]), *waiters)


@block
async def events(scope: Scope, node: Node) -> None:
    """Each branch waits for the event of an earlier one, and sets its own at its end."""
    kind = anyio.Event if node["how"] == "anyio" else asyncio.Event
    done = [kind() for _ in node["branches"]]

    async def worker(number: int) -> None:
        for earlier in node["after"][number]:
            await done[earlier].wait()
        scope.add(f"{node['tag']}.{number} begins")
        await branch(scope, node, number)
        done[number].set()

    await asyncio.gather(*map(worker, range(len(done))))


@block
async def futures(scope: Scope, node: Node) -> None:
    """The first branch sets a future or meets the others at a barrier, and all go on together."""
    barrier = asyncio.Barrier(len(node["branches"]))
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def worker(number: int) -> None:
        first, *rest = node["branches"][number]
        if node["how"] == "barrier":
            await play_body(scope, [first])
            scope.add(f"{node['tag']}.{number} is {await barrier.wait()}")
        elif number == 0:
            await play_body(scope, [first])
            future.set_result(scope.log[-1])
        else:
            scope.add(f"{node['tag']}.{number} has {await future}")
            rest = [first, *rest]
        await play_body(scope, rest)

    await asyncio.gather(*map(worker, range(len(node["branches"]))))


@block
async def queue(scope: Scope, node: Node) -> None:
    """Producers put what they have done into a queue, consumers act for each entry."""
    entries: asyncio.Queue[str] = (asyncio.LifoQueue if node["how"] == "lifo" else asyncio.Queue)(node["size"])

    async def producer(body: Body) -> None:
        for inner in body:
            await play_body(scope, [inner])
            await entries.put(scope.log[-1])

    async def consumer(number: int) -> None:
        while True:
            await consume(scope, node, number, await entries.get())
            entries.task_done()

    async with started(*map(consumer, range(node["consumers"]))):
        await asyncio.gather(*map(producer, node["branches"]))
        await entries.join()


async def consume(scope: Scope, node: Node, number: int, entry: str) -> None:
    """One act for an entry; its tag is the next one of the consumer."""
    name = f"{node['tag']}.{number}"
    scope.add(f"{name} has {entry}")
    count = sum(tag.startswith(f"{name}#") for tag in scope.play.asked)
    await play_body(scope, [{"do": "step", "how": "plain", "tag": f"{name}#{count + 1}"}])


@block
async def memory_stream(scope: Scope, node: Node) -> None:
    """The same with a memory object stream of anyio, and its tasks in a group of anyio."""
    send, receive = anyio.create_memory_object_stream[str](node["size"])

    async def producer(body: Body, out: Any) -> None:
        async with out:
            for inner in body:
                await play_body(scope, [inner])
                await out.send(scope.log[-1])

    async def consumer(number: int, source: Any) -> None:
        async with source:
            async for entry in source:
                await consume(scope, node, number, entry)

    async with anyio.create_task_group() as group, send, receive:
        for body in node["branches"]:
            group.start_soon(producer, body, send.clone())
        for number in range(node["consumers"]):
            group.start_soon(consumer, number, receive.clone())


@block
async def generators(scope: Scope, node: Node) -> None:
    """Each branch is an async generator that another one reads."""

    async def source(number: int, own: Scope) -> AsyncGenerator[str, None]:
        for inner in node["branches"][number]:
            await play_body(own, [inner])
            yield own.log[-1]

    async def filtered(number: int, own: Scope) -> AsyncGenerator[str, None]:
        async with aclosing(source(number, own)) as entries:
            async for entry in entries:
                await asyncio.sleep(0)
                yield entry.upper()

    async def reader(number: int) -> Scope:
        own = scope if node["shared"] else scope.private()
        async with aclosing(filtered(number, own)) as entries:
            async for entry in entries:
                own.add(f"{node['tag']}.{number} sees {entry}")
        return own

    for own in await asyncio.gather(*map(reader, range(len(node["branches"])))):
        if own is not scope:
            scope.log += own.log
