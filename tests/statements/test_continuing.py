"""The end of a generation as a statement: who waits for whom, what the old run can still do, and what it reads (T2)."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from dbos_async._executor.claiming import CLAIM
from dbos_async._executor.continuing import CONTINUE
from dbos_async._executor.ending import FINISH
from dbos_async._messaging import ask, events, recv, send
from dbos_async._workflows import control, fork
from tests.support.races import blocked, everything, outcome
from tests.support.statements import ACTS, Act, Row, execute, step

CONTINUED: Row = ("w", 1, 1, '{"args":[2],"kwargs":{}}', "me", None, "[]", None)

every_act = pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
in_steps = pytest.mark.parametrize(
    "act", [a for a in ACTS.values() if a.works_in_steps], ids=lambda a: a.statement.name
)


@every_act
async def test_w3_t2_whatever_the_old_run_still_asks_for_does_nothing(act: Act, one: Any) -> None:
    assert (await execute(one, CONTINUE, CONTINUED))[0]["attempt"] == 2
    before = await everything(one)
    assert outcome(await execute(one, act.statement, act.row(step(1), "late"))) == "lost"
    if act.works_in_steps:
        assert outcome(await execute(one, act.statement, act.row(step(None), "late"))) == "lost"
    assert await everything(one) == before
    assert outcome(await execute(one, act.statement, act.row(step(1, attempt=2), "new"))) in ("done", "wait")


@in_steps
async def test_w3_t2_the_end_of_a_generation_waits_for_the_inside_of_a_step(
    act: Act, one: Any, two: Any, three: Any
) -> None:
    await one.execute("begin")
    assert outcome(await execute(one, act.statement, act.row(step(None), "first"))) == "done"
    task = asyncio.create_task(execute(two, CONTINUE, CONTINUED))
    await blocked(two, task, three)
    await one.execute("commit")
    assert (await task)[0]["attempt"] == 2
    assert await one.fetchval("select count(*) from dbos_async.steps where workflow_id = 'w'") == 0


@in_steps
async def test_w3_t2_the_inside_of_a_step_waits_for_that_and_then_does_nothing(
    act: Act, one: Any, two: Any, three: Any
) -> None:
    await one.execute("begin")
    await execute(one, CONTINUE, CONTINUED)
    task = asyncio.create_task(execute(two, act.statement, act.row(step(None), "late")))
    await blocked(two, task, three)
    await one.execute("commit")
    assert outcome(await task) == "lost"


async def test_w6_t2_a_cancel_waits_for_it_and_ends_the_next_generation(one: Any, two: Any, three: Any) -> None:
    await one.execute("begin")
    await execute(one, CONTINUE, CONTINUED)
    task = asyncio.create_task(execute(two, control.CANCEL, ("w", None, b"d")))
    await blocked(two, task, three)
    await one.execute("commit")
    assert (await task)[0]["attempt"] == 3
    row = await one.fetchrow("select status, generation, attempt, input::text from dbos_async.workflows where id = 'w'")
    assert tuple(row) == ("CANCELLED", 2, 3, CONTINUED[3])


@pytest.mark.parametrize("first_ends_by", ["commit", "rollback"])
async def test_t2_of_a_cancel_an_end_and_a_continue_one_happens(
    first_ends_by: str, one: Any, two: Any, three: Any
) -> None:
    await one.execute("begin")
    await execute(one, FINISH, ("w", 1, "SUCCESS", "1", None, b"d"))
    task = asyncio.create_task(execute(two, CONTINUE, CONTINUED))
    await blocked(two, task, three)
    await one.execute(first_ends_by)
    assert ((await task)[0]["attempt"] is None) == (first_ends_by == "commit")
    generation = await one.fetchval("select generation from dbos_async.workflows where id = 'w'")
    assert generation == (1 if first_ends_by == "commit" else 2)


async def test_w10_t2_a_claim_passes_a_workflow_over_that_is_about_to_continue(one: Any, two: Any) -> None:
    await one.execute("begin")
    await execute(one, CONTINUE, (*CONTINUED[:4], None, "2", "[]", b"d"))
    claim = "other", '["f"]', "2", 10
    assert [row["id"] for row in await execute(two, CLAIM, claim) if row["id"] is not None] == []
    await one.execute("commit")
    (claimed,) = [row for row in await execute(two, CLAIM, claim) if row["id"] == "w"]
    assert (claimed["attempt"], claimed["generation"], claimed["input"]) == (3, 2, CONTINUED[3])


async def test_m1_t2_sends_wait_for_nobody_and_their_messages_stay(one: Any, two: Any) -> None:
    taken = await execute(one, recv.TAKE, (*step(1), "recv", "", 60.0, False))
    assert outcome(taken) == "done"
    left = await one.fetchval(
        "select count(*) from dbos_async.messages where destination_id = 'w' and received_at is null"
    )
    await one.execute("begin")
    await execute(one, CONTINUE, CONTINUED)
    sent = await execute(two, send.SEND_EXTERNAL, (uuid4(), "w", "", '"while it commits"', None, b"d", None))
    assert outcome(sent) == "done"
    await one.execute("commit")
    waiting = "select count(*) from dbos_async.messages where destination_id = 'w' and received_at is null"
    assert await one.fetchval(waiting) == left + 1
    received = "select count(*) from dbos_async.messages where destination_id = 'w' and received_at is not null"
    assert await one.fetchval(received) == 0


async def test_t2_a_fork_copies_either_generation_whole(one: Any, two: Any) -> None:
    await execute(one, events.SET_EVENT, (*step(1), "1", "k", '"first"', 1, b"d"))
    await one.execute("begin")
    await execute(one, CONTINUE, CONTINUED)
    await execute(two, fork.FORK, ("w", "before", "2", None, None, None, b"d"))
    await one.execute("commit")
    await execute(two, fork.FORK, ("w", "after", "1", None, None, None, b"d"))
    rows = await one.fetch(
        "select w.id, w.input::text, (select count(*) from dbos_async.steps where workflow_id = w.id) as steps, "
        "(select value::text from dbos_async.events where workflow_id = w.id order by seq desc limit 1) as event "
        "from dbos_async.workflows as w where id in ('before', 'after') order by id"
    )
    assert [tuple(row) for row in rows] == [("after", CONTINUED[3], 0, '"first"'), ("before", "{}", 1, '"first"')]


async def test_c2_t2_a_question_of_a_workflow_is_kept_until_it_is_answered(one: Any) -> None:
    asked = uuid4()
    await one.execute(
        "update dbos_async.workflows set status = 'PENDING', ended_at = null, owner = 'me' where id = 'other'"
    )
    question: Row = "other", 1, "", 1, "w", asked, "w", "q", '"how?"', b"d", None, None, 60.0, None, None
    assert outcome(await execute(one, ask.ASK, question)) == "wait"
    await execute(one, recv.TAKE, (*step(2), "recv_envelope", "q", 60.0, False))
    for generation in range(1, 8):
        row = "w", generation, generation, '{"args":[],"kwargs":{}}', "me", None, "[]", None
        assert (await execute(one, CONTINUE, row))[0]["attempt"] == generation + 1
        if generation == 3:
            await one.execute("update dbos_async.messages set answered_at = now(), answer = '1' where id = $1", asked)
        if generation == 4:  # the workflow that asked has read it only now
            await one.execute(
                "update dbos_async.steps set completed_at = now() where workflow_id = 'other' and verb = 'ask'"
            )
        is_kept = await one.fetchval("select count(*) from dbos_async.messages where id = $1", asked)
        assert is_kept == (1 if generation < 6 else 0)
