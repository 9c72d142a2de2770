"""Streams whose first values were removed by `trim_stream`: promises S1, S2, S5, S6, S8, D5 and W4."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest

from dbos_async import (
    DBOS,
    DBOSClient,
    SetWorkflowID,
    Stream,
    StreamOf,
    StreamTrimmedError,
    StreamValue,
    WorkflowNotFoundError,
)
from dbos_async._messaging import read_stream, trim
from dbos_async._runs import waiting
from tests.support.eventually import eventually

NUMBERS = Stream("k", int)


@DBOS.workflow(name="writes many for a trim")
async def writes(batches: list[list[int]], then_wait: bool = False, close: bool = False) -> None:
    for batch in batches:
        await DBOS.write_stream_many("k", batch)
    if close:
        await DBOS.close_stream("k")
    while then_wait and (more := await DBOS.recv("more", None)) is not None:
        await DBOS.write_stream("k", more)


@DBOS.workflow(name="trims a stream")
async def trims(workflow_id: str, before: int) -> int:
    return await DBOS.trim_stream(workflow_id, "k", before=before)


async def start(*batches: list[int], workflow_id: str = "w", **options: Any) -> None:
    with SetWorkflowID(workflow_id):
        handle = await DBOS.start_workflow(writes, list(batches), **options)
    if not options.get("then_wait"):
        await handle.get_result()


async def collect(offset: int, workflow_id: str = "w") -> list[Any]:
    return [value async for value in DBOS.read_stream(workflow_id, "k", offset=offset)]


async def rows(connection: Any, workflow_id: str = "w") -> list[Any]:
    return list(
        await connection.fetch(
            'select * from dbos_async.stream_entries where workflow_id = $1 order by "offset"', workflow_id
        )
    )


@pytest.mark.parametrize("batches", [[[0, 1, 2, 3, 4, 5]], [[0], [1], [2], [3], [4], [5]], [[0, 1], [2, 3, 4], [5]]])
@pytest.mark.usefixtures("dbos")
async def test_s1_s5_every_offset_can_be_trimmed_to_and_the_others_stay(batches: list[list[int]]) -> None:
    for before in range(8):
        name = f"w{before}"
        await start(*batches, workflow_id=name)
        there = min(before, 6)
        for _ in range(2):  # the second time it is a no-op
            assert await DBOS.trim_stream(name, "k", before=before) == there
        assert await DBOS.trim_stream(name, NUMBERS, before=0) == there
        assert await collect(there, name) == list(range(there, 6))
        for offset in range(there):
            with pytest.raises(StreamTrimmedError) as raised:
                await collect(offset, name)
            error = raised.value
            assert (error.workflow_id, error.key, error.offset, error.first) == (name, "k", offset, there)


@pytest.mark.usefixtures("dbos")
async def test_s5_trimming_step_by_step_keeps_few_rows(connection: Any) -> None:
    await start(*([n, n + 1, n + 2] for n in range(0, 300, 3)))
    for before in range(1, 301):
        assert await DBOS.trim_stream("w", "k", before=before) == before
        assert await collect(before) == list(range(before, 300))
        with pytest.raises(StreamTrimmedError):
            await collect(before - 1)
    assert len(await rows(connection)) <= 2


@pytest.mark.usefixtures("dbos")
async def test_s1_offsets_go_on_after_everything_was_trimmed() -> None:
    await start([0, 1, 2], then_wait=True)
    await eventually(lambda: _reads("w", 0, [0, 1, 2]))
    assert await DBOS.trim_stream("w", "k", before=2**31 - 1) == 3
    await DBOS.send("w", 3, "more")
    async with aclosing(DBOS.read_stream("w", "k", offset=3)) as found:
        assert await anext(found) == 3
        assert await DBOS.trim_stream("w", "k", before=4) == 4
        await DBOS.send("w", 4, "more")
        assert await anext(found) == 4
    await DBOS.send("w", None, "more")
    assert await collect(4) == [4]


async def _reads(workflow_id: str, offset: int, values: list[int]) -> bool:
    async with aclosing(DBOS.read_stream(workflow_id, "k", offset=offset)) as found:
        return [await anext(found) for _ in values] == values


@pytest.mark.usefixtures("dbos")
async def test_s3_a_closed_stream_that_was_trimmed_stays_closed() -> None:
    await start([0, 1], close=True)
    assert await DBOS.trim_stream("w", "k", before=50) == 2
    assert await collect(2) == []
    assert await collect(3) == []
    with pytest.raises(StreamTrimmedError, match="read from offset 2 on"):
        await collect(1)


@pytest.mark.usefixtures("dbos")
async def test_s5_a_stream_without_values_begins_at_0_and_one_of_nobody_raises(database_url: str) -> None:
    await start()
    assert await DBOS.trim_stream("w", "k", before=5) == 0
    with pytest.raises(WorkflowNotFoundError):
        await DBOS.trim_stream("nobody", "k", before=5)
    with pytest.raises(WorkflowNotFoundError):
        await trims("nobody", 5)
    async with DBOSClient(database_url) as client:
        assert await client.trim_stream("w", "k", before=5) == 0


@pytest.mark.usefixtures("dbos")
async def test_d5_every_reader_says_that_values_were_trimmed() -> None:
    await start([0, 1, 2, 3])
    await DBOS.trim_stream("w", "k", before=3)

    async def first_of(values: Any) -> Any:
        async with aclosing(values):
            return await anext(values)

    readers: dict[str, Callable[[], Awaitable[Any]]] = {
        "read_stream": lambda: first_of(DBOS.read_stream("w", "k", offset=1)),
        "entries": lambda: first_of(DBOS.read_stream_entries("w", "k", offset=1)),
        "read_streams": lambda: first_of(DBOS.read_streams(StreamOf("w", "k", 3), StreamOf("w", "k", 1))),
        "wait_first": lambda: DBOS.wait_first("topic", StreamOf("w", "k", 1)),
    }

    async def outcome(name: str) -> Any:
        try:
            return await readers[name]()
        except StreamTrimmedError as error:
            return [error.workflow_id, error.key, error.offset, error.first]

    @DBOS.workflow(name="reads what is trimmed")
    async def reads(name: str) -> Any:
        return [await outcome(name), await outcome(name)]

    for name in readers:
        handle = await DBOS.start_workflow(reads, name)
        result = await handle.get_result()
        if name == "read_streams":
            assert result[0]["offset"] == 3, "the streams take turns, and this one has a value"
        else:
            assert result == [["w", "k", 1, 3]] * 2
            if name != "wait_first":
                assert await outcome(name) == ["w", "k", 1, 3]
    with pytest.raises(StreamTrimmedError, match="offset 1 any more: read from offset 3 on"):
        [part async for part in DBOS.read_streams(StreamOf("w", "k", 3), StreamOf("w", "k", 1))]


async def test_w4_what_was_trimmed_is_recorded_and_a_replay_sees_it_again(database_url: str) -> None:
    @DBOS.workflow(name="reads from the begin")
    async def reads() -> list[Any]:
        found: list[Any] = []
        for offset in (0, 2):
            try:
                found += [value async for value in DBOS.read_stream("w", "k", offset=offset)]
            except StreamTrimmedError as error:
                found.append(["trimmed", error.offset, error.first])
        won = await DBOS.wait_first(StreamOf("w", "k", 3))
        assert isinstance(won, StreamValue)
        return [*found, won.value, await DBOS.recv("go on", None)]

    async with DBOS(database_url):
        await start([0, 1, 2, 3])
        assert await trims("w", 2) == 2
        with SetWorkflowID("r"):
            await DBOS.start_workflow(reads)
        await eventually(lambda: _waits("r", "recv"))
    async with DBOS(database_url):
        await DBOS.send("r", "done", "go on")
        handle = await DBOS.retrieve_workflow("r")
        assert await handle.get_result() == [["trimmed", 0, 2], 2, 3, 3, "done"]


async def _waits(workflow_id: str, verb: str) -> bool:
    return any(step.verb == verb for step in await DBOS.list_workflow_steps(workflow_id))


@pytest.mark.parametrize("how", ["read_stream", "read_stream_entries", "read_streams"])
@pytest.mark.parametrize(
    ("offset", "before", "parks"), [(0, 1, True), (0, 9, True), (2, 2, False), (2, 3, True), (2, 6, True)]
)
async def test_w4_a_replay_that_needs_trimmed_values_is_parked(
    how: str, offset: int, before: int, parks: bool, database_url: str
) -> None:
    @DBOS.workflow(name="reads four")
    async def reads() -> Any:
        readers: dict[str, Callable[[], Any]] = {
            "read_stream": lambda: DBOS.read_stream("w", "k", offset=offset),
            "read_stream_entries": lambda: DBOS.read_stream_entries("w", "k", offset=offset),
            "read_streams": lambda: DBOS.read_streams(StreamOf("w", "k", offset)),
        }
        async with aclosing(readers[how]()) as values:
            found = [await anext(values)]
        await DBOS.recv("go on", None)
        return len(found)

    async with DBOS(database_url):
        await start([0, 1, 2, 3], [4], then_wait=True)
        await eventually(lambda: _reads("w", 0, [0, 1, 2, 3, 4]))
        with SetWorkflowID("r"):
            await DBOS.start_workflow(reads)
        await eventually(lambda: _waits("r", "recv"))
    async with DBOSClient(database_url) as client:
        await client.trim_stream("w", "k", before=before)
    async with DBOS(database_url):
        await DBOS.send("r", None, "go on")
        handle = await DBOS.retrieve_workflow("r")
        if not parks:
            assert await handle.get_result() == 1
            return
        await eventually(lambda: _is_parked("r"))
        status = await handle.get_status()
        first = min(before, 5)
        assert f"of which those below offset {first} were trimmed since" in str(status.error)
        await DBOS.cancel_workflow("w")


async def _is_parked(workflow_id: str) -> bool:
    handle = await DBOS.retrieve_workflow(workflow_id)
    return (await handle.get_status()).status == "REPLAY_MISMATCH"


@pytest.mark.usefixtures("dbos")
async def test_w4_values_that_are_trimmed_while_they_are_read_are_recorded_as_trimmed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The boundary is recorded, and the values are trimmed before this run has them: nobody has seen them."""

    await start([0, 1, 2, 3])
    wait = waiting.wait

    async def trimmed_meanwhile(*args: Any, **options: Any) -> Any:
        result = await wait(*args, **options)
        await asyncio.create_task(_outside(lambda: DBOS.trim_stream("w", "k", before=3)))
        return result

    @DBOS.workflow(name="reads too late")
    async def reads() -> list[Any]:
        for _ in range(2):
            try:
                [value async for value in DBOS.read_stream("w", "k")]
            except StreamTrimmedError as error:
                found = [error.offset, error.first]
        return found

    monkeypatch.setattr(read_stream, "wait", trimmed_meanwhile)
    with SetWorkflowID("r"):
        assert await reads() == [0, 3]
    steps = await DBOS.list_workflow_steps("r")
    assert [(step.output["end"], step.output["first"], step.output["count"]) for step in steps] == [
        ("trimmed", 3, 0)
    ] * 2


