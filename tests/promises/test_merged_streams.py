"""Several streams read together: promises C3, S3, S5, S6 and S7 of `read_streams`."""

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
    InvalidStreamValueError,
    SetWorkflowID,
    Stream,
    StreamOf,
    StreamTimeoutError,
    StreamValue,
    WorkflowNotFoundError,
)
from dbos_async._executor import launched
from dbos_async._messaging import live_merge
from tests.support.eventually import eventually

pytestmark = pytest.mark.usefixtures("dbos")

TOKENS = Stream("tokens", int)


@DBOS.workflow(name="speaks tokens")
async def speaks(first: list[Any], close: bool = False) -> None:
    """Writes what it is given, and then what it is told, until that is the end."""
    for token in first:
        await DBOS.write_stream("tokens", token)
    while not close and (token := await DBOS.recv("token", None)) != "the end":
        await DBOS.write_stream("tokens", token)


@DBOS.workflow(name="hears tokens")
async def hears(ids: list[str], timeout_seconds: float | None = None) -> list[Any]:
    return [
        [part.workflow_id, part.offset, part.value]
        async for part in DBOS.read_streams(*(StreamOf(each, TOKENS) for each in ids), timeout_seconds=timeout_seconds)
    ]


async def start(workflow_id: str, *first: Any, close: bool = False) -> Any:
    with SetWorkflowID(workflow_id):
        return await DBOS.start_workflow(speaks, list(first), close)


async def tell(workflow_id: str, *told: Any) -> None:
    for each in told:
        await DBOS.send(workflow_id, each, "token")


def of(found: list[Any], workflow_id: str) -> list[tuple[int, Any]]:
    """The offsets and values of one stream."""
    return [(part.offset, part.value) for part in found if part.workflow_id == workflow_id]


async def into(
    found: list[StreamValue[Any]], front: type[DBOS] | DBOSClient, *streams: StreamOf[Any], **more: Any
) -> None:
    async for part in front.read_streams(*streams, **more):
        found.append(part)  # noqa: PERF401 - what was found so far is looked at meanwhile


@pytest.mark.parametrize("where", ["DBOS", "client"])
async def test_c3_s3_streams_are_followed_together_each_in_its_order_until_all_have_ended(
    where: str, database_url: str
) -> None:
    await start("a", 0)
    await start("b")
    found: list[StreamValue[Any]] = []
    async with DBOSClient(database_url) as client:
        streams = StreamOf("a", TOKENS), StreamOf("b", TOKENS)
        reading = asyncio.create_task(into(found, DBOS if where == "DBOS" else client, *streams))
        for n in range(1, 20):
            await tell("ab"[n % 2], n)
            await eventually(functools.partial(_has, found, n), "it comes while the streams go on")
        await tell("a", "the end")
        await tell("b", 20)
        await eventually(lambda: len(found) == 21, "one of them has ended, and the other goes on")
        await tell("b", "the end")
        await asyncio.wait_for(reading, 10)
    assert [part.value for part in found] == list(range(21)), "each came before the next was written"
    assert of(found, "a") == list(enumerate(range(0, 19, 2)))
    assert of(found, "b") == list(enumerate([*range(1, 20, 2), 20]))
    assert {part.key for part in found} == {"tokens"}


def _has(found: list[StreamValue[Any]], last: int) -> bool:
    return bool(found) and found[-1].value == last


async def test_s5_streams_are_read_from_their_offsets_also_twice_and_long_after_their_end() -> None:
    for name in "ab":
        await (await start(name, *range(700), close=True)).get_result()
    found: list[StreamValue[Any]] = []
    await into(found, DBOS, StreamOf("a", TOKENS, 650), StreamOf("b", "tokens"), StreamOf("b", TOKENS, 699))
    assert of(found, "a") == [(n, n) for n in range(650, 700)]
    assert sorted(of(found, "b")) == sorted([*((n, n) for n in range(700)), (699, 699)])
    assert [part async for part in DBOS.read_streams()] == []
    assert await hears([]) == []


