"""Writers and forks of a stream whose first values were removed by `trim_stream`: promises S1, S2 and S8."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dbos_async import DBOS, Rewind, SetWorkflowID, Stream, StreamTrimmedError
from tests.support.eventually import eventually

NUMBERS = Stream("k", int)


async def collect(offset: int, workflow_id: str = "w") -> list[Any]:
    return [value async for value in DBOS.read_stream(workflow_id, "k", offset=offset)]


async def _waits(workflow_id: str, verb: str) -> bool:
    return any(step.verb == verb for step in await DBOS.list_workflow_steps(workflow_id))


@pytest.mark.parametrize("before", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("on_retry", "written", "stands"),
    [
        ("continue", [0, 1, 2, 3], [0, 1, 2, 3, 10, 11]),
        ("skip", [0, 1, 2, 3], [0, 1, 2, 3, 14]),
        ("append", [0, 1, 2, 3], [0, 1, 2, 3, 10, 11, 12, 13, 14]),
    ],
)
@pytest.mark.usefixtures("dbos")
async def test_s8_a_new_attempt_goes_on_where_the_last_one_was_also_if_that_is_trimmed(
    on_retry: Any, written: list[int], stands: list[int], before: int
) -> None:
    seen: list[Any] = []

    @DBOS.step(name="writes twice", retries_allowed=True, interval_seconds=0)
    async def twice() -> None:
        async with DBOS.stream_writer(NUMBERS, on_retry=on_retry) as out:
            if not seen:
                seen.append(None)
                for n in (0, 1):
                    await out.write(n)
                await out.flush()
                for n in (2, 3):
                    await out.write(n)
                await out.flush()
                await DBOS.trim_stream("w", "k", before=before)
                raise OSError("once more")
            seen.append(list(out.written))
            for n in (10, 11) if on_retry == "continue" else (10, 11, 12, 13, 14):
                await out.write(n)

    @DBOS.workflow(name="writes twice and is trimmed")
    async def workflow() -> None:
        await twice()

    with SetWorkflowID("w"):
        await workflow()
    assert seen[1] == [n for n in written if n >= before]
    assert await collect(before) == stands[before:]


@pytest.mark.parametrize("before", [1, 2, 3, 4, 5])
@pytest.mark.usefixtures("dbos")
async def test_s8_a_rewind_tells_readers_of_values_that_are_trimmed(before: int) -> None:
    told: list[Any] = []
    attempts: list[int] = []
    goes_on = asyncio.Event()

    @DBOS.step(name="rewinds what is trimmed", retries_allowed=True, interval_seconds=0)
    async def rewinds() -> None:
        attempts.append(1)
        async with DBOS.stream_writer("k") as out:
            for n in range(4):
                await out.write(len(attempts) * 10 + n)
                await out.flush()
            if len(attempts) < 3:
                await goes_on.wait()
                await DBOS.trim_stream("w", "k", before=before)
                raise OSError("once more")

    @DBOS.workflow(name="rewinds and is trimmed")
    async def workflow() -> None:
        await DBOS.write_stream("k", 0)
        await rewinds()

    async def follow() -> None:
        async for entry in DBOS.read_stream_entries("w", "k"):
            if isinstance(entry, Rewind):
                told[:] = [(offset, value) for offset, value in told if offset < entry.offset]
            else:
                told.append((entry.offset, entry.value))
            if len(told) == 5:
                goes_on.set()

    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(workflow)
    reader = asyncio.create_task(follow())
    await handle.get_result()
    await reader
    assert [value for _, value in told] == [0, 30, 31, 32, 33]
    assert (await collect(before))[-4:] == [30, 31, 32, 33]


async def test_s2_a_writer_in_a_workflow_writes_nothing_twice_after_a_trim(database_url: str) -> None:
    @DBOS.workflow(name="writes in its body and is trimmed")
    async def workflow() -> None:
        async with DBOS.stream_writer("k", max_seconds=0) as out:
            for n in range(6):
                await out.write(n)
                await DBOS.sleep(0.001)  # what waits is sent now, also in a replay
            await out.flush()
            await DBOS.write_stream_many("k", [6, 7, 8])
            await DBOS.recv("go on", None)
            await out.write(9)

    async with DBOS(database_url):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(workflow)
        await eventually(lambda: _waits("w", "recv"))
        assert await DBOS.trim_stream("w", "k", before=5) == 5
        assert await DBOS.trim_stream("w", "k", before=8) == 8
    async with DBOS(database_url):
        await DBOS.send("w", None, "go on")
        await (await DBOS.retrieve_workflow("w")).get_result()
        assert await collect(8) == [8, 9]


@pytest.mark.usefixtures("dbos")
async def test_s1_a_fork_begins_where_the_original_does_and_keeps_the_offsets() -> None:
    @DBOS.workflow(name="is forked after a trim")
    async def workflow() -> None:
        await DBOS.set_event("e", 1)  # 1
        await DBOS.write_stream_many("k", [0, 1, 2])  # 2
        await DBOS.write_stream_many("k", [3, 4])  # 3
        await DBOS.write_stream_many("k", [5])  # 4

    with SetWorkflowID("w"):
        await workflow()
    await DBOS.trim_stream("w", "k", before=4)
    for step, first, there in ((1, 0, [0, 1, 2, 3, 4, 5]), (2, 0, [0, 1, 2, 3, 4, 5]), (4, 4, [4, 5]), (5, 4, [4, 5])):
        handle = await DBOS.fork_workflow("w", step)
        await handle.get_result()
        assert await collect(first, handle.workflow_id) == there
        if first:
            with pytest.raises(StreamTrimmedError, match="read from offset 4 on"):
                await collect(0, handle.workflow_id)
    handle = await DBOS.fork_workflow("w", 3)  # writes 3, 4 and 5 again
    await handle.get_result()
    assert await collect(4, handle.workflow_id) == [3, 4, 5]
