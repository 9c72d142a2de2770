"""Blocks of a random program that end before all of their branches have: races, cancellations, errors and time limits."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import anyio

from tests.replay.acts import PATIENCE_SECONDS, Node, Scope
from tests.replay.blocks import block, branch, branches, play_body, started


class BranchError(Exception):
    """The error of a branch."""


@block
async def first(scope: Scope, node: Node) -> None:
    """``wait(FIRST_COMPLETED)`` until so many branches have ended; the others are cancelled."""
    async with started(*branches(scope, node)) as tasks:
        pending = set(tasks)
        while pending and len(tasks) - len(pending) < node["enough"]:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            ended = list(done) if node["how"] == "by address" else [task for task in tasks if task in done]
            for task in ended:
                scope.add(f"{node['tag']} sees {task.result()}")
            await play_body(
                scope, [{"do": "step", "how": "plain", "tag": f"{node['tag']}#{len(tasks) - len(pending)}"}]
            )
    scope.add(f"{node['tag']} over")


@block
async def completed(scope: Scope, node: Node) -> None:
    """``as_completed`` over tasks, or over coroutines."""
    async with AsyncExitStack() as stack:
        works: Any = branches(scope, node)
        if node["how"] == "tasks":
            works = await stack.enter_async_context(started(*works))
        for count, ended in enumerate(asyncio.as_completed(works)):
            number = await ended
            scope.add(f"{node['tag']} sees {number}")
            await play_body(scope, [{"do": "step", "how": "plain", "tag": f"{node['tag']}#{count}"}])


@block
async def cleanup(scope: Scope, node: Node) -> None:
    """A body, and what is done after it in any case."""
    try:
        await play_body(scope, node["body"])
    finally:
        await play_body(scope, node["after"])


@block
async def shield(scope: Scope, node: Node) -> None:
    """A body goes on in a shield whose waiter is cancelled."""

    async def waiter(inner: asyncio.Task[Any]) -> None:
        try:
            await asyncio.shield(inner)
            scope.add(f"{node['tag']} in time")
        except asyncio.CancelledError:
            scope.add(f"{node['tag']} left")
            raise

    async with started(branch(scope, node, 0)) as (inner,):
        async with started(waiter(inner)) as (outer,):
            await play_body(scope, node["branches"][1])
            outer.cancel()
            await asyncio.wait([outer])
        await inner


@block
async def stubborn(scope: Scope, node: Node) -> None:
    """A task is cancelled, swallows that, and goes on."""

    async def works_on() -> None:
        try:
            await play_body(scope, node["branches"][0])
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
            scope.add(f"{node['tag']} goes on")
        await play_body(scope, node["after"])

    async with started(works_on()) as (task,):
        await play_body(scope, node["branches"][1])
        task.cancel()
        await asyncio.wait([task])


@block
async def errors(scope: Scope, node: Node) -> None:
    """A group of branches of which some end with an error, which cancels the others."""

    async def worker(number: int) -> None:
        await branch(scope, node, number)
        if number in node["fail"]:
            scope.add(f"{node['tag']}.{number} raises")
            raise BranchError(str(number))

    numbers = range(len(node["branches"]))
    try:
        match node["how"]:
            case "group":
                async with asyncio.TaskGroup() as group:
                    for n in numbers:
                        group.create_task(worker(n))
            case "anyio":
                async with anyio.create_task_group() as anyio_group:
                    for n in numbers:
                        anyio_group.start_soon(worker, n)
            case _:
                async with started(*map(worker, numbers)) as tasks:
                    await asyncio.gather(*tasks)
    except* BranchError as group_of_errors:
        scope.add(f"{node['tag']} ends with {[str(error) for error in group_of_errors.exceptions]}")


@block
async def in_time(scope: Scope, node: Node) -> None:
    """A body with a time limit: one that it keeps for sure, or one of some milliseconds."""
    seconds = node.get("seconds", PATIENCE_SECONDS)
    try:
        match node["how"]:
            case "timeout":
                async with asyncio.timeout(seconds):
                    await play_body(scope, node["body"])
            case "wait_for":
                await asyncio.wait_for(play_body(scope, node["body"]), seconds)
            case _:
                with anyio.fail_after(seconds):
                    await play_body(scope, node["body"])
    except TimeoutError:
        scope.add(f"{node['tag']} too late")
