"""Stream writers in one process: promise S8, and S2 to S6 where they touch them."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from dbos_async import (
    DBOS,
    InvalidValueError,
    SetWorkflowID,
    StepCancelledError,
    StepTimeoutError,
    Stream,
    StreamClosedError,
    WorkflowEndedError,
    WrongPlaceError,
)
from tests.support.eventually import eventually
from tests.support.shown import check_rows

pytestmark = pytest.mark.usefixtures("dbos")

MODES = ("rewind", "continue", "skip", "append")
LOCK = "lock table dbos_async.stream_entries in exclusive mode"
EXPECTED = {
    "rewind": ["2a", "2b", "2c"],
    "continue": ["1a", "1b", "2c"],
    "skip": ["1a", "1b", "2c"],
    "append": ["1a", "1b", "2a", "2b", "2c"],
}
"""The first attempt says two values, and the second one three."""


async def collect(workflow_id: str, key: str = "s") -> list[Any]:
    return [value async for value in DBOS.read_stream(workflow_id, key)]


async def finished(workflow: Any, *args: Any) -> tuple[Any, list[Any]]:
    """The result of the workflow ``w``, and what a late reader sees."""
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(workflow, *args)
    result = await handle.get_result()
    return result, await collect("w")


async def says(mode: Any, attempt: int, count: int, then_wait: bool = False) -> None:
    async with DBOS.stream_writer("s", on_retry=mode) as out:
        assert out.written == (("1a", "1b") if mode in ("continue", "append") and attempt > 1 else ()) or mode == "skip"
        for letter in "abc"[len(out.written) if mode == "continue" else 0 : count]:
            await out.write(f"{attempt}{letter}")
        if then_wait:
            await out.flush()
            await asyncio.sleep(3600)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("end", ["error", "time-out"])
async def test_s8_a_new_attempt_does_what_it_says_with_what_the_last_one_wrote(
    mode: str, end: str, connection: Any
) -> None:
    tried: list[int] = []

    @DBOS.step(retries_allowed=True, interval_seconds=0, timeout_seconds=0.2 if end == "time-out" else None)
    async def step() -> None:
        tried.append(0)
        await says(mode, len(tried), 1 + len(tried), then_wait=end == "time-out" and len(tried) == 1)
        if len(tried) == 1:
            raise OSError("once more")

    @DBOS.workflow()
    async def workflow() -> None:
        await DBOS.write_stream("s", "before")
        await step()
        await DBOS.write_stream("s", "after")

    assert (await finished(workflow))[1] == ["before", *EXPECTED[mode], "after"]
    await check_rows(connection, "w", "s")


@pytest.mark.parametrize("way", ["cancel", "time-out", "move_on_after"])
async def test_s8_a_writer_that_is_abandoned_leaves_what_was_committed_and_nothing_half(way: str) -> None:
    @DBOS.step(timeout_seconds=0.2 if way == "time-out" else None)
    async def step() -> None:
        with anyio.move_on_after(0.2 if way == "move_on_after" else None):
            async with DBOS.stream_writer("s", max_seconds=60) as out:
                for n in range(3):
                    await out.write(n)
                await out.flush()
                await out.write("never sent")
                await asyncio.sleep(3600)

    @DBOS.workflow()
    async def workflow() -> str | None:
        handle = await DBOS.start_step(step)
        if way == "cancel":
            await DBOS.recv("stop")
            await handle.cancel()
        try:
            await handle.get_result()
        except (StepCancelledError, StepTimeoutError) as error:
            return type(error).__name__
        return None

    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(workflow)
    async for value in DBOS.read_stream("w", "s"):
        if value == 2:
            await DBOS.send("w", None, "stop")
    error = {"cancel": "StepCancelledError", "time-out": "StepTimeoutError", "move_on_after": None}[way]
    assert await handle.get_result() == error
    assert await collect("w") == [0, 1, 2]


async def test_s8_a_cancelled_workflow_keeps_what_its_writer_had_committed() -> None:
    @DBOS.step()
    async def step() -> None:
        async with DBOS.stream_writer("s", max_seconds=60) as out:
            await out.write(1)
            await out.flush()
            await out.write(2)
            await asyncio.sleep(3600)

    @DBOS.workflow()
    async def workflow() -> None:
        await step()

    with SetWorkflowID("w"):
        await DBOS.start_workflow(workflow)
    found = []
    async for value in DBOS.read_stream("w", "s"):
        found.append(value)
        await DBOS.cancel_workflow("w")
    assert found == [1]
    assert await collect("w") == [1]


async def test_s8_an_attempt_whose_writer_was_cancelled_takes_back_what_the_last_attempt_wrote() -> None:
    tried: list[int] = []

    @DBOS.step(retries_allowed=True, interval_seconds=0)
    async def step() -> None:
        tried.append(0)
        with anyio.CancelScope() as scope:
            async with DBOS.stream_writer("s", max_seconds=60) as out:
                await out.write(f"attempt {len(tried)}")
                if len(tried) == 1:
                    await out.flush()
                    raise OSError("once more")
                scope.cancel()
                await asyncio.sleep(3600)

    @DBOS.workflow()
    async def workflow() -> None:
        await step()

    assert (await finished(workflow))[1] == []


async def test_s8_a_batch_that_is_under_way_when_its_attempt_fails_stands_before_the_rewind(
    connection: Any, database_url: str
) -> None:
    tried: list[int] = []
    locked = asyncio.Event()
    scopes: list[anyio.CancelScope] = []

    @DBOS.step(retries_allowed=True, interval_seconds=0)
    async def step() -> None:
        tried.append(0)
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            async with DBOS.stream_writer("s", max_values=1) as out:
                if len(tried) == 1:
                    await out.write("1a")
                    await out.flush()
                    await connection.execute("begin")
                    await connection.execute(LOCK)
                    locked.set()
                await out.write(f"{len(tried)}b")
                if len(tried) == 1:
                    await asyncio.sleep(3600)
        if len(tried) == 1:
            raise OSError("once more")

    async def is_under_way() -> bool:
        await connection.execute("select pg_stat_clear_snapshot()")
        waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        return bool(await connection.fetchval(waits))

    async def unlock() -> None:
        await locked.wait()
        await eventually(is_under_way, "the batch waits for the lock")
        scopes[0].cancel()
        await connection.execute("commit")

    @DBOS.workflow()
    async def workflow() -> None:
        await step()

    unlocking = asyncio.create_task(unlock())
    assert (await finished(workflow))[1] == ["2b"]
    await unlocking
    await check_rows(connection, "w", "s")


async def test_s8_blocks_of_one_attempt_follow_each_other_and_are_taken_back_together() -> None:
    tried: list[int] = []

    @DBOS.step(retries_allowed=True, interval_seconds=0)
    async def step() -> None:
        tried.append(0)
        for block in "xyz":
            async with DBOS.stream_writer("s") as out:
                await out.write(f"{len(tried)}{block}")
            if len(tried) == 1 and block == "y":
                raise OSError("once more")

    @DBOS.workflow()
    async def workflow() -> None:
        await step()

    assert (await finished(workflow))[1] == ["2x", "2y", "2z"]


async def test_s8_the_end_of_a_step_is_a_barrier_also_for_a_block_that_is_open() -> None:
    @DBOS.step()
    async def step() -> None:
        out = DBOS.stream_writer("s", max_seconds=60)
        await out.__aenter__()
        await out.write("open")

    @DBOS.workflow()
    async def workflow() -> list[Any]:
        await step()
        return await collect_now()

    @DBOS.step()
    async def collect_now() -> list[Any]:
        async for value in DBOS.read_stream("w", "s"):
            return [value]
        return []

    assert await finished(workflow) == (["open"], ["open"])


async def test_s8_errors_of_writers() -> None:
    number = Stream("s", int)
    left: list[Any] = []

    @DBOS.step()
    async def step() -> list[str]:
        errors = []
        unused = DBOS.stream_writer("s")
        try:
            await unused.write(1)
        except WrongPlaceError:
            errors.append("outside of its block")
        async with DBOS.stream_writer(number) as out:
            left.append(out)
            try:
                wrong: Any = "one"
                await out.write(wrong)
            except InvalidValueError:
                errors.append("wrong type")
            try:
                async with DBOS.stream_writer("s"):
                    pass
            except WrongPlaceError:
                errors.append("two writers")
            await out.write(1)
        try:
            await out.write(2)
        except WrongPlaceError:
            errors.append("after its block")
        try:
            async with out:
                pass
        except WrongPlaceError:
            errors.append("used twice")
        await DBOS.close_stream("s")
        try:
            async with DBOS.stream_writer(number) as out:
                await out.write(3)
        except StreamClosedError:
            errors.append("closed")
        return errors

    @DBOS.workflow()
    async def workflow() -> list[str]:
        errors = await step()
        try:
            await left[0].write(4)
        except (WrongPlaceError, WorkflowEndedError):
            errors.append("after its step")
        async with DBOS.stream_writer("t") as out:
            left.append(out)
            errors.append(await in_another_place())
        return errors

    @DBOS.step()
    async def in_another_place() -> str:
        try:
            await left[1].write(1)
        except WrongPlaceError:
            return "in a step"
        return ""

    assert await finished(workflow) == (
        ["outside of its block", "wrong type", "two writers", "after its block", "used twice", "closed", "after its step",
         "in a step"],
        [1],
    )  # fmt: skip
    with pytest.raises(WrongPlaceError):
        async with DBOS.stream_writer("s"):
            pass


@pytest.mark.parametrize("bound", [{"max_values": 1}, {"max_bytes": 1}, {"max_seconds": 0}])
async def test_s8_what_waits_is_sent_when_a_bound_is_reached(bound: Any) -> None:
    @DBOS.step()
    async def step() -> None:
        async with DBOS.stream_writer("s", **({"max_seconds": 60} | bound)) as out:
            await out.write("sent")
            await is_read.wait()

    @DBOS.workflow()
    async def workflow() -> None:
        await step()

    is_read = asyncio.Event()
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(workflow)
    async with asyncio.timeout(10):
        async for value in DBOS.read_stream("w", "s"):
            assert value == "sent"
            is_read.set()
    await handle.get_result()


async def test_s8_a_writer_waits_for_room(connection: Any) -> None:
    written: list[int] = []
    begun = asyncio.Event()

    @DBOS.step()
    async def step() -> None:
        async with DBOS.stream_writer("s", max_values=2, max_seconds=60) as out:
            begun.set()
            for n in range(9):
                await out.write(n)
                written.append(n)

    @DBOS.workflow()
    async def workflow() -> None:
        await step()

    await connection.execute("begin")
    await connection.execute(LOCK)
    running = asyncio.create_task(finished(workflow))
    await eventually(lambda: len(written) == 4, "two are under way, and two wait")
    await asyncio.sleep(0.05)
    assert len(written) == 4
    await connection.execute("commit")
    assert (await running)[1] == list(range(9))
