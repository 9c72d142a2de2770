"""Whoever waits for a workflow goes on waiting through its generations, here and in another process (T2)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dbos_async import DBOS, DBOSClient, EventOf, SetWorkflowID, StreamOf
from tests.support.eventually import eventually
from tests.support.generations import INBOX, generation, send_all, start

LAST = 7


@DBOS.workflow(name="generations, speaks")
async def speaks(turn: int) -> int:
    number: int = await DBOS.recv(INBOX, None)
    await DBOS.write_stream("said", number)
    await DBOS.set_event("heard", number)
    if number == 0:
        await DBOS.set_event("over", value=True)
        return turn
    await DBOS.continue_as_new(turn + 1)


@DBOS.workflow(name="generations, waits for one that speaks")
async def waits_for_it() -> list[Any]:
    """All that a workflow can wait for."""
    said = [value async for value in DBOS.read_stream("w", "said")]
    heard = [event.value async for event in DBOS.watch_event("w", "heard")]
    first = await DBOS.wait_first(EventOf("w", "over"), StreamOf("w", "said", offset=10_000))
    handle = await DBOS.retrieve_workflow("w")
    return [said, heard[-1], type(first).__name__, await DBOS.get_event("w", "over"), await handle.get_result()]


async def waits_here(verbs: Any, handle: Any) -> list[Any]:
    """All that a program can wait for."""

    async def said() -> list[Any]:
        return [value async for value in verbs.read_stream("w", "said")]

    async def heard() -> list[Any]:
        return [event.value async for event in verbs.watch_event("w", "heard")]

    said_all, heard_all, over, result = await asyncio.gather(
        said(), heard(), verbs.get_event("w", "over", timeout_seconds=60), handle.get_result()
    )
    assert heard_all == [number for number in said_all if number in heard_all]
    return [said_all, heard_all[-1], over, result]


EXPECTED = [[*range(1, LAST + 1), 0], 0, True, LAST + 1]


async def is_generation(number: int) -> bool:
    return await generation() == number


@pytest.mark.usefixtures("dbos")
async def test_t2_who_waits_in_this_process_and_in_another_goes_on(database_url: str) -> None:
    handle = await start(speaks, 1)
    with SetWorkflowID("waiting"):
        workflow = await DBOS.start_workflow(waits_for_it)
    async with DBOSClient(database_url) as client:
        waiting = [
            asyncio.create_task(waits_here(DBOS, handle)),
            asyncio.create_task(waits_here(client, await client.retrieve_workflow("w"))),
        ]
        for number in range(1, LAST + 1):
            await send_all([number])
            await eventually(lambda: is_generation(number + 1))  # noqa: B023 - called at once
        await send_all([0])
        async with asyncio.timeout(10):  # sooner than the slow poll that outlasts lost notifications
            assert await asyncio.gather(*waiting) == [EXPECTED, EXPECTED]
            assert await workflow.get_result() == [EXPECTED[0], 0, "EventValue", True, LAST + 1]


async def test_t2_who_waits_elsewhere_goes_on_through_restarts(database_url: str) -> None:
    async with DBOSClient(database_url, migrate=True) as client:
        with SetWorkflowID("w"):
            handle = await client.start_workflow("generations, speaks", 1)
        waiting = asyncio.create_task(waits_here(client, handle))
        for number in range(1, LAST + 1):
            async with DBOS(database_url, drain_seconds=0):
                await send_all([number])
                if number == 1:
                    with SetWorkflowID("waiting"):
                        await DBOS.start_workflow(waits_for_it)
                await eventually(lambda: is_generation(number + 1))  # noqa: B023 - called at once
        async with DBOS(database_url):
            await send_all([0])
            assert await waiting == EXPECTED
            again = await DBOS.retrieve_workflow("waiting")
            assert await again.get_result() == [EXPECTED[0], 0, "EventValue", True, LAST + 1]


@DBOS.workflow(name="generations, has a child that lasts")
async def has_children(turn: int) -> list[Any]:
    with SetWorkflowID(f"child {turn}"):
        child = await DBOS.start_workflow(speaks, 1)
    if turn < 3:
        await DBOS.continue_as_new(turn + 1)
    return [child.workflow_id, await child.get_result()]


@pytest.mark.usefixtures("dbos")
async def test_t2_children_of_earlier_generations_stay_children() -> None:
    handle = await start(has_children, 1)
    await eventually(lambda: is_generation(3))
    await eventually(lambda: _has_child(3))
    children = await DBOS.list_workflows(parent_id="w")
    assert [child.workflow_id for child in children] == ["child 1", "child 2", "child 3"]
    for number in (1, 2, 3):
        await send_all([1, 0], f"child {number}")
    assert await handle.get_result() == ["child 3", 2]
    for number in (1, 2):
        assert await (await DBOS.retrieve_workflow(f"child {number}")).get_result() == 2


async def _has_child(number: int) -> bool:
    return bool(await DBOS.list_workflows(workflow_id=f"child {number}"))


@pytest.mark.usefixtures("dbos")
async def test_t2_what_operators_see_is_the_present_generation() -> None:
    await start(speaks, 1)
    await send_all([1, 2])
    await eventually(lambda: is_generation(3))
    await eventually(_waits)
    found = await DBOS.describe_workflow("w")
    assert found.status.generation == 3
    assert [step.verb for step in found.steps] == ["recv"]
    assert (found.step_count, found.waits[0].step) == (1, "1")
    assert [(event.key, event.value) for event in found.events] == [("heard", 2)]


async def _waits() -> bool:
    return bool((await DBOS.describe_workflow("w")).waits)
