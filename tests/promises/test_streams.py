"""Streams: promises S1 to S7."""

from __future__ import annotations

import asyncio
import functools
from contextlib import aclosing
from typing import Any

import pytest

from dbos_async import (
    DBOS,
    DBOSClient,
    InvalidArgumentError,
    SetWorkflowID,
    Stream,
    StreamClosedError,
    WorkflowNotFoundError,
    WrongPlaceError,
)
from dbos_async._database.wakeups import MAX_UPDATE_BYTES
from dbos_async._executor import launched
from tests.support.eventually import eventually

pytestmark = pytest.mark.usefixtures("dbos")


@DBOS.workflow()
async def write(key: str, values: list[Any], close: bool = False, then_wait: bool = False) -> None:
    for value in values:
        await DBOS.write_stream(key, value)
    if close:
        await DBOS.close_stream(key)
    if then_wait:
        await DBOS.recv("the end", None)


@DBOS.workflow()
async def read(workflow_id: str, key: str, offset: int = 0) -> list[Any]:
    return [value async for value in DBOS.read_stream(workflow_id, key, offset=offset)]


async def collect(workflow_id: str, key: str = "k", **options: Any) -> list[Any]:
    return [value async for value in DBOS.read_stream(workflow_id, key, **options)]


async def test_s1_offsets_have_no_gap_with_many_streams_and_tasks(connection: Any) -> None:
    @DBOS.workflow()
    async def many() -> None:
        async def one(key: str) -> None:
            for n in range(20):
                await DBOS.write_stream(key, n)

        await asyncio.gather(*(one(f"k{n % 3}") for n in range(6)))

    handle = await DBOS.start_workflow(many)
    await handle.get_result()
    rows = await connection.fetch('select key, array_agg("offset" order by "offset") as offsets '
                                  "from dbos_async.stream_entries group by key")  # fmt: skip
    assert {row["key"]: row["offsets"] for row in rows} == {f"k{n}": list(range(40)) for n in range(3)}


async def test_s1_any_number_of_readers() -> None:
    handle = await DBOS.start_workflow(write, "k", list(range(300)))
    readers = await asyncio.gather(*(collect(handle.workflow_id) for _ in range(20)))
    assert readers == [list(range(300))] * 20


async def test_s2_a_step_writes_at_least_once_and_readers_see_every_attempt() -> None:
    tried: list[int] = []

    @DBOS.step(retries_allowed=True, interval_seconds=0)
    async def flaky() -> None:
        tried.append(len(tried))
        await DBOS.write_stream("k", f"attempt {len(tried)}")
        if len(tried) < 3:
            raise OSError("once more")

    @DBOS.workflow()
    async def workflow() -> None:
        await DBOS.write_stream("k", "before")
        await flaky()

    handle = await DBOS.start_workflow(workflow)
    assert await collect(handle.workflow_id) == ["before", "attempt 1", "attempt 2", "attempt 3"]


async def test_s3_a_reader_follows_live_and_ends_when_the_stream_is_closed() -> None:
    handle = await DBOS.start_workflow(write, "k", [1, 2], True, True)
    assert await collect(handle.workflow_id) == [1, 2]
    assert (await handle.get_status()).status == "PENDING"


async def test_s3_a_reader_ends_when_the_workflow_has_ended() -> None:
    handle = await DBOS.start_workflow(write, "k", [1, 2], False, True)
    async with aclosing(DBOS.read_stream(handle.workflow_id, "k")) as values:
        assert await anext(values) == 1
        assert await anext(values) == 2
        more = asyncio.ensure_future(anext(values, "the end"))
        await DBOS.send(handle.workflow_id, None, "the end")
        assert await more == "the end"


async def _at_step(workflow_id: str, verb: str) -> bool:
    return any(step.verb == verb for step in await DBOS.list_workflow_steps(workflow_id))


ANY_JSON: list[Any] = [None, "", 0, False, [], {}, "__closed__", {"closes": True}, "\u0000", 10**30, 1.5, "😀"]


async def test_s4_no_value_is_special() -> None:
    handle = await DBOS.start_workflow(write, "k", ANY_JSON)
    assert await collect(handle.workflow_id) == ANY_JSON


async def test_s4_writing_to_a_closed_stream_raises_and_closing_twice_is_a_no_op() -> None:
    @DBOS.workflow()
    async def workflow() -> list[str]:
        await DBOS.write_stream("k", 1)
        await DBOS.close_stream("k")
        await DBOS.close_stream("k")
        errors = []
        for _ in range(2):
            try:
                await DBOS.write_stream("k", 2)
            except StreamClosedError as error:
                errors.append(error.key)
        await asyncio.gather(DBOS.write_stream("j", 1), DBOS.close_stream("j"), DBOS.close_stream("j"))
        return errors

    handle = await DBOS.start_workflow(workflow)
    assert await handle.get_result() == ["k", "k"]
    assert await collect(handle.workflow_id) == [1]
    assert await collect(handle.workflow_id, "j") == [1]


async def test_s5_a_reader_starts_at_any_offset_also_long_after_the_end(database_url: str) -> None:
    handle = await DBOS.start_workflow(write, "k", list(range(1200)))
    await handle.get_result()
    assert await collect(handle.workflow_id, offset=1190) == list(range(1190, 1200))
    assert await collect(handle.workflow_id, offset=5000) == []
    async with DBOSClient(database_url) as client:
        assert [value async for value in client.read_stream(handle.workflow_id, "k")] == list(range(1200))


