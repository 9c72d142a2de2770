"""Events: promises E1 to E5."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dbos_async import DBOS, DBOSClient, Event, InvalidValueError, SetWorkflowID, WrongPlaceError
from tests.support.eventually import eventually

pytestmark = pytest.mark.usefixtures("dbos")


@DBOS.workflow()
async def say(key: str, values: list[Any], then_wait: bool = False) -> None:
    for value in values:
        await DBOS.set_event(key, value)
    if then_wait:
        await DBOS.recv("the end", None)


@DBOS.workflow()
async def ask(workflow_id: str, key: str, timeout_seconds: float | None = 30) -> Any:
    return await DBOS.get_event(workflow_id, key, timeout_seconds)


async def test_e1_the_latest_value_can_be_read_while_the_workflow_runs_and_after_it_ended(database_url: str) -> None:
    handle = await DBOS.start_workflow(say, "k", [1, None, {"v": 3}], True)
    await eventually(lambda: _is({"v": 3}, handle.workflow_id))
    await DBOS.send(handle.workflow_id, None, "the end")
    await handle.get_result()
    async with DBOSClient(database_url) as client:
        assert await client.get_event(handle.workflow_id, "k") == {"v": 3}
        assert await client.get_all_events(handle.workflow_id) == {"k": {"v": 3}}


async def _is(value: Any, workflow_id: str) -> bool:
    return bool(await DBOS.get_event(workflow_id, "k") == value)


async def test_e1_a_none_value_is_a_value() -> None:
    handle = await DBOS.start_workflow(say, "k", [None])
    await handle.get_result()
    assert await DBOS.get_all_events(handle.workflow_id) == {"k": None}


async def test_e2_values_set_in_one_batch_and_by_tasks_side_by_side_are_each_set_once(connection: Any) -> None:
    @DBOS.workflow()
    async def crowd() -> None:
        await asyncio.gather(*(DBOS.set_event(f"k{n}", n) for n in range(50)))

    handle = await DBOS.start_workflow(crowd)
    await handle.get_result()
    assert await DBOS.get_all_events(handle.workflow_id) == {f"k{n}": n for n in range(50)}
    assert await connection.fetchval("select count(*) from dbos_async.events") == 50


async def test_e3_get_event_waits_for_a_value() -> None:
    with SetWorkflowID("to be started"):
        waiting = asyncio.create_task(DBOS.get_event("to be started", "k"))
        await asyncio.sleep(0)
        await DBOS.start_workflow(say, "k", ["here"])
    assert await waiting == "here"


async def test_e3_get_event_times_out_with_none() -> None:
    assert await DBOS.get_event("nobody", "k", 0.05) is None
    assert await DBOS.get_event("nobody", "k", 0) is None
    assert await ask("nobody", "k", 0.05) is None


async def test_e3_get_event_is_none_at_once_when_the_workflow_ended_without_it() -> None:
    handle = await DBOS.start_workflow(say, "k", [])
    outside = asyncio.create_task(DBOS.get_event(handle.workflow_id, "other", None))
    inside = await DBOS.start_workflow(ask, handle.workflow_id, "other", None)
    await handle.get_result()
    async with asyncio.timeout(5):
        assert await outside is None
        assert await inside.get_result() is None


async def test_e4_in_a_workflow_what_was_read_is_recorded() -> None:
    handle = await DBOS.start_workflow(say, "k", ["first"])
    reader = await DBOS.start_workflow(ask, handle.workflow_id, "k")
    assert await reader.get_result() == "first"
    (step,) = await DBOS.list_workflow_steps(reader.workflow_id)
    assert (step.verb, step.output) == ("get_event", "first")


async def test_e5_steps_set_events() -> None:
    @DBOS.step()
    async def progress() -> None:
        await DBOS.set_event("k", "from a step")
        await DBOS.set_event("k", "and again")

    @DBOS.workflow()
    async def workflow() -> None:
        await progress()

    with SetWorkflowID("w"):
        await workflow()
    assert await DBOS.get_event("w", "k") == "and again"


async def test_d1_a_typed_event_is_checked_and_restored() -> None:
    paid = Event("paid", int)

    @DBOS.workflow()
    async def typed() -> str:
        try:
            await DBOS.set_event(paid, "seven")  # type: ignore[misc]  # the mistake under test
        except InvalidValueError as error:
            await DBOS.set_event(paid, 7)
            return str(error)
        return ""

    handle = await DBOS.start_workflow(typed)
    assert "The value of event 'paid' cannot be used" in await handle.get_result()
    assert await DBOS.get_event(handle.workflow_id, paid) == 7
    assert [step.verb for step in await DBOS.list_workflow_steps(handle.workflow_id)] == ["set_event"]


async def test_d6_set_event_works_in_workflows_and_steps_only() -> None:
    with pytest.raises(WrongPlaceError, match="set_event works in workflows and steps"):
        await DBOS.set_event("k", 1)
