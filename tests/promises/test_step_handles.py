"""The handles of steps that a workflow has started: promise C1."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dbos_async import DBOS, StepHandle, WrongPlaceError
from tests.support.eventually import eventually


@DBOS.step(name="thinks, for handles")
async def think(subject: str) -> str:
    return f"thought of {subject}"


@pytest.mark.usefixtures("dbos")
async def test_c1_the_handle_of_a_step_works_in_its_workflow_alone() -> None:
    kept: list[StepHandle[str]] = []

    @DBOS.workflow(name="keeps a handle")
    async def owner() -> str:
        kept.append(await DBOS.start_step(think, "a"))
        await DBOS.recv("go on", timeout_seconds=None)
        return await kept[0].get_result()

    @DBOS.workflow(name="has the handle of another")
    async def thief(verb: str) -> None:
        verbs: dict[str, Callable[[], Awaitable[Any]]] = {
            "get": kept[0].get_result, "cancel": kept[0].cancel, "wait": lambda: DBOS.wait_first(kept[0])
        }  # fmt: skip
        await verbs[verb]()

    handle = await DBOS.start_workflow(owner)
    await eventually(lambda: kept)
    for verb in ("get", "cancel", "wait"):
        with pytest.raises(WrongPlaceError, match="works in the workflow that has started it"):
            await thief(verb)
    with pytest.raises(WrongPlaceError):
        await kept[0].get_result()
    await DBOS.send(handle.workflow_id, None, "go on")
    assert await handle.get_result() == "thought of a"


@pytest.mark.usefixtures("dbos")
async def test_c1_a_step_whose_start_is_cancelled_says_nothing_to_the_event_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @DBOS.step()
    async def slow() -> None:
        await asyncio.sleep(3600)

    @DBOS.workflow(name="loses a handle")
    async def workflow() -> None:
        starting = asyncio.create_task(DBOS.start_step(slow))
        others: set[asyncio.Task[Any]] = set()
        for _ in range(10):
            await asyncio.sleep(0)
            others = {task for task in asyncio.all_tasks() if "StepFunction.execute" in repr(task)}
            if others:
                break
        starting.cancel()
        await asyncio.wait([starting, *others])
        del starting, others

    await asyncio.wait_for(workflow(), 10)
    gc.collect()
    assert "never retrieved" not in caplog.text
