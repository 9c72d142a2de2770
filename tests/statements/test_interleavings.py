"""Races forced by hand on two connections, for every statement that acts in the name of a run (M2 to W8)."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from dbos_async._executor import claiming, ending
from dbos_async._messaging import events, send, streams
from dbos_async._workflows import start
from tests.support.races import CLAIM_BY_HAND, TABLES, blocked, everything, outcome
from tests.support.statements import ACTS, FORMS, Act, Row, execute, step

write_seq = pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
in_steps = pytest.mark.parametrize(
    "act", [a for a in ACTS.values() if a.works_in_steps], ids=lambda a: a.statement.name
)


@write_seq
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("first_ends_by", ["commit", "rollback"])
async def test_m2_m5_e2_s2_w3_two_runs_at_the_same_step_are_one(
    act: Act, first_ends_by: str, form: str, one: Any, two: Any, three: Any
) -> None:
    await one.execute("begin")
    first = await execute(one, act.statement, act.row(step(1), "first"), form=form)
    assert outcome(first) in ("done", "wait"), "a sleep begins by waiting"
    task = asyncio.create_task(execute(two, act.statement, act.row(step(1), "second"), form=form))
    await blocked(two, task, three)
    await one.execute(first_ends_by)
    try:
        second = await task
    except asyncpg.UniqueViolationError:
        assert first_ends_by == "commit"  # the batch is repeated as a whole
        second = await execute(two, act.statement, act.row(step(1), "second"))
    if first_ends_by == "rollback":
        assert outcome(second) in ("done", "wait")
    else:
        if outcome(second) == "again":
            second = await execute(two, act.statement, act.row(step(1), "second"))
        assert outcome(second) == "recorded"
        recorded = await one.fetchval("select output from dbos_async.steps where workflow_id = 'w'")
        assert second[0]["output"] == recorded
    assert await one.fetchval("select count(*) from dbos_async.steps") == 1
    assert (await one.fetchval(act.effects) or 0) in (0, 1)
    assert (await one.fetchval(act.effects)) != 0


@write_seq
@pytest.mark.parametrize("form", FORMS)
async def test_w3_what_was_in_flight_when_the_workflow_was_claimed_counts_as_done_before(
    act: Act, form: str, one: Any, two: Any, three: Any
) -> None:
    # The late run's statement has seen its fence hold, and stands at its step, which somebody holds for a moment.
    await one.execute("begin")
    await one.execute(
        "insert into dbos_async.steps (workflow_id, branch, number, verb, key) values ('w', '', 1, 'held', '')"
    )
    late = asyncio.create_task(execute(two, act.statement, act.row(step(1), "late"), form=form))
    await blocked(two, late, three)
    await three.execute(CLAIM_BY_HAND)
    await one.execute("rollback")
    assert outcome(await late) in ("done", "wait")
    later = await execute(one, act.statement, act.row(step(1, attempt=2), "new"))
    assert outcome(later) == "recorded"
    assert await one.fetchval(act.effects) in (None, 1)
    assert outcome(await execute(two, act.statement, act.row(step(2), "later"))) == "lost"


@in_steps
async def test_w3_the_inside_of_a_step_waits_for_a_claim_and_then_does_nothing(
    act: Act, one: Any, two: Any, three: Any
) -> None:
    await one.execute("begin")
    await one.execute(CLAIM_BY_HAND)
    before = await everything(three)
    late = asyncio.create_task(execute(two, act.statement, act.row(step(None), "late")))
    await blocked(two, late, three)
    await one.execute("commit")
    assert outcome(await late) == "lost"
    assert [
        rows for table, rows in zip(TABLES, await everything(three), strict=True) if table != "workflows"
    ] == before[1:]


@in_steps
async def test_w3_a_claim_waits_for_the_inside_of_a_step(act: Act, one: Any, two: Any, three: Any) -> None:
    await one.execute("begin")
    assert outcome(await execute(one, act.statement, act.row(step(None), "in time"))) == "done"
    claim = asyncio.create_task(two.execute(CLAIM_BY_HAND))
    await blocked(two, claim, three)
    await one.execute("commit")
    await claim
    assert await one.fetchval(act.effects) == 1


@write_seq
@pytest.mark.parametrize("change", ["attempt = 2", "status = 'CANCELLED'", "status = 'REPLAY_MISMATCH'"])
async def test_w3_w8_a_run_that_lost_its_workflow_changes_nothing(act: Act, change: str, one: Any) -> None:
    await one.execute(f"update dbos_async.workflows set {change} where id = 'w'")
    before = await everything(one)
    numbers: list[int | None] = [1, None] if act.works_in_steps else [1]
    for number in numbers:
        for form in FORMS:
            assert outcome(await execute(one, act.statement, act.row(step(number), "late"), form=form)) == "lost"
    assert await everything(one) == before


@pytest.mark.parametrize("act", [a for a in ACTS.values() if a.statement.sql_if_new], ids=lambda a: a.statement.name)
@pytest.mark.parametrize("completed", ["null", "now()"])
@pytest.mark.parametrize("form", ["new, alone", "new"])
async def test_w4_a_recorded_step_refuses_one_that_is_said_to_be_new(
    act: Act, completed: str, form: str, one: Any
) -> None:
    await one.execute(
        "insert into dbos_async.steps (workflow_id, branch, number, verb, key, completed_at) "
        f"values ('w', '', 1, 'another verb', 'its key', {completed})"
    )
    before = await everything(one)
    with pytest.raises(asyncpg.UniqueViolationError):
        await execute(one, act.statement, act.row(step(1), "x"), form=form)
    assert await everything(one) == before


@write_seq
async def test_w4_another_verb_at_a_recorded_step_is_told_and_changes_nothing(act: Act, one: Any) -> None:
    for completed in ("null", "now()"):
        await one.execute("truncate dbos_async.steps")
        await one.execute(
            "insert into dbos_async.steps (workflow_id, branch, number, verb, key, completed_at) "
            f"values ('w', '', 1, 'another verb', 'its key', {completed})"
        )
        before = await everything(one)
        (answer,) = await execute(one, act.statement, act.row(step(1), "x"))
        assert (answer["recorded_verb"], answer["recorded_key"]) == ("another verb", "its key")
        assert await everything(one) == before


async def test_m5_two_batches_of_receives_share_no_message(one: Any, two: Any, three: Any) -> None:
    take = ACTS["TAKE"]
    await one.execute("begin")
    (first,) = await execute(one, take.statement, take.row(step(1), ""))
    task = asyncio.create_task(execute(two, take.statement, take.row(step(2), ""), take.row(step(3), ""), calls=2))
    await blocked(two, task, three)
    await one.execute("commit")
    assert [first["output"], *(row["output"] for row in await task)] == ["1", "2", "3"]


async def test_m5_a_message_whose_taker_was_rolled_back_is_taken_by_the_next(one: Any, two: Any, three: Any) -> None:
    take = ACTS["TAKE"]
    await one.execute("begin")
    await execute(one, take.statement, take.row(step(1), ""))
    task = asyncio.create_task(execute(two, take.statement, take.row(step(1), "")))
    await blocked(two, task, three)
    await one.execute("rollback")
    assert [(row["outcome"], row["output"]) for row in await task] == [("done", "1")]


async def test_m5_receives_side_by_side_in_one_batch(one: Any) -> None:
    take = ACTS["TAKE"]
    answer = await execute(one, take.statement, *(take.row(step(n), "") for n in range(1, 8)), calls=7)
    outcomes = {row["n"]: (row["outcome"], row["output"]) for row in answer}
    assert [outcomes[n] for n in range(7)] == [("done", str(n)) for n in range(1, 6)] + [("wait", None)] * 2


@pytest.mark.parametrize("first_ends_by", ["commit", "rollback"])
async def test_m3_two_sends_with_one_key(first_ends_by: str, one: Any, two: Any, three: Any) -> None:
    def row(payload: str) -> Row:
        nobody = None, None, None, None
        return (*nobody, "send", "other", uuid4(), "other", "", payload, None, b"d", None, "the key")

    await one.execute("begin")
    await execute(one, send.SEND_BULK, row("1"))
    task = asyncio.create_task(execute(two, send.SEND_BULK, row("2")))
    await blocked(two, task, three)
    await one.execute(first_ends_by)
    assert outcome(await task) == "done"
    stored = await one.fetch("select payload from dbos_async.messages where destination_id = 'other'")
    assert [r["payload"] for r in stored] == ["1" if first_ends_by == "commit" else "2"]


async def test_m2_a_repeated_send_from_outside_stores_one_message(one: Any) -> None:
    # The connection broke after the commit, and the batch is repeated with the same ids.
    row = (uuid4(), "other", "", "1", None, b"d", None)
    assert outcome(await execute(one, send.SEND_EXTERNAL, row, form="new")) == "done"
    for _ in range(2):
        assert outcome(await execute(one, send.SEND_EXTERNAL, row)) == "done"
    assert await one.fetchval("select count(*) from dbos_async.messages where destination_id = 'other'") == 1


async def test_s1_two_batches_of_writes_leave_no_gap_and_no_double(one: Any, two: Any, three: Any) -> None:
    write = ACTS["WRITE"]
    await one.execute("begin")
    await execute(one, write.statement, write.row(step(1), "a"), write.row(step(2), "b"), calls=2)
    task = asyncio.create_task(execute(two, write.statement, write.row(step(3), "c")))
    await blocked(two, task, three)
    await one.execute("commit")
    with pytest.raises(asyncpg.UniqueViolationError):
        await task
    assert outcome(await execute(two, write.statement, write.row(step(3), "c"))) == "done"
    rows = await one.fetch("select \"offset\", value from dbos_async.stream_entries where workflow_id = 'w' order by 1")
    assert [tuple(row) for row in rows] == [(0, '"a"'), (1, '"b"'), (2, '"c"')]


async def test_s4_closing_and_writing_in_one_batch(one: Any) -> None:
    def row(number: int, value: str | None) -> Row:
        verb = "write_stream" if value else "close_stream"
        return (*step(number), str(number), verb, "k", value, number, -1, b"d")

    rows = [row(1, "1"), row(2, None), row(3, "2"), row(4, None)]
    answer = await execute(one, streams.WRITE, *rows, calls=4)
    assert [r["error"] is not None for r in sorted(answer)] == [False, False, True, False]
    stored = await one.fetch(
        "select \"offset\", closes from dbos_async.stream_entries where workflow_id = 'w' order by 1"
    )
    assert [tuple(r) for r in stored] == [(0, False), (1, True)]


@pytest.mark.parametrize("name", ["child", "another"])
async def test_w1_two_starts_of_one_id(name: str, one: Any, two: Any, three: Any) -> None:
    def row(name: str) -> Row:
        return ("the id", name, "{}", None, None, None, uuid4(), None, None, b"d")

    await one.execute("begin")
    await execute(one, start.START, row("child"))
    task = asyncio.create_task(execute(two, start.START, row(name)))
    await blocked(two, task, three)
    await one.execute("commit")
    with pytest.raises(asyncpg.UniqueViolationError):
        await task
    (answer,) = await execute(two, start.START, row(name))
    assert (answer["started"], answer["error"] is not None) == (False, name == "another")
    assert await one.fetchval("select count(*) from dbos_async.workflows where id = 'the id'") == 1


async def test_w1_a_repeated_start_knows_its_own_row(one: Any) -> None:
    row = ("the id", "child", "{}", "me", None, None, uuid4(), None, None, b"d")
    answers = [(await execute(one, start.START, row))[0] for _ in range(2)]
    await one.execute("update dbos_async.workflows set attempt = attempt + 1 where id = 'the id'")
    answers += await execute(one, start.START, row)
    assert [answer["started"] for answer in answers] == [True, True, False], "another executor has claimed it meanwhile"
    assert {answer["error"] for answer in answers} == {None}
    first = await one.fetchval("select attempt - 1 from dbos_async.workflows where id = 'the id'")
    assert {answer["attempts"] + 1 for answer in answers} == {first}


async def test_w3_a_workflow_that_takes_the_id_of_a_deleted_one_has_another_fence(one: Any) -> None:
    fences = set()
    for _ in range(3):
        row = ("the id", "child", "{}", "me", None, None, uuid4(), None, None, b"d")
        assert (await execute(one, start.START, row))[0]["started"]
        fences.add(await one.fetchval("delete from dbos_async.workflows where id = 'the id' returning attempt"))
    assert len(fences) == 3


FINISHED: Row = ("w", 1, "SUCCESS", '"done"', None, b"d")


async def test_w3_a_finish_that_meets_a_claim_does_nothing(one: Any, two: Any, three: Any) -> None:
    await one.execute("begin")
    await one.execute(CLAIM_BY_HAND)
    late = asyncio.create_task(execute(two, ending.FINISH, FINISHED))
    await blocked(two, late, three)
    await one.execute("commit")
    assert [row["ended"] for row in await late] == [False]
    assert await one.fetchval("select status from dbos_async.workflows where id = 'w'") == "PENDING"


async def test_w3_of_two_finishes_one_counts(one: Any, two: Any, three: Any) -> None:
    await one.execute("begin")
    assert (await execute(one, ending.FINISH, FINISHED))[0]["ended"]
    second = asyncio.create_task(execute(two, ending.FINISH, ("w", 1, "ERROR", None, "{}", b"d")))
    await blocked(two, second, three)
    await one.execute("commit")
    assert [row["ended"] for row in await second] == [False]
    status = await one.fetchrow(
        "select status, output, owner, ended_at is null from dbos_async.workflows where id = 'w'"
    )
    assert tuple(status) == ("SUCCESS", '"done"', "me", False)


async def test_w3_a_finish_of_a_deleted_workflow_brings_nothing_back(one: Any, two: Any, three: Any) -> None:
    await one.execute("begin")
    await one.execute("delete from dbos_async.workflows where id = 'w'")
    late = asyncio.create_task(execute(two, ending.FINISH, FINISHED))
    await blocked(two, late, three)
    await one.execute("commit")
    assert [row["ended"] for row in await late] == [False]
    assert await one.fetchval("select count(*) from dbos_async.workflows where id = 'w'") == 0


async def test_w3_two_claims_share_no_workflow(one: Any, two: Any) -> None:
    await one.execute("update dbos_async.workflows set owner = null where id = 'w'")
    await one.execute("begin")
    row = ("me", '["f"]', None, 10)
    assert [r["attempt"] for r in await execute(one, claiming.CLAIM, row)] == [2]
    assert [r["id"] for r in await execute(two, claiming.CLAIM, row)] == [None]
    await one.execute("commit")
    assert [r["id"] for r in await execute(two, claiming.CLAIM, row)] == [None]
    await one.execute(
        "insert into dbos_async.workflows (id, name, input, start_id, attempt) "
        "select 'v' || n, 'f', '{}', gen_random_uuid(), 0 from generate_series(1, 3) as n"
    )
    await one.execute("begin")
    row = ("me", '["f"]', None, 2)
    assert {(r["id"], r["more"]) for r in await execute(one, claiming.CLAIM, row)} == {("v1", True), ("v2", True)}
    # The other one finds the same two first, and hears that it should look for more behind them.
    assert [(r["id"], r["more"]) for r in await execute(two, claiming.CLAIM, row)] == [(None, True)]
    await one.execute("commit")
    assert [(r["id"], r["more"]) for r in await execute(two, claiming.CLAIM, row)] == [("v3", False)]


async def test_e2_what_a_step_says_late_does_not_come_behind_what_was_said_after_it(one: Any) -> None:
    """The answer of an act got lost, it was repeated, the workflow went on, and only then the first one is done."""

    def said(act: int, value: str, attempt: int = 1, number: int | None = None) -> Row:
        return (*step(number, attempt), "1", "k", f'"{value}"', act, b"d")

    values = "select array_agg(value::text order by seq) from dbos_async.events where workflow_id = 'w'"
    assert outcome(await execute(one, events.SET_EVENT, said(1, "early"))) == "done"
    assert outcome(await execute(one, events.SET_EVENT, said(1, "early"))) == "done"
    assert outcome(await execute(one, events.SET_EVENT, said(2, "of the workflow", number=2))) == "done"
    assert outcome(await execute(one, events.SET_EVENT, said(1, "early"))) == "done"
    assert await one.fetchval(values) == ['"early"', '"of the workflow"']
    await one.execute(CLAIM_BY_HAND)
    assert outcome(await execute(one, events.SET_EVENT, said(1, "of the next run", attempt=2))) == "done"
    assert await one.fetchval(values) == ['"early"', '"of the workflow"', '"of the next run"']


async def test_s2_what_a_step_writes_late_does_not_come_behind_what_was_written_after_it(one: Any) -> None:
    def written(act: int, value: str | None, attempt: int = 1, number: int | None = None) -> Row:
        verb = "write_stream" if value else "close_stream"
        return (*step(number, attempt), "1", verb, "k", value and f'"{value}"', act, -1, b"d")

    values = (
        "select array_agg(coalesce(value::text, 'closed') order by \"offset\") "
        "from dbos_async.stream_entries where workflow_id = 'w'"
    )
    for row in (written(1, "a"), written(1, "a"), written(2, "b"), written(1, "a"), written(2, "b")):
        assert outcome(await execute(one, streams.WRITE, row)) == "done"
    await one.execute(CLAIM_BY_HAND)
    for row in (written(1, "c", attempt=2), written(2, None, attempt=2), written(1, "c", attempt=2)):
        (answer,) = await execute(one, streams.WRITE, row)
        assert (answer["outcome"], answer["error"]) == ("done", None)
    (answer,) = await execute(one, streams.WRITE, written(3, "d", attempt=2))
    assert "StreamClosedError" in answer["error"]
    assert await one.fetchval(values) == ['"a"', '"b"', '"c"', "closed"]
