"""A workflow begins anew with new arguments: what stays, what goes, and where the call works (T2)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dbos_async import (
    DBOS,
    InvalidCallError,
    InvalidValueError,
    SetWorkflowID,
    SetWorkflowTimeout,
    WorkflowCancelledError,
    WrongPlaceError,
)
from tests.support.eventually import eventually
from tests.support.generations import collect, counts, generation, note, send_all, start

pytestmark = pytest.mark.usefixtures("dbos")


async def test_t2_each_generation_begins_with_its_arguments_and_the_messages_that_are_left(connection: Any) -> None:
    handle = await start(collect, 3, [])
    await send_all([*range(1, 11), 0])
    assert await handle.get_result() == [*range(1, 11), -4]
    status = await handle.get_status()
    assert (status.generation, status.workflow_id) == (4, "w")
    assert status.input["args"][1] == [*range(1, 10)]
    assert await counts(connection) == {"steps": 4, "messages": 2, "events": 0, "stream_entries": 0}


async def test_t2_a_generation_that_was_claimed_continues_as_well(database_url: str, connection: Any) -> None:
    await start(collect, 3, [])
    await send_all([1, 2])
    await eventually(lambda: _steps(2))
    await DBOS.shutdown()
    async with DBOS(database_url):
        await send_all([3, 4, 5, 6, 0])
        again = await DBOS.retrieve_workflow("w")
        assert await again.get_result() == [1, 2, 3, 4, 5, 6, -3]


async def _steps(count: int) -> bool:
    return len([s for s in await DBOS.list_workflow_steps("w") if s.verb == "step"]) == count


@DBOS.workflow(name="generations, cleans up")
async def cleans_up(turn: int) -> int:
    if turn == 2:
        return turn
    try:
        await DBOS.continue_as_new(turn + 1)
    finally:
        await note("in finally")
        await DBOS.set_event("ended", turn)


async def test_t2_finally_blocks_run_and_their_steps_are_of_the_old_generation(connection: Any) -> None:
    handle = await start(cleans_up, 1)
    assert await handle.get_result() == 2
    assert await DBOS.get_event("w", "ended") == 1
    assert await DBOS.list_workflow_steps("w") == []


@DBOS.workflow(name="generations, swallows")
async def swallows(turn: int) -> str:
    if turn == 2:
        return "second"
    try:
        await DBOS.continue_as_new(2)
    except BaseException:
        return "first"


@DBOS.workflow(name="generations, fails afterwards")
async def fails_afterwards(turn: int) -> str:
    try:
        await DBOS.continue_as_new(2)
    finally:
        raise ValueError("afterwards")


@DBOS.workflow(name="generations, in a group")
async def in_a_group(turn: int, fails: bool) -> int:
    async def child() -> None:
        try:
            await DBOS.recv("never", None)
        finally:
            if fails:
                raise ValueError("in the group")

    if turn == 2:
        return turn
    async with asyncio.TaskGroup() as group:
        group.create_task(child())
        await note("before")
        await DBOS.continue_as_new(2, fails)


async def test_t2_code_that_swallows_the_exception_and_returns_continues_all_the_same() -> None:
    assert await (await start(swallows, 1)).get_result() == "second"


async def test_t2_an_error_that_is_raised_instead_ends_the_workflow() -> None:
    handle = await start(fails_afterwards, 1)
    with pytest.raises(ValueError, match="afterwards"):
        await handle.get_result()
    assert await generation() == 1


async def test_t2_a_task_group_lets_the_call_pass() -> None:
    assert await (await start(in_a_group, 1, False)).get_result() == 2


async def test_t2_a_task_that_fails_in_the_group_ends_the_workflow() -> None:
    handle = await start(in_a_group, 1, True)
    with pytest.raises(BaseException, match="unhandled errors") as caught:
        await handle.get_result()
    assert isinstance(caught.value, BaseExceptionGroup)
    assert [str(error) for error in caught.value.exceptions] == ["in the group"]
    assert await generation() == 1


@DBOS.step(name="generations, continues in a step")
async def continues_in_a_step() -> None:
    await DBOS.continue_as_new()


@DBOS.workflow(name="generations, wrong places")
async def wrong_places(count: int, *, text: str = "") -> list[str]:
    told: list[str] = []
    for attempt in (
        continues_in_a_step(),
        asyncio.create_task(DBOS.continue_as_new(1)),
        DBOS.continue_as_new(),
        DBOS.continue_as_new(1, unknown=2),
        DBOS.continue_as_new("not a number"),  # type: ignore[arg-type, unused-ignore]
        DBOS.continue_as_new(1, text="x" * 20_000_000),
    ):
        try:
            await attempt
        except Exception as error:
            told.append(type(error).__name__)
    return told


async def test_t2_the_call_raises_elsewhere_and_for_arguments_that_do_not_fit_and_nothing_happens() -> None:
    with pytest.raises(WrongPlaceError, match="outside of workflows"):
        await DBOS.continue_as_new(1)
    assert await (await start(wrong_places, 1)).get_result() == [
        WrongPlaceError.__name__, WrongPlaceError.__name__, InvalidCallError.__name__, InvalidCallError.__name__,
        InvalidValueError.__name__, InvalidValueError.__name__,
    ]  # fmt: skip
    assert await generation() == 1


async def test_t2_the_deadline_stays() -> None:
    with SetWorkflowTimeout(1.5), SetWorkflowID("w"):
        handle = await DBOS.start_workflow(collect, 1, [])
    before = (await handle.get_status()).deadline
    await send_all([1, 2])
    await eventually(lambda: _is_generation(3))
    assert (await handle.get_status()).deadline == before
    with pytest.raises(WorkflowCancelledError):
        await handle.get_result()
    assert await generation() == 3


async def _is_generation(number: int) -> bool:
    return await generation() == number


async def test_t2_a_later_generation_is_cancelled_and_resumed() -> None:
    handle = await start(collect, 1, [])
    await send_all([1, 2])
    await eventually(lambda: _is_generation(3))
    await DBOS.cancel_workflow("w")
    with pytest.raises(WorkflowCancelledError):
        await handle.get_result()
    await DBOS.resume_workflow("w")
    await send_all([3, 0])
    assert await handle.get_result() == [1, 2, 3, -4]


@DBOS.workflow(name="generations, grows")
async def grows(text: str) -> None:
    await note("before")
    await DBOS.continue_as_new(2 * text)


async def test_d2_t2_arguments_that_the_database_refuses_end_the_workflow_and_lose_nothing(connection: Any) -> None:
    await connection.execute("alter table dbos_async.workflows add check (length(input::text) < 100)")
    handle = await start(grows, "x" * 30)
    with pytest.raises(InvalidValueError, match="A new argument of workflow 'w'"):
        await handle.get_result()
    status = await handle.get_status()
    assert (status.status, status.generation) == ("ERROR", 2)
    assert [step.verb for step in await DBOS.list_workflow_steps("w")] == ["step"]