@pytest.mark.parametrize("inside", [False, True])
async def test_c3_no_stream_waits_for_another_that_has_much_to_tell(inside: bool) -> None:
    names = ["long", *(f"short{n}" for n in range(live_merge.MAX_AT_ONCE + 4))]
    await (await start("long", *range(3000), close=True)).get_result()
    for name in names[1:]:
        await start(name, 1, 2, close=True)
    await eventually(lambda: _ended(names))
    if inside:
        found = [StreamValue(each[0], "tokens", each[1], each[2]) for each in await hears(names)]
    else:
        found = []
        await into(found, DBOS, *(StreamOf(name, TOKENS) for name in names))
    assert of(found, "long") == [(n, n) for n in range(3000)]
    last_short = max(place for place, part in enumerate(found) if part.workflow_id != "long")
    assert last_short < 600, "a page of the long one at most comes first"
    assert all(of(found, name) == [(0, 1), (1, 2)] for name in names[1:])


async def _wait(names: list[str]) -> bool:
    return all([any(step.verb == "recv" for step in await DBOS.list_workflow_steps(name)) for name in names])


async def _ended(names: list[str]) -> bool:
    return all([(await (await DBOS.retrieve_workflow(name)).get_status()).ended_at for name in names])


async def test_s6_in_a_workflow_the_order_is_recorded_as_boundaries_and_a_replay_repeats_it(connection: Any) -> None:
    await start("a", 0, 1)
    await start("b", 0)
    handle = await DBOS.start_workflow(hears, ["a", "b"])
    await tell("b", 1)
    await tell("a", *range(2, 30), "the end")
    await tell("b", *range(2, 30), "the end")
    result = await handle.get_result()
    for name in "ab":
        assert [each[1:] for each in result if each[0] == name] == [[n, n] for n in range(30)]
    steps = await DBOS.list_workflow_steps(handle.workflow_id)
    assert {step.verb for step in steps} == {"read_streams"}
    assert {step.key for step in steps} == {'[["tokens","a"],["tokens","b"]]'}
    counted = [(step.output["stream"], step.output["count"]) for step in steps if step.output]
    assert [sum(count for stream, count in counted if stream == which) for which in (0, 1)] == [30, 30]
    await connection.execute(
        "update dbos_async.workflows set status = 'PENDING', owner = null, output = null, ended_at = null where id = $1",
        handle.workflow_id,
    )
    await eventually(lambda: _ended([handle.workflow_id]))
    assert await handle.get_result() == result
    assert len(await DBOS.list_workflow_steps(handle.workflow_id)) == len(steps)


async def test_s6_w3_a_fork_reads_what_its_original_has_read_and_its_own_copies() -> None:
    @DBOS.workflow(name="hears itself and a child")
    async def family() -> list[Any]:
        me = str(DBOS.workflow_id)
        await DBOS.write_stream("tokens", 1)
        await DBOS.close_stream("tokens")
        child = await DBOS.start_workflow(speaks, [2, 3], True)
        await child.get_result()
        parts = DBOS.read_streams(StreamOf(me, "tokens"), StreamOf(child.workflow_id, TOKENS))
        found = sorted([part.value async for part in parts])
        await DBOS.set_event("found", found)
        return found

    with SetWorkflowID("w"):
        assert await family() == [1, 2, 3]
    last = (await DBOS.list_workflow_steps("w"))[-1]
    assert last.verb == "set_event"
    with SetWorkflowID("another"):
        forked = await DBOS.fork_workflow("w", last.step)
    assert await asyncio.wait_for(forked.get_result(), 10) == [1, 2, 3]


@pytest.mark.parametrize("names", [["nobody"], ["a", "nobody"], ["nobody", "a"]])
async def test_s7_a_workflow_that_does_not_exist_raises(names: list[str]) -> None:
    await start("a", 1)
    for reading in (into([], DBOS, *(StreamOf(name, TOKENS) for name in names)), hears(names)):
        with pytest.raises(WorkflowNotFoundError, match="'nobody'"):
            await asyncio.wait_for(reading, 10)