async def _outside(work: Callable[[], Awaitable[Any]]) -> Any:
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    async def run() -> None:
        done.set_result(await work())

    task = loop.create_task(run(), context=contextvars.Context())
    await done
    return await task


@pytest.mark.usefixtures("dbos")
async def test_s2_a_long_stream_is_trimmed_in_parts_by_every_caller(
    monkeypatch: pytest.MonkeyPatch, connection: Any
) -> None:
    monkeypatch.setattr(trim, "MAX_ROWS", 7)

    @DBOS.step(name="trims in a step")
    async def in_step(workflow_id: str) -> int:
        return await DBOS.trim_stream(workflow_id, "k", before=99)

    @DBOS.workflow(name="trims by a step")
    async def by_step(workflow_id: str) -> int:
        return await in_step(workflow_id)

    calls: list[Callable[[str], Awaitable[int]]] = [
        lambda name: trims(name, 99),
        by_step,
        lambda name: DBOS.trim_stream(name, "k", before=99),
    ]
    for n, call in enumerate(calls):
        name = f"w{n}"
        await start(*[[each] for each in range(100)], workflow_id=name)
        assert await call(name) == 99
        assert await collect(99, name) == [99]
        assert len(await rows(connection, name)) <= 3
    trimming = (await DBOS.list_workflows(name="trims a stream"))[0].workflow_id
    (step,) = await DBOS.list_workflow_steps(trimming)
    assert (step.verb, step.output) == ("trim_stream", 99)
