"""A send whose receiver waits for the first of several things in the same process (C1, M1, M4, W3)."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest

from dbos_async._messaging import first
from dbos_async._messaging import send as sending
from tests.support.races import CLAIM_BY_HAND
from tests.support.statements import Row, execute, step

KEY = '["topic stop","topic said"]'
WAITS = '[{"kind":"topic","key":"stop"},{"kind":"topic","key":"said"}]'
RECEIVERS: dict[str, Row] = {
    "stop": (1, "", 1, KEY, 0, '["stop"]'),
    "said": (1, "", 1, KEY, 1, '["stop","said"]'),
}
NO_RECEIVER: Row = (None,) * 6


async def begin_to_wait(connection: Any, seconds: float | None = 60.0) -> Any:
    (answer,) = await execute(connection, first.FIRST, (*step(1), KEY, WAITS, seconds))
    return answer


async def poll(connection: Any) -> Any:
    (answer,) = await execute(connection, first.FIRST_WAITING, (*step(1), KEY, WAITS, 60.0))
    return answer


def message(topic: str, tag: str, receiver: Row | None = None) -> Row:
    columns = RECEIVERS[topic] if receiver is None else receiver
    return (
        None, None, None, None, "send", "", uuid4(), "w", topic, f'"{tag}"', None, b"d", None, *columns, None
    )  # fmt: skip


async def send(connection: Any, row: Row) -> Any:
    (answer,) = await execute(connection, sending.SEND_TO_FIRST, row)
    assert (answer["outcome"], answer["error"]) == ("done", None)
    return answer


async def waiting(connection: Any) -> list[str]:
    rows = await connection.fetch(
        "select payload::text as payload from dbos_async.messages where destination_id = 'w' and topic in ('stop', 'said') "
        "and received_at is null order by seq"
    )
    return [str(row["payload"]) for row in rows]


@pytest.mark.parametrize(("topic", "index"), [("stop", 0), ("said", 1)])
async def test_c1_a_wait_is_handed_the_winner_as_a_poll_would_have_found_it(one: Any, topic: str, index: int) -> None:
    assert (await begin_to_wait(one))["outcome"] == "wait"
    answer = await send(one, message(topic, "a"))
    assert answer["delivered"]
    won = json.loads(answer["delivered_output"])
    assert (won["index"], won["value"]["topic"], won["value"]["payload"]) == (index, topic, "a")
    polled = await poll(one)
    assert (polled["outcome"], polled["output"]) == ("recorded", answer["delivered_output"])
    (stored,) = await one.fetch("select id, sent_at from dbos_async.messages where topic = $1", topic)
    assert won["value"]["id"] == str(stored["id"]) == str(polled["message_id"])
    assert datetime.fromisoformat(won["value"]["sent_at"]) == stored["sent_at"]
    # The next one goes to the queue, since the wait has what it wanted.
    assert not (await send(one, message("stop", "b")))["delivered"]
    assert await waiting(one) == ['"b"']


async def test_c1_a_wait_that_has_not_yet_looked_is_handed_its_message(one: Any) -> None:
    answer = await send(one, message("said", "a"))
    assert answer["delivered"]
    (polled,) = await execute(one, first.FIRST_WAITING, (*step(1), KEY, WAITS, 60.0))
    assert (polled["outcome"], polled["output"]) == ("recorded", answer["delivered_output"])


@pytest.mark.parametrize("earlier", ["stop", "said"])
async def test_c1_no_message_overtakes_one_of_its_topic_or_of_one_before(one: Any, earlier: str) -> None:
    await begin_to_wait(one)
    assert not (await send(one, message(earlier, "earlier", NO_RECEIVER)))["delivered"]
    assert not (await send(one, message("said", "later")))["delivered"]
    polled = await poll(one)
    assert json.loads(polled["output"])["value"]["payload"] == "earlier"
    assert await waiting(one) == ['"later"']


async def test_c1_a_message_of_a_topic_behind_does_not_keep_the_winner_away(one: Any) -> None:
    await begin_to_wait(one)
    assert not (await send(one, message("said", "earlier", NO_RECEIVER)))["delivered"]
    assert (await send(one, message("stop", "a")))["delivered"]
    assert await waiting(one) == ['"earlier"']


async def test_c1_of_one_batch_only_the_first_is_handed_over(one: Any) -> None:
    await begin_to_wait(one)
    answers = await execute(
        one, sending.SEND_TO_FIRST, message("said", "a"), message("stop", "b", NO_RECEIVER), calls=2
    )
    assert [answer["delivered"] for answer in sorted(answers, key=lambda answer: int(answer["n"]))] == [True, False]
    assert await waiting(one) == ['"b"']


@pytest.mark.parametrize("case", ["taken over", "timed out", "another step"])
async def test_w3_m6_who_does_not_wait_any_more_is_handed_nothing(one: Any, case: str) -> None:
    if case == "another step":
        await one.execute(
            "insert into dbos_async.steps (workflow_id, branch, number, verb, key) values ('w', '', 1, 'wait_first', 'other')"
        )
    else:
        answer = await begin_to_wait(one, 0.0 if case == "timed out" else 60.0)
        assert answer["outcome"] == ("done" if case == "timed out" else "wait")
    if case == "taken over":
        await one.execute(CLAIM_BY_HAND)
    assert not (await send(one, message("said", "a")))["delivered"]
    assert await waiting(one) == ['"a"']


async def test_c1_waits_side_by_side_in_one_batch_take_one_message_once(one: Any) -> None:
    await send(one, message("said", "a", NO_RECEIVER))
    rows = [(*step(number), KEY, WAITS, 60.0) for number in (1, 2)]
    answers = await execute(one, first.FIRST, *rows, calls=2)
    assert sorted(answer["outcome"] for answer in answers) == ["again", "done"]
    assert await waiting(one) == []
    again = next(int(answer["n"]) for answer in answers if answer["outcome"] == "again")
    (polled,) = await execute(one, first.FIRST_WAITING, rows[again])
    assert polled["outcome"] == "wait"