async def test_s7_a_reader_that_waits_too_long_raises_a_timeout_error() -> None:
    await start("a", 1, close=True)
    await start("b", 1, 2)
    await eventually(lambda: _ended(["a"]))
    found: list[StreamValue[Any]] = []
    with pytest.raises(StreamTimeoutError, match="'tokens' of workflow 'b' for 0.1 seconds: read on from offset 2"):
        await into(found, DBOS, StreamOf("a", TOKENS), StreamOf("b", TOKENS), timeout_seconds=0.1)
    assert len(found) == 3
    with pytest.raises(TimeoutError, match="'tokens' of workflow 'b' for 0.1 seconds: read on from offset 2"):
        await hears(["a", "b"], 0.1)


@pytest.mark.parametrize("inside", [False, True])
async def test_s3_a_value_that_does_not_fit_raises_where_it_stands(inside: bool) -> None:
    await start("a", 0, 1, "two", 3, close=True)
    await start("b", 0, close=True)
    await eventually(lambda: _ended(["a", "b"]))
    found: list[Any] = []

    async def read() -> None:
        async for part in DBOS.read_streams(StreamOf("b", TOKENS), StreamOf("a", TOKENS)):
            found.append([part.workflow_id, part.value])  # noqa: PERF401 - what came before counts

    @DBOS.workflow(name="hears a misfit")
    async def workflow() -> int:
        try:
            await read()
        except InvalidStreamValueError as error:
            return error.offset
        return -1

    if inside:
        assert await workflow() == 2
    else:
        with pytest.raises(InvalidStreamValueError) as raised:
            await read()
        assert raised.value.offset == 2
    assert found == [["b", 0], ["a", 0], ["a", 1]]


async def test_s5_an_abandoned_reader_of_several_leaves_nothing_behind() -> None:
    await start("a", 1, 2)
    await start("b", 1)
    streams = StreamOf("a", TOKENS), StreamOf("b", TOKENS)
    await eventually(lambda: _wait(["a", "b"]), "both have written, and wait")
    watched = len(launched.database().wakeups)
    for _ in range(20):
        async with aclosing(DBOS.read_streams(*streams)) as parts:
            assert (await anext(parts)).value == 1
    waiting = [asyncio.create_task(into([], DBOS, *streams)) for _ in range(20)]
    await eventually(lambda: len(launched.database().wakeups) > watched)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await eventually(lambda: len(launched.database().wakeups) == watched, "nobody watches any more")


async def test_s1_s3_what_another_process_writes_in_between_is_read_in_its_place(connection: Any) -> None:
    await start("a")
    await start("b")
    found: list[StreamValue[Any]] = []
    reading = asyncio.create_task(into(found, DBOS, StreamOf("a", TOKENS), StreamOf("b", TOKENS)))
    for n in (0, 2, 3, 5):
        if n in (2, 5):  # the workflow was elsewhere for a while, and the notification is still on its way
            await connection.execute(
                'insert into dbos_async.stream_entries (workflow_id, key, "offset", value, step, attempt, act) '
                "values ('a', 'tokens', $1, to_json($1::int), '1', 1, 0)",
                n - 1,
            )
        await tell("a", n)
        await tell("b", n)
        await eventually(functools.partial(_all_read, found, n + 1), "everything is read, in order")
    await tell("a", "the end")
    await tell("b", "the end")
    await reading
    assert of(found, "b") == list(enumerate((0, 2, 3, 5)))


def _all_read(found: list[StreamValue[Any]], count: int) -> bool:
    return of(found, "a") == [(n, n) for n in range(count)]


@pytest.mark.parametrize("wrong", [5, "a", None, ("a", "tokens")])
async def test_d5_what_is_no_stream_raises_at_once(wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="A stream must be"):
        DBOS.read_streams(StreamOf("a", TOKENS), wrong)
