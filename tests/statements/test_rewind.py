"""REWIND beside other writes, forced by hand on two connections: promises S1, S8, W3."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from dbos_async._messaging import streams
from dbos_async._messaging.live import READ
from dbos_async._messaging.stream_pages import StreamPlace
from tests.support.races import CLAIM_BY_HAND, blocked, outcome
from tests.support.shown import check_rows
from tests.support.statements import execute

Row = tuple[Any, ...]


def write(step: str, value: str, act: int, attempt: int = 1) -> Row:
    return ("w", attempt, None, None, step, "write_stream", "k", f'"{value}"', act, -1, b"d")


def append(step: str, values: str, first: int, act: int, attempt: int = 1) -> Row:
    batch = "[" + ",".join(f'"{value}"' for value in values) + "]"
    return ("w", attempt, None, None, step, "stream_writer", "k", batch, first, None, act, -1, b"d")


def rewind(step: str, values: str, act: int, attempt: int = 1) -> Row:
    batch = "[" + ",".join(f'"{value}"' for value in values) + "]"
    return ("w", attempt, step, "k", batch, act, -1, b"d")


async def stands(connection: Any, offset: int = 0) -> str:
    """The values that a late reader sees."""
    place = StreamPlace(offset)
    found: list[str] = []
    while True:
        page = place.read("w", "k", await execute(connection, READ, ("w", "k", place.offset, 500, None)))
        found += [text.strip('"') for _, text in page.entries]
        if page.is_empty:
            return "".join(found)


async def setting(connection: Any) -> None:
    """Two writers, each with two values, and a write in between."""
    await execute(connection, streams.APPEND, append("1", "ab", 0, 1))
    await execute(connection, streams.WRITE, write("3", "x", 2))
    await execute(connection, streams.APPEND, append("2", "pq", 0, 3))


OTHERS = {
    "WRITE": (streams.WRITE, write("3", "y", 9), "xpqyA"),
    "APPEND": (streams.APPEND, append("2", "r", 2, 9), "xpqrA"),
    "REWIND": (streams.REWIND, rewind("2", "P", 9), "xPA"),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("first", ["rewind", "other"])
@pytest.mark.parametrize("ends_by", ["commit", "rollback"])
async def test_s1_s8_a_rewind_beside_another_write_comes_before_or_after_it(
    name: str, first: str, ends_by: str, one: Any, two: Any, three: Any
) -> None:
    await setting(one)
    statement, row, behind = OTHERS[name]
    calls = [(streams.REWIND, rewind("1", "A", 8)), (statement, row)]
    if first == "other":
        calls.reverse()
    await one.execute("begin")
    assert outcome(await execute(one, *calls[0])) == "done"
    task = asyncio.create_task(execute(two, *calls[1]))
    await blocked(two, task, three)
    await one.execute(ends_by)
    try:
        answer = await task
        assert ends_by == "rollback"
    except asyncpg.UniqueViolationError:
        assert ends_by == "commit"
        answer = await execute(two, *calls[1])
    assert outcome(answer) == "done"
    if ends_by == "rollback":
        assert outcome(await execute(one, *calls[0])) == "done"
    found = await stands(three)
    assert sorted(found) == sorted(behind)
    assert found.replace("A", "") == behind.replace("A", ""), "the others in their order"
    await check_rows(three, "w", "k")


@pytest.mark.parametrize("name", OTHERS)
async def test_s8_w3_what_a_run_that_was_taken_over_sends_late_changes_nothing(
    name: str, one: Any, two: Any, three: Any
) -> None:
    await setting(one)
    statement, row, _ = OTHERS[name]
    await one.execute("begin")
    await one.execute(CLAIM_BY_HAND)
    late = asyncio.create_task(execute(two, statement, row))
    await blocked(two, late, three)
    await one.execute("commit")
    assert outcome(await late) == "lost"
    assert outcome(await execute(two, streams.REWIND, rewind("1", "A", 8))) == "lost"
    assert await stands(three) == "abxpq"
    assert outcome(await execute(one, streams.REWIND, rewind("1", "A", 1, attempt=2))) == "done"
    assert outcome(await execute(two, streams.APPEND, append("1", "late", 2, 9))) == "lost"
    assert await stands(three) == "xpqA"


@pytest.mark.parametrize("in_between", [None, *OTHERS])
@pytest.mark.parametrize("values", ["A", "AB", ""])
async def test_s8_a_rewind_that_is_repeated_after_its_answer_was_lost_changes_nothing(
    in_between: str | None, values: str, one: Any
) -> None:
    await setting(one)
    row = rewind("1", values, 8)
    assert outcome(await execute(one, streams.REWIND, row)) == "done"
    if in_between is not None:
        statement, other, _ = OTHERS[in_between]
        assert outcome(await execute(one, statement, other)) == "done"
    before = await stands(one)
    count = await one.fetchval("select count(*) from dbos_async.stream_entries")
    assert outcome(await execute(one, streams.REWIND, row)) == "done"
    assert await stands(one) == before
    assert await one.fetchval("select count(*) from dbos_async.stream_entries") == count
    await check_rows(one, "w", "k")


@pytest.mark.parametrize("batches", [["abc"], ["a", "bc"], ["ab", "c"]])
async def test_s8_values_that_come_again_are_left_out_also_after_they_were_copied(batches: list[str], one: Any) -> None:
    await execute(one, streams.APPEND, append("2", "z", 0, 1))
    first = 0
    for act, batch in enumerate(batches, 2):
        await execute(one, streams.APPEND, append("1", batch, first, act))
        first += len(batch)
    await execute(one, streams.REWIND, rewind("2", "Z", 7))
    assert await stands(one) == "abcZ"
    assert outcome(await execute(one, streams.APPEND, append("1", "abcd", 0, 8))) == "done"
    assert await stands(one) == "abcZd"
    await check_rows(one, "w", "k")


async def test_s2_an_empty_batch_behind_a_barrier_s_values_hides_none_of_them(one: Any) -> None:
    rows = [append("1", "", 3, 1), append("1", "abc", 0, 2), append("1", "bcd", 1, 3)]
    await execute(one, streams.APPEND, *rows, calls=3)
    assert await stands(one) == "abcd"
    await check_rows(one, "w", "k")


@pytest.mark.parametrize("stop", range(12))
async def test_s8_a_reader_of_values_between_two_rewinds_has_each_value_of_others_once(stop: int, one: Any) -> None:
    # It has read up to "stop" when the second rewind comes, which may be in the middle of the copies of the first one.
    await setting(one)
    await execute(one, streams.WRITE, write("3", "y", 4))
    place = StreamPlace(0)

    async def read(most: int) -> str:
        page = place.read("w", "k", await execute(one, READ, ("w", "k", place.offset, most, None)))
        return "".join(text.strip('"') for _, text in page.entries)

    found = ""
    for _ in range(stop % 4):
        found += await read(1)
    await execute(one, streams.REWIND, rewind("1", "A", 5))
    for _ in range(stop // 4):
        found += await read(1)
    await execute(one, streams.REWIND, rewind("2", "P", 6))
    await execute(one, streams.REWIND, rewind("1", "B", 7))
    while (more := await read(500)) != "":
        found += more
    assert [found.count(each) for each in "xyP"] == [1, 1, 1], found
    assert found.index("x") < found.index("y") < found.index("P") < found.index("B")
    await check_rows(one, "w", "k")
