"""Workflows that continue as new, and what the tables hold of them."""

from __future__ import annotations

import asyncio
from typing import Any

from dbos_async import DBOS, SetWorkflowID, WorkflowHandle

INBOX = "inbox"


@DBOS.step(name="generations, note")
async def note(text: str) -> str:
    return text


@DBOS.workflow(name="generations, collect")
async def collect(most: int, seen: list[int], generations: int = 1) -> list[int]:
    """Receive numbers until 0 comes, so many in each generation."""
    for _ in range(most):
        number = await DBOS.recv(INBOX, None)
        await note(f"got {number}")
        if number == 0:
            return [*seen, -generations]
        seen.append(number)
    await DBOS.continue_as_new(most, seen, generations=generations + 1)


async def start(workflow: Any, *args: Any, workflow_id: str = "w") -> WorkflowHandle[Any]:
    with SetWorkflowID(workflow_id):
        return await DBOS.start_workflow(workflow, *args)


async def send_all(numbers: Any, workflow_id: str = "w") -> None:
    for number in numbers:
        await DBOS.send(workflow_id, number, INBOX)


async def counts(connection: Any, workflow_id: str = "w") -> dict[str, int]:
    """How many rows each table has of a workflow."""
    found: dict[str, int] = {}
    for table, column in (
        ("steps", "workflow_id"), ("messages", "destination_id"), ("events", "workflow_id"), ("stream_entries", "workflow_id"),
    ):  # fmt: skip
        found[table] = await connection.fetchval(
            f"select count(*) from dbos_async.{table} where {column} = $1", workflow_id
        )
    return found


async def generation(workflow_id: str = "w") -> int:
    return (await (await DBOS.retrieve_workflow(workflow_id)).get_status()).generation


async def task_of(coroutine: Any) -> asyncio.Task[Any]:
    """A task that has begun."""
    task = asyncio.get_running_loop().create_task(coroutine)
    await asyncio.sleep(0)
    return task
