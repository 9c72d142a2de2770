"""Forks and replays of workflows that write through stream writers, or read streams that were rewound: S2, S6, S8, W4."""

from __future__ import annotations

from typing import Any

import pytest

from dbos_async import DBOS, Rewind, SetWorkflowID, StreamEnd, StreamOf, StreamValue
from tests.support.asking import replayed

pytestmark = pytest.mark.usefixtures("dbos")

TRIED: list[int] = []


@DBOS.step(retries_allowed=True, interval_seconds=0)
async def answer() -> None:
    """Its first attempt fails after three values, of which the reader may have been told."""
    TRIED.append(1)
    async with DBOS.stream_writer("s") as out:
        for number in range(3):
            await out.write(f"{len(TRIED)}.{number}")
        await out.flush()
        if len(TRIED) == 1:
            await DBOS.write_stream("s", "of somebody else")
            await DBOS.send("reader", None, "go on")
            raise ConnectionError("once more")


@DBOS.workflow()
async def rewound_speaker() -> None:
    await DBOS.write_stream("s", "begin")
    await DBOS.recv("ready", timeout_seconds=None)
    await answer()
    await DBOS.write_stream("s", "end")


async def text_of(workflow_id: str, key: str = "s") -> list[Any]:
    return [value async for value in DBOS.read_stream(workflow_id, key)]


def told(entry: Any) -> Any:
    match entry:
        case Rewind(offset):
            return ["rewind", offset]
        case StreamValue(offset=offset, value=value):
            return [offset, value]
        case _:
            return entry


async def by_values() -> list[Any]:
    return [value async for value in DBOS.read_stream("w", "s")]


async def by_entries() -> list[Any]:
    return [told(entry) async for entry in DBOS.read_stream_entries("w", "s")]


async def by_merging() -> list[Any]:
    return [told(entry) async for entry in DBOS.read_streams(StreamOf("w", "s"), StreamOf("w", "another"))]


async def by_waiting() -> list[Any]:
    found: list[Any] = []
    offset = 0
    while not isinstance(won := await DBOS.wait_first(StreamOf("w", "s", offset)), StreamEnd):
        assert won is not None
        found.append(told(won))
        offset = won.offset + 1
    return found


WAYS = {each.__name__: each for each in (by_values, by_entries, by_merging, by_waiting)}


@DBOS.workflow()
async def rewound_reader(way: str) -> list[Any]:
    """Reads before the rewind and after it, and once more from the begin."""
    found = []
    async for value in DBOS.read_stream("w", "s"):
        found.append(value)
        break
    await DBOS.send("w", None, "ready")
    await DBOS.recv("go on", timeout_seconds=None)
    return [*found, await WAYS[way](), await WAYS[way]()]


@pytest.mark.parametrize("way", WAYS)
async def test_s6_s8_a_replay_reads_what_the_first_run_has_read_although_it_was_taken_back_since(
    connection: Any, way: str
) -> None:
    TRIED.clear()
    with SetWorkflowID("w"):
        speaking = await DBOS.start_workflow(rewound_speaker)
    with SetWorkflowID("reader"):
        handle = await DBOS.start_workflow(rewound_reader, way)
    result = await handle.get_result()
    await speaking.get_result()
    late = ["begin", "of somebody else", *(f"2.{number}" for number in range(3)), "end"]
    assert [value if way == "by_values" else value[1] for value in result[-1]] == late
    assert await text_of("w") == late
    await connection.execute("update dbos_async.stream_entries set written_at = now()")
    assert await replayed(connection, "reader") == result


@pytest.mark.parametrize("start", [1, 3, 4])
async def test_s8_a_fork_has_what_stands_of_a_step_s_writer(connection: Any, start: int) -> None:
    TRIED.clear()
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(rewound_speaker)
    await DBOS.send("w", None, "ready")
    await DBOS.send("w", None, "go on")
    with SetWorkflowID("reader"):
        await DBOS.start_workflow(rewound_reader, "by_values")
    await handle.get_result()
    with SetWorkflowID("fork"):
        fork = await DBOS.fork_workflow("w", start)
    await fork.get_result()
    attempt = 2 if start == 4 else 3  # which has said what stands
    somebody = ["of somebody else"] * (start == 4)
    assert await text_of("fork") == ["begin", *somebody, *(f"{attempt}.{number}" for number in range(3)), "end"]
    rows = await connection.fetch(
        "select taken_back_by, rewinds_to from dbos_async.stream_entries where workflow_id = 'fork'"
    )
    assert {*map(tuple, rows)} == {(None, None)}


@DBOS.workflow()
async def forked_body(count: int) -> list[Any]:
    async with DBOS.stream_writer("s", max_values=3, max_seconds=0) as out:
        for number in range(count):
            await out.write(f"{DBOS.workflow_id} {number}")
            if number == 4:
                await DBOS.sleep(0)
    await DBOS.write_stream("s", "end")
    return [step.verb for step in await DBOS.list_workflow_steps(str(DBOS.workflow_id))]


async def test_s2_s8_a_fork_of_a_workflow_has_what_its_writer_wrote_before_the_last_barrier() -> None:
    with SetWorkflowID("w"):
        verbs = await (await DBOS.start_workflow(forked_body, 8)).get_result()
    assert verbs == [
        "stream_writer", "flush_stream", "sleep", "flush_stream", "flush_stream", "write_stream"
    ]  # fmt: skip
    values = [f"w {number}" for number in range(8)]
    assert await text_of("w") == [*values, "end"]
    copied = {2: 0, 3: 3, 4: 3, 5: 6, 6: 8, 7: 8}
    for start, count in copied.items():
        with SetWorkflowID(f"fork-{start}"):
            fork = await DBOS.fork_workflow("w", start)
        await fork.get_result()
        own = [f"fork-{start} {number}" for number in range(count, 8)]
        assert await text_of(f"fork-{start}") == [*values[:count], *own, "end"], start
    assert await text_of("w") == [*values, "end"]
