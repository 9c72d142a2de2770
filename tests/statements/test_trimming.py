"""A trim and another writer of the stream at one moment, forced by hand on two connections (S1, S8, W3)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg
import pytest

from dbos_async._messaging import streams, trim
from tests.support.races import CLAIM_BY_HAND, blocked, everything, outcome
from tests.support.statements import Row, execute, step

WRITES = """
    insert into dbos_async.stream_entries (workflow_id, key, "offset", value, step, attempt, act) values
        ('w', 'k', 0, '"before"', '1', 1, 1);
    insert into dbos_async.stream_entries (workflow_id, key, "offset", batch, count, nth, step, attempt, act)
        select 'w', 'k', 1 + 3 * n, array['"a"', '"b"', '"c"']::json[], 3, 3 * n, '2', 1, 2 + n from generate_series(0, 2) as n;
    insert into dbos_async.stream_entries (workflow_id, key, "offset", value, step, attempt, act) values
        ('w', 'k', 10, '"another"', '3', 1, 9);
"""
"""Step 2 has written three batches to the stream of `w`, and others what comes before and behind them: the offsets 0 to 10."""

REWINDS: Row = ("w", 1, "2", "k", '["new"]', 20, -1, b"d")


def trims(target: str, before: int, caller: Row = (None, None, None, None), most: int = 2000) -> Row:
    return (*caller, f"k of {target}", target, "k", before, most)


async def readable(connection: Any, first: int, workflow_id: str = "w") -> list[Any]:
    """The values that stand from this offset on, with their offsets; the table must have them without a gap."""
    rows = await connection.fetch(
        'select "offset", value, batch, coalesce(count, 1) as count, trimmed, taken_back_by, rewinds_to '
        'from dbos_async.stream_entries where workflow_id = $1 order by "offset"',
        workflow_id,
    )
    found: list[Any] = []
    end = first
    for row in rows:
        if row["trimmed"] is not None:
            assert row["offset"] + row["count"] <= first
            assert row["value"] is row["batch"] is row["taken_back_by"] is None
            continue
        assert row["offset"] == end
        end += row["count"]
        if row["taken_back_by"] is None and row["rewinds_to"] is None:
            values = [row["value"]] if row["batch"] is None else row["batch"]
            found += [(row["offset"] + n, json.loads(value)) for n, value in enumerate(values)]
    assert not rows or rows[0]["trimmed"] in ((None, 0) if first == 0 else (first,))
    return found


@pytest.mark.parametrize("ends_by", ["commit", "rollback"])
@pytest.mark.parametrize(("one_before", "two_before"), [(2, 6), (6, 2), (5, 6), (4, 4), (11, 3), (1, 11)])
async def test_s1_two_trims_of_one_stream(
    one_before: int, two_before: int, ends_by: str, one: Any, two: Any, three: Any
) -> None:
    await one.execute(WRITES)
    there = await readable(one, 0)
    await one.execute("begin")
    (first,) = await execute(one, trim.TRIM, trims("w", one_before))
    assert (first["outcome"], first["output"]) == ("done", str(one_before))
    task = asyncio.create_task(execute(two, trim.TRIM, trims("w", two_before)))
    await blocked(two, task, three)
    await one.execute(ends_by)
    left = two_before if ends_by == "rollback" else max(one_before, two_before)
    (second,) = await task
    assert (second["outcome"], second["output"]) == ("done", str(left))
    assert await readable(one, left) == there[left:]


async def test_s1_two_trims_in_one_batch(one: Any) -> None:
    await one.execute(WRITES)
    there = await readable(one, 0)
    answer = await execute(one, trim.TRIM, trims("w", 3), trims("w", 6), trims("other", 1), calls=3)
    assert {row["n"]: row["output"] for row in answer} == {0: "3", 1: "6", 2: "1"}
    assert await readable(one, 6) == there[6:]


@pytest.mark.parametrize("ends_by", ["commit", "rollback"])
@pytest.mark.parametrize("before", [2, 4, 5, 9, 10, 11])
async def test_s8_a_rewind_of_what_is_trimmed_at_this_moment(
    before: int, ends_by: str, one: Any, two: Any, three: Any
) -> None:
    await one.execute(WRITES)
    await one.execute("begin")
    await execute(one, trim.TRIM, trims("w", before))
    task = asyncio.create_task(execute(two, streams.REWIND, REWINDS))
    await blocked(two, task, three)
    await one.execute(ends_by)
    if ends_by == "commit":
        with pytest.raises(asyncpg.UniqueViolationError):
            await task  # and is repeated
        answer = await execute(two, streams.REWIND, REWINDS)
    else:
        answer = await task
    assert outcome(answer) == "done"
    assert answer[0]["has_rewound"]
    kept = [] if ends_by == "commit" and before == 11 else [(12, "another")]
    offset = 12 + len(kept)
    first = before if ends_by == "commit" else 0
    assert await readable(one, first) == [*([] if first else [(0, "before")]), *kept, (offset, "new")]
    rewound = await one.fetchval("select rewinds_to from dbos_async.stream_entries where rewinds_to is not null")
    assert rewound == 1, "where the step began"
    again = await execute(two, streams.REWIND, (*REWINDS[:5], 21, *REWINDS[6:]))
    assert again[0]["has_rewound"]
    assert again[0]["offset"] is not None
    assert await one.fetchval("select max(rewinds_to) from dbos_async.stream_entries") > 1, "only what stood"


@pytest.mark.parametrize("ends_by", ["commit", "rollback"])
@pytest.mark.parametrize("before", [2, 4, 5, 9, 10, 11])
async def test_s8_a_trim_of_what_is_taken_back_at_this_moment(
    before: int, ends_by: str, one: Any, two: Any, three: Any
) -> None:
    await one.execute(WRITES)
    there = await readable(one, 0)
    await one.execute("begin")
    await execute(one, streams.REWIND, REWINDS)
    task = asyncio.create_task(execute(two, trim.TRIM, trims("w", before)))
    await blocked(two, task, three)
    await one.execute(ends_by)
    assert (await task)[0]["output"] == str(before)
    expected = [(12, "another"), (13, "new")] if ends_by == "commit" else there[before:]
    assert await readable(one, before) == expected


@pytest.mark.parametrize("trims_first", [True, False])
async def test_s1_a_trim_and_a_write_at_one_moment(trims_first: bool, one: Any, two: Any) -> None:
    await one.execute(WRITES)
    await one.execute("begin")
    write = (*step(5), "5", "write_stream", "k", '"written"', 30, 10, b"d")
    append = (*step(None), "2", "stream_writer", "k", '["d"]', 9, None, 31, -1, b"d")
    if trims_first:
        assert (await execute(one, trim.TRIM, trims("w", 99)))[0]["output"] == "11"
        await execute(two, streams.WRITE, write)
        await execute(two, streams.APPEND, append)
    else:
        await execute(one, streams.WRITE, write)
        await execute(one, streams.APPEND, append)
        assert (await execute(two, trim.TRIM, trims("w", 99)))[0]["output"] == "11", "what is not committed stays"
    await one.execute("commit")
    assert await readable(one, 11) == [(11, "written"), (12, "d")]
    await execute(one, streams.APPEND, (*append[:10], 32, *append[11:]))
    assert len(await readable(one, 11)) == 2, "the writer had written this already"


@pytest.mark.parametrize("ends_by", ["commit", "rollback"])
async def test_s5_a_trim_and_a_deletion_at_one_moment(ends_by: str, one: Any, two: Any, three: Any) -> None:
    await one.execute("update dbos_async.workflows set ended_at = now() where id = 'other'")
    await one.execute("begin")
    assert await one.fetchval("select dbos_async.delete_workflow('other', 1)")
    task = asyncio.create_task(execute(two, trim.TRIM, trims("other", 2)))
    await blocked(two, task, three)
    await one.execute(ends_by)
    (answer,) = await task
    if ends_by == "commit":
        assert "WorkflowNotFoundError" in answer["error"]
        assert not await readable(one, 0, "other")
    else:
        assert answer["output"] == "2"
        assert await readable(one, 2, "other") == [(2, 2)]


async def test_w3_a_part_of_a_trim_waits_for_a_claim_and_then_removes_nothing(one: Any, two: Any, three: Any) -> None:
    row = trims("other", 3, step(1), most=1)
    assert outcome(await execute(one, trim.TRIM, row)) == "again"
    assert await readable(one, 1, "other") == [(1, 1), (2, 2)]
    assert not await one.fetchval("select count(*) from dbos_async.steps")
    await one.execute("begin")
    await one.execute(CLAIM_BY_HAND)
    before = (await everything(three))[1:]
    late = asyncio.create_task(execute(two, trim.TRIM, row))
    await blocked(two, late, three)
    await one.execute("commit")
    assert outcome(await late) == "lost"
    assert (await everything(three))[1:] == before


async def test_w3_a_claim_waits_for_a_part_of_a_trim(one: Any, two: Any, three: Any) -> None:
    await one.execute("begin")
    assert outcome(await execute(one, trim.TRIM, trims("other", 3, step(1), most=1))) == "again"
    claim = asyncio.create_task(two.execute(CLAIM_BY_HAND))
    await blocked(two, claim, three)
    await one.execute("commit")
    await claim
    rest = trims("other", 3, step(1, attempt=2), most=1)
    assert [outcome(await execute(one, trim.TRIM, rest)) for _ in range(3)] == ["again", "done", "recorded"]
