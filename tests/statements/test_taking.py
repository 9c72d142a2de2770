"""A later poll of a receive that waits, each race forced by hand on two connections (M4, M5, M6, W3, W4)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dbos_async._messaging.recv import TAKE, TAKE_WAITING
from tests.support.races import CLAIM_BY_HAND, blocked, everything, outcome, state
from tests.support.statements import Row, execute, step

forms = pytest.mark.parametrize("form", ["alone", ""])

PUT = """
    insert into dbos_async.messages (id, seq, destination_id, topic, payload)
        select gen_random_uuid(), nextval('dbos_async.message_seq'), 'w', 't', to_json(n) from generate_series(1, $1::int) as n
"""
TOUCH = "update dbos_async.messages set received_at = null where topic = 't'"


def take(number: int = 1, attempt: int = 1, seconds: float | None = 60.0, verb: str = "recv", key: str = "t") -> Row:
    return (*step(number, attempt), verb, key, seconds, False)


async def begin_waiting(connection: Any, *rows: Row) -> None:
    for row in rows:
        assert outcome(await execute(connection, TAKE, row, form="new, alone")) == "wait"


@forms
async def test_m5_a_later_poll_takes_the_oldest_message_and_a_repetition_knows_it(form: str, one: Any) -> None:
    await begin_waiting(one, take())
    await one.execute(PUT, 2)
    (taken,) = await execute(one, TAKE_WAITING, take(), form=form)
    assert (taken["outcome"], taken["output"]) == ("done", "1")
    assert await state(one) == ([(1, "1", True)], [("1", True), ("2", False)])
    before = await everything(one)
    for again in ("alone", ""):
        (answer,) = await execute(one, TAKE_WAITING, take(), form=again)
        assert (answer["outcome"], answer["output"]) == ("recorded", "1")
        assert answer["message_id"] == taken["message_id"]
    assert await everything(one) == before


@forms
async def test_m6_a_later_poll_in_vain_writes_nothing_until_the_time_is_over(form: str, one: Any) -> None:
    await begin_waiting(one, take())
    places = "select ctid, xmin, xmax from dbos_async.steps"
    before = await one.fetch(places)
    (answer,) = await execute(one, TAKE_WAITING, take(), form=form)
    assert answer["outcome"] == "wait"
    assert 50 < answer["seconds_left"] <= 60
    assert await one.fetch(places) == before
    await one.execute("update dbos_async.steps set deadline = clock_timestamp()")
    (answer,) = await execute(one, TAKE_WAITING, take(), form=form)
    assert (answer["outcome"], answer["output"], answer["message_id"]) == ("done", None, None)
    assert await state(one) == ([(1, None, True)], [])
    await one.execute(PUT, 1)
    (answer,) = await execute(one, TAKE_WAITING, take(), form=form)
    assert (answer["outcome"], answer["output"]) == ("recorded", None)
    assert await state(one) == ([(1, None, True)], [("1", False)])


@forms
async def test_m6_a_message_that_is_there_counts_also_when_the_time_is_over(form: str, one: Any) -> None:
    await begin_waiting(one, take())
    await one.execute(PUT, 1)
    await one.execute("update dbos_async.steps set deadline = clock_timestamp()")
    (answer,) = await execute(one, TAKE_WAITING, take(), form=form)
    assert (answer["outcome"], answer["output"]) == ("done", "1")


@forms
@pytest.mark.parametrize("first_ends_by", ["commit", "rollback"])
async def test_m5_w3_two_later_polls_of_one_step_are_one(
    first_ends_by: str, form: str, one: Any, two: Any, three: Any
) -> None:
    await begin_waiting(one, take())
    await one.execute(PUT, 2)
    await one.execute("begin")
    assert (await execute(one, TAKE_WAITING, take(), form=form))[0]["output"] == "1"
    task = asyncio.create_task(execute(two, TAKE_WAITING, take(), form=form))
    await blocked(two, task, three)
    await one.execute(first_ends_by)
    (answer,) = await task
    if first_ends_by == "commit":
        assert answer["outcome"] == "again"
        (answer,) = await execute(two, TAKE_WAITING, take(), form=form)
        assert answer["outcome"] == "recorded"
    assert answer["output"] == "1"
    assert await state(one) == ([(1, "1", True)], [("1", True), ("2", False)])


async def test_m4_m5_a_message_whose_row_changes_meanwhile_is_taken_as_it_is_then(
    one: Any, two: Any, three: Any
) -> None:
    # It was received and put back by another transaction, while the poll waited for the lock of its row.
    await begin_waiting(one, take())
    await one.execute(PUT, 1)
    await one.execute("begin")
    await one.execute(TOUCH)
    task = asyncio.create_task(execute(two, TAKE_WAITING, take()))
    await blocked(two, task, three)
    await one.execute("commit")
    assert outcome(await task) == "done"
    assert await state(one) == ([(1, "1", True)], [("1", True)])


async def test_m5_a_later_poll_that_stands_at_its_step_takes_nothing_when_a_send_completes_that(
    one: Any, two: Any, three: Any
) -> None:
    await begin_waiting(one, take())
    await one.execute(PUT, 1)
    await one.execute("begin")
    await one.execute("update dbos_async.steps set output = '\"handed\"', completed_at = now() where workflow_id = 'w'")
    task = asyncio.create_task(execute(two, TAKE_WAITING, take()))
    await blocked(two, task, three)
    await one.execute("commit")
    assert outcome(await task) == "again"
    assert await state(one) == ([(1, '"handed"', True)], [("1", False)])
    (answer,) = await execute(two, TAKE_WAITING, take())
    assert (answer["outcome"], answer["output"]) == ("recorded", '"handed"')


async def test_m4_later_polls_side_by_side_take_side_by_side(one: Any) -> None:
    rows = [take(number) for number in (1, 2, 3)]
    await begin_waiting(one, *rows)
    await one.execute(PUT, 2)
    answers = sorted(await execute(one, TAKE_WAITING, *rows, calls=3), key=lambda answer: int(answer["n"]))
    assert [(a["outcome"], a["output"]) for a in answers] == [("done", "1"), ("done", "2"), ("wait", None)]


async def test_m4_a_receive_that_has_its_message_lets_no_other_one_skip_any(one: Any) -> None:
    await begin_waiting(one, take(1), take(2))
    await one.execute(PUT, 3)
    assert (await execute(one, TAKE_WAITING, take(1)))[0]["output"] == "1"
    answers = await execute(one, TAKE_WAITING, take(1), take(2), calls=2)
    assert [(a["n"], a["outcome"]) for a in sorted(answers)] == [(0, "recorded"), (1, "done")]
    assert (await state(one))[1] == [("1", True), ("2", True), ("3", False)]


@forms
async def test_w3_w4_a_later_poll_of_a_late_run_or_of_another_verb_takes_nothing(form: str, one: Any) -> None:
    await begin_waiting(one, take())
    await one.execute(PUT, 1)
    before = await everything(one)
    (answer,) = await execute(one, TAKE_WAITING, take(verb="recv_envelope"), form=form)
    assert (answer["outcome"], answer["recorded_verb"], answer["recorded_key"]) == ("recorded", "recv", "t")
    assert outcome(await execute(one, TAKE_WAITING, take(7, attempt=2), form=form)) == "lost"
    assert await everything(one) == before
    await one.execute(CLAIM_BY_HAND)
    assert outcome(await execute(one, TAKE_WAITING, take(), form=form)) == "lost"
    assert (await state(one))[1] == [("1", False)]


@forms
async def test_m5_a_later_poll_for_an_envelope_has_all_of_it(form: str, one: Any) -> None:
    await begin_waiting(one, take(verb="recv_envelope"))
    await one.execute(PUT, 1)
    (answer,) = await execute(one, TAKE_WAITING, take(verb="recv_envelope"), form=form)
    envelope = await one.fetchrow(
        "select $1::json->>'id' as id, $1::json->>'destination_id', $1::json->>'topic', $1::json->>'payload'",
        answer["output"],
    )
    assert tuple(envelope) == (str(answer["message_id"]), "w", "t", "1")
