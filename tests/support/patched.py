"""Workflows whose code changes while they run, and lives of a program with one code or the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from dbos_async import DBOS, SetWorkflowID, WorkflowHandle
from tests.support.eventually import eventually

CODE = {"is": "old"}
"""The code that is deployed: old, new, last (the old way is deleted), or careless."""
RAN: list[str] = []


@asynccontextmanager
async def deployed(url: str, code: str, version: str | None = None) -> AsyncIterator[None]:
    """One life of the program with this code."""
    CODE["is"] = code
    async with DBOS(url, executor_id="program", drain_seconds=0, application_version=version):
        yield


def is_patched(name: str = "extra") -> bool:
    """What the code asks: the old code does not know of the change, and the last one has forgotten the old way."""
    return CODE["is"] == "last" or (CODE["is"] == "new" and DBOS.patched(name))


@DBOS.step(name="note of patches")
async def note(what: str) -> str:
    RAN.append(what)
    return what


@DBOS.step()
async def endless() -> str:
    RAN.append("endless body")
    await asyncio.sleep(3600)
    return "old way"


async def reaches(workflow_id: str, step: str) -> None:
    """Wait until a step of the workflow is recorded, or has begun to wait."""

    async def there() -> bool:
        return step in {s.step for s in await DBOS.list_workflow_steps(workflow_id)}

    await eventually(there, f"step {step} of {workflow_id}")


async def outputs(workflow_id: str) -> set[Any]:
    """What the recorded steps with a body have returned."""
    steps = await DBOS.list_workflow_steps(workflow_id)
    return {each.output for each in steps if each.key == "note of patches" and each.completed_at is not None}


async def become(workflow_id: str, status: str) -> None:
    """Wait until the workflow has this status."""

    async def there() -> bool:
        return (await (await DBOS.retrieve_workflow(workflow_id)).get_status()).status == status

    await eventually(there, f"{workflow_id} becomes {status}")


async def start(function: Any, *args: Any, workflow_id: str = "w") -> WorkflowHandle[Any]:
    with SetWorkflowID(workflow_id):
        return await DBOS.start_workflow(function, *args)


async def end_of(workflow_id: str = "w", *messages: str) -> Any:
    for message in messages:
        await DBOS.send(workflow_id, message, "go")
    return await (await DBOS.retrieve_workflow(workflow_id)).get_result(timeout_seconds=20)


async def patches_of(workflow_id: str = "w") -> tuple[str, ...]:
    return (await (await DBOS.retrieve_workflow(workflow_id)).get_status()).patches


@DBOS.workflow(name="patched in a line")
async def line(place: int) -> list[str]:
    """Four acts, and at ``place`` the change."""
    seen: list[str] = []
    for number in range(5):
        if number == place:
            seen.append(await note("new way") if is_patched() else "old way")
        if number in (0, 2):
            seen.append(await note(f"act {number}"))
        elif number in (1, 3):
            seen.append(await DBOS.recv("go", timeout_seconds=None))
    return seen


def way(place: int, *, is_new: bool, first: str = "a", second: str = "b") -> list[str]:
    acts = ["act 0", first, "act 2", second]
    acts.insert(place, "new way" if is_new else "old way")
    return acts


@DBOS.workflow(name="patched in tasks")
async def tasks(where: str) -> list[list[str]]:
    """Two tasks, which change before or after their first verb, and a main task that changes before and after them."""

    async def work(name: str) -> list[str]:
        seen: list[str] = []
        if where == "before the first verb of a task" and is_patched():
            seen.append(await note(f"new way of {name}"))
        seen.append(await note(f"{name}1"))
        if where == "behind the first verb of a task" and is_patched():
            seen.append(await note(f"new way of {name}"))
        seen.append(await DBOS.recv(name, timeout_seconds=None))
        if where == "behind the wait of a task" and is_patched():
            seen.append(await note(f"new way of {name}"))
        seen.append(await note(f"{name}2"))
        return seen

    main: list[str] = []
    if where == "before the tasks" and is_patched():
        main.append(await note("new way of main"))
    found = await asyncio.gather(work("a"), work("b"))
    if where == "behind the tasks" and is_patched():
        main.append(await note("new way of main"))
    main.append(await DBOS.recv("go", timeout_seconds=None))
    return [main, *found]


PLACES: Final = (
    "before the tasks",
    "before the first verb of a task",
    "behind the first verb of a task",
    "behind the wait of a task",
    "behind the tasks",
)
