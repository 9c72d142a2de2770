"""`continue_as_new` beside the other things that a workflow's life is made of: clean-up, patches, objects, families (T2)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dbos_async import DBOS, SetWorkflowTimeout, WorkflowCancelledError
from tests.support.eventually import eventually
from tests.support.generations import INBOX, generation, send_all, start

NEW_CODE: list[bool] = []


async def is_generation(number: int) -> bool:
    return await generation() == number


@DBOS.workflow(name="generations, cleans up when asked")
async def cleans_up_when_asked(turn: int) -> int:
    try:
        await DBOS.recv(INBOX, None)
    except asyncio.CancelledError:
        await DBOS.set_event("cleaned up", turn)
        raise
    await DBOS.continue_as_new(turn + 1)


@pytest.mark.usefixtures("dbos")
async def test_w6_t2_a_later_generation_cleans_up() -> None:
    handle = await start(cleans_up_when_asked, 1)
    await send_all([1, 2])
    await eventually(lambda: is_generation(3))
    await DBOS.cancel_workflow("w", cleanup_seconds=20)
    with pytest.raises(WorkflowCancelledError):
        await handle.get_result()
    assert await DBOS.get_event("w", "cleaned up") == 3


@DBOS.workflow(name="generations, asked and continues")
async def asked_and_continues(turn: int) -> int:
    try:
        await DBOS.recv(INBOX, None)
    except asyncio.CancelledError:
        await DBOS.set_event(f"asked {turn}", value=True)
        if turn == 2:
            raise
    await DBOS.continue_as_new(turn + 1)


@pytest.mark.usefixtures("dbos")
async def test_w6_t2_a_workflow_that_was_asked_to_end_and_continues_is_asked_again() -> None:
    handle = await start(asked_and_continues, 1)
    await eventually(_waits)
    await DBOS.cancel_workflow("w", cleanup_seconds=20)
    with pytest.raises(WorkflowCancelledError):
        await handle.get_result()
    assert await DBOS.get_all_events("w") == {"asked 1": True, "asked 2": True}
    assert await generation() == 2


async def _waits() -> bool:
    return bool(await DBOS.list_workflow_steps("w"))


@DBOS.workflow(name="generations, patched")
async def patched(seen: list[bool]) -> list[bool]:
    await DBOS.recv(INBOX, None)
    if NEW_CODE:
        seen.append(DBOS.patched("new way"))
    else:
        seen.append(False)
    await DBOS.recv(INBOX, None)
    if len(seen) == 2:
        return seen
    await DBOS.continue_as_new(seen)


async def test_w4_t2_the_next_generation_goes_the_new_way(database_url: str) -> None:
    NEW_CODE.clear()
    async with DBOS(database_url, drain_seconds=0):
        await start(patched, [])
        await send_all([1])
        await eventually(lambda: _steps(2))
    NEW_CODE.append(True)
    async with DBOS(database_url):
        await send_all([2, 3, 4])
        handle = await DBOS.retrieve_workflow("w")
        assert await handle.get_result() == [False, True]
        assert (await handle.get_status()).patches == ("new way",)


async def _steps(count: int) -> bool:
    return len(await DBOS.list_workflow_steps("w")) == count


class Till:
    def __init__(self, config_name: str) -> None:
        self.config_name = config_name

    @DBOS.workflow(name="generations, of a till")
    async def count(self, sum_: int, most: int) -> list[Any]:
        sum_ += await DBOS.recv(INBOX, None)
        if sum_ < most:
            await DBOS.continue_as_new(sum_, most)
        return [self.config_name, sum_]


TILL = DBOS.register_instance(Till("generations till"))


@pytest.mark.usefixtures("dbos")
async def test_t2_a_workflow_of_an_object_continues_with_it() -> None:
    handle = await start(TILL.count, 0, 5)
    await send_all([1, 2, 3])
    assert await handle.get_result() == ["generations till", 6]
    assert await generation() == 3


@DBOS.workflow(name="generations, has a deadline for all")
async def has_a_deadline(turn: int) -> None:
    if turn == 3:
        child = await DBOS.start_workflow(cleans_up_when_asked, 0)
        await child.get_result()
    await DBOS.continue_as_new(turn + 1)


@pytest.mark.usefixtures("dbos")
async def test_t2_a_deadline_reaches_the_children_of_later_generations() -> None:
    with SetWorkflowTimeout(1.5, children=True):
        handle = await start(has_a_deadline, 1)
    with pytest.raises(WorkflowCancelledError):
        await handle.get_result()
    (child,) = await DBOS.list_workflows(parent_id="w")
    assert child.deadline == (await handle.get_status()).deadline


@DBOS.workflow(name="generations, continues without end")
async def continues_without_end(turn: int) -> None:
    try:
        await DBOS.recv(INBOX, 0.02 if turn % 2 else 0)
    except asyncio.CancelledError:
        await DBOS.set_event("asked", value=True)
        raise
    await DBOS.continue_as_new(turn + 1)


@pytest.mark.usefixtures("dbos")
@pytest.mark.parametrize("cleanup_seconds", [None, 60])
async def test_w6_t2_a_cancel_at_any_moment_is_heard(cleanup_seconds: float | None) -> None:
    names = [f"w{number}" for number in range(20)]
    handles = [await start(continues_without_end, 1, workflow_id=name) for name in names]
    await eventually(lambda: _are_beyond(5, names))
    for name in names:
        await DBOS.cancel_workflow(name, cleanup_seconds=cleanup_seconds)
    async with asyncio.timeout(20):  # long before the time to clean up is over
        for handle in handles:
            with pytest.raises(WorkflowCancelledError):
                await handle.get_result()
    if cleanup_seconds is not None:
        assert [await DBOS.get_event(name, "asked") for name in names] == [True] * len(names)


async def _are_beyond(number: int, names: list[str]) -> bool:
    return min([await generation(name) for name in names]) > number