async def test_s5_an_abandoned_reader_leaves_nothing_behind() -> None:
    handle = await DBOS.start_workflow(write, "k", [1, 2, 3], False, True)
    await eventually(lambda: _at_step(handle.workflow_id, "recv"))
    watched = len(launched.executor().database.wakeups)
    for _ in range(20):
        async for value in DBOS.read_stream(handle.workflow_id, "k"):
            assert value == 1
            break
    waiting = [asyncio.create_task(collect(handle.workflow_id, offset=3)) for _ in range(20)]
    await eventually(lambda: len(launched.executor().database.wakeups) > watched)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await eventually(lambda: len(launched.executor().database.wakeups) == watched, "nobody watches any more")


async def test_s6_in_a_workflow_what_was_read_is_recorded_as_boundaries() -> None:
    handle = await DBOS.start_workflow(write, "k", ["x" * 100] * 1300)
    await handle.get_result()
    reader = await DBOS.start_workflow(read, handle.workflow_id, "k")
    assert await reader.get_result() == ["x" * 100] * 1300
    outputs = [step.output for step in await DBOS.list_workflow_steps(reader.workflow_id)]
    assert sum(output["count"] for output in outputs) == 1300
    assert outputs[-1]["end"] == "closed"
    assert "xxx" not in str(outputs)


async def test_s7_a_stream_of_nobody_raises() -> None:
    with pytest.raises(WorkflowNotFoundError):
        await collect("nobody")
    with pytest.raises(WorkflowNotFoundError):
        await read("nobody", "k")


async def test_s7_a_reader_that_waits_too_long_raises_timeout_error() -> None:
    handle = await DBOS.start_workflow(write, "k", [1], False, True)
    got: list[Any] = []
    with pytest.raises(TimeoutError, match="read on from offset 1"):
        async for value in DBOS.read_stream(handle.workflow_id, "k", timeout_seconds=0.05):
            got.append(value)  # noqa: PERF401 - what came before the time-out counts
    assert got == [1]

    @DBOS.workflow()
    async def impatient() -> str:
        try:
            async for _ in DBOS.read_stream(handle.workflow_id, "k", timeout_seconds=0.05):
                pass
        except TimeoutError as error:
            return str(error)
        return ""

    assert "read on from offset 1" in await impatient()


async def test_a_large_value_travels_and_pages_end_at_a_mebibyte() -> None:
    values = [f"{n:x}" * 200_000 for n in range(12)]
    handle = await DBOS.start_workflow(write, "k", values)
    assert await collect(handle.workflow_id) == values
    assert await read(handle.workflow_id, "k", 3) == values[3:]


async def test_d1_a_typed_stream_restores_its_values() -> None:
    sizes = Stream[tuple[int, str]]("sizes", tuple[int, str])

    @DBOS.workflow()
    async def typed() -> None:
        await DBOS.write_stream(sizes, (1, "a"))

    with SetWorkflowID("w"):
        await typed()
    assert [value async for value in DBOS.read_stream("w", sizes)] == [(1, "a")]


@pytest.mark.parametrize("offset", [-1, 1.5, "0", True, 2**31])
async def test_a_bad_offset_raises_one_sentence(offset: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="offset must be a whole number of at least 0"):
        await collect("nobody", offset=offset)


async def test_d6_streams_are_written_in_workflows_and_steps_only() -> None:
    with pytest.raises(WrongPlaceError):
        await DBOS.write_stream("k", 1)
    with pytest.raises(WrongPlaceError):
        await DBOS.close_stream("k")


@DBOS.workflow()
async def write_when_told(key: str) -> None:
    while (value := await DBOS.recv("write", None)) is not None:
        await DBOS.write_stream(key, value)


async def test_s1_s3_what_is_written_in_another_process_in_between_is_read_in_its_place(connection: Any) -> None:
    handle = await DBOS.start_workflow(write_when_told, "k")
    found: list[Any] = []

    async def follow() -> None:
        async for value in DBOS.read_stream(handle.workflow_id, "k"):
            found.append(value)  # noqa: PERF401  # what was found so far is looked at meanwhile

    reader = asyncio.create_task(follow())
    for n in (0, 2, 3, 5):
        if n in (2, 5):  # the workflow was elsewhere for a while, and the notification is still on its way
            await connection.execute(
                'insert into dbos_async.stream_entries (workflow_id, key, "offset", value, step, attempt, act) '
                "values ($1, 'k', $2, to_json($2::int), '1', 1, 0)",
                handle.workflow_id,
                n - 1,
            )
        await DBOS.send(handle.workflow_id, n, "write")
        await eventually(functools.partial(_is_read, found, n + 1), "everything is read, in order")
    await DBOS.send(handle.workflow_id, None, "write")
    await reader
    assert found == list(range(6))


def _is_read(found: list[Any], count: int) -> bool:
    return found == list(range(count))


async def test_s5_a_slow_reader_keeps_little_and_misses_nothing() -> None:
    """What is written while a reader is away does not pile up in memory: it is read again when the reader comes back."""
    values = [f"{n:04}".ljust(2000, "x") for n in range(1000)]
    with SetWorkflowID("many"):
        many = await DBOS.start_workflow(write, "k", values, close=True)
    async with aclosing(DBOS.read_stream("many", "k")) as reader:
        found = [await anext(reader)]
        await many.get_result()  # all the others are written meanwhile
        looks = [look for looks in launched.database().wakeups._subscriptions.values() for look in looks]
        assert max(look._update_bytes for look in looks) <= MAX_UPDATE_BYTES
        found += [value async for value in reader]
    assert found == values
