"""What is written behind a stream writer that was abandoned comes behind it: promise S1."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dbos_async import DBOS, SetWorkflowID
from tests.support.eventually import eventually


@DBOS.step()
async def speak() -> None:
    async with DBOS.stream_writer("words", max_values=1) as out:
        await out.write("spoken")
        await asyncio.sleep(3600)


@DBOS.step()
async def write_in_a_step() -> None:
    await DBOS.write_stream("words", "later")


@DBOS.step()
async def write_by_a_writer() -> None:
    async with DBOS.stream_writer("words") as out:
        await out.write("later")


async def write() -> None:
    await DBOS.write_stream("words", "later")


async def write_many() -> None:
    await DBOS.write_stream_many("words", ["later"])


async def write_by_a_writer_of_the_workflow() -> None:
    async with DBOS.stream_writer("words") as out:
        await out.write("later")
        await out.flush()


WAYS: dict[str, Any] = {
    each.__name__: each
    for each in (write, write_many, write_in_a_step, write_by_a_writer, write_by_a_writer_of_the_workflow)
}


@DBOS.workflow()
async def speak_until_stopped(way: str) -> None:
    await DBOS.recv("begin", timeout_seconds=None)
    speaking = asyncio.create_task(speak())
    await DBOS.recv("stop", timeout_seconds=None)
    speaking.cancel()
    await asyncio.wait([speaking])
    await WAYS[way]()


@pytest.mark.parametrize("way", WAYS)
async def test_s1_what_is_written_after_a_step_was_cancelled_comes_behind_what_its_writer_has_sent(
    dbos: DBOS, connection: Any, way: str
) -> None:
    blocked = (
        "select count(*) > 0 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    )

    async def is_under_way() -> bool:
        await connection.fetch("select pg_stat_clear_snapshot()")
        return bool(await connection.fetchval(blocked))

    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(speak_until_stopped, way)
    async with connection.transaction():
        # A batch of a step waits for this lock; what the body of the workflow writes does not.
        await connection.fetch("select from dbos_async.workflows where id = 'w' for no key update")
        await DBOS.send("w", None, "begin")
        await eventually(is_under_way, "the batch is under way")
        await DBOS.send("w", "enough", "stop")
        finished = asyncio.ensure_future(handle.get_result())
        await asyncio.wait([finished], timeout=0.5)
    await finished
    assert [word async for word in DBOS.read_stream("w", "words")] == ["spoken", "later"]
