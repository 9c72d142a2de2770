"""Stream writers in the body of a workflow: each value once, in order (promises S2 and S8)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dbos_async import DBOS, SetWorkflowID, StreamClosedError
from tests.support.eventually import eventually

pytestmark = pytest.mark.usefixtures("dbos")

LOCK = "lock table dbos_async.stream_entries in exclusive mode"


async def collect(workflow_id: str, key: str = "s") -> list[Any]:
    return [value async for value in DBOS.read_stream(workflow_id, key)]


async def finished(workflow: Any) -> tuple[Any, list[Any]]:
    """The result of the workflow ``w``, and what a late reader sees."""
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(workflow)
    result = await handle.get_result()
    return result, await collect("w")


async def test_s2_two_calls_of_a_workflow_s_writer_in_one_batch_store_each_value_once(connection: Any) -> None:
    @DBOS.workflow()
    async def workflow() -> None:
        async with (
            DBOS.stream_writer("t", max_seconds=0) as other,
            DBOS.stream_writer("s", max_seconds=0) as out,
        ):
            async with connection.transaction():
                await connection.execute(LOCK)
                await other.write(1)
                await asyncio.sleep(0.05)
                await out.write(1)
                await asyncio.sleep(0.05)
                await out.write(2)
                flush = asyncio.create_task(out.flush())
                await asyncio.sleep(0.05)
            await flush

    assert (await finished(workflow))[1] == [1, 2]


async def test_s2_a_barrier_takes_over_what_was_about_to_be_sent() -> None:
    @DBOS.workflow()
    async def workflow() -> None:
        async with DBOS.stream_writer("s", max_seconds=0, max_values=3) as out:
            for n in range(30):
                await out.write(n)  # the third comes while the sending of the first has not begun

    assert (await finished(workflow))[1] == list(range(30))


async def test_s2_a_barrier_that_is_cancelled_drops_no_value(connection: Any) -> None:
    @DBOS.workflow()
    async def workflow() -> None:
        async with DBOS.stream_writer("s", max_seconds=60) as out:
            await out.write(1)
            await out.write(2)
            flush = asyncio.create_task(out.flush())
            await asyncio.sleep(0)
            flush.cancel()
            await asyncio.wait([flush])
            await out.write(3)

    assert (await finished(workflow))[1] == [1, 2, 3]


AGAIN = """
    update dbos_async.workflows set status = 'PENDING', owner = null, output = null, ended_at = null where id = 'w'
"""


async def test_s2_a_cancelled_block_of_a_workflow_stores_what_it_was_given_and_a_replay_nothing_more(
    connection: Any,
) -> None:
    runs: list[int] = []

    @DBOS.workflow()
    async def workflow() -> None:
        async def tokens() -> None:
            async with DBOS.stream_writer("s", max_seconds=0 if runs else 60) as out:
                await out.write("given")
                await asyncio.sleep(3600)

        task = asyncio.create_task(tokens())
        await DBOS.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])
        runs.append(0)
        await DBOS.write_stream("s", "said")

    assert (await finished(workflow))[1] == ["given", "said"]
    await connection.execute(AGAIN)
    handle = await DBOS.retrieve_workflow("w")
    await eventually(lambda: _ended(handle), "it was replayed")
    assert (await handle.get_status()).status == "SUCCESS"
    assert len(runs) == 2
    assert await collect("w") == ["given", "said"]


async def _ended(handle: Any) -> bool:
    return bool((await handle.get_status()).ended_at)


async def test_s4_s8_a_value_before_the_close_is_there_and_one_after_it_raises() -> None:
    @DBOS.workflow()
    async def workflow(late: bool) -> str:
        async with DBOS.stream_writer("s", max_seconds=0.001) as out:
            await out.write("before")
            await DBOS.close_stream("s")
            if late:
                await out.write("late")
        return "done"

    async def one(late: bool) -> tuple[Any, list[Any]]:
        handle = await DBOS.start_workflow(workflow, late)
        try:
            result: Any = await handle.get_result()
        except StreamClosedError as error:
            result = type(error)
        return result, await collect(handle.workflow_id)

    for late, result in ((False, "done"), (True, StreamClosedError)):
        found = await asyncio.gather(*(one(late) for _ in range(100)))
        assert found == [(result, ["before"])] * 100


@DBOS.step()
async def writes_both_ways() -> None:
    await write_both_ways()


async def write_both_ways() -> None:
    async with DBOS.stream_writer("s", max_seconds=60) as out:
        await out.write(1)
        await DBOS.write_stream("s", 2)
        await out.write(3)
        await DBOS.write_stream_many("s", [4, 5])
        await out.write(6)


@pytest.mark.parametrize("write", [write_both_ways, writes_both_ways], ids=["body", "step"])
async def test_s1_all_that_is_written_stands_in_the_order_of_writing(write: Any) -> None:
    @DBOS.workflow()
    async def workflow() -> None:
        await write()

    assert (await finished(workflow))[1] == [1, 2, 3, 4, 5, 6]
