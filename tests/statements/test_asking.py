"""Races about questions, forced by hand on two connections: promise C2."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from dbos_async._messaging import answer, ask
from tests.support.races import blocked, outcome
from tests.support.statements import QUESTION, Row, execute, step

OF_ANOTHER = """
    insert into dbos_async.workflows (id, name, input, start_id, owner, attempt)
        values ('v', 'f', '{}', gen_random_uuid(), 'me', 1);
    update dbos_async.workflows set status = 'PENDING', output = null, ended_at = null where id = 'other'
"""


def an_answer(number: int | None, value: str) -> Row:
    return (*step(number), "answer", str(QUESTION), QUESTION, f'"{value}"', None)


def a_question(workflow_id: str, number: int, message_id: UUID, key: str | None = "k") -> Row:
    who = workflow_id, 1, "", number
    return (*who, "other (quote)", message_id, "other", "quote", '"x"', b"12345678", None, key, 60.0, None, None)


async def asked(connection: Any, workflow_id: str, number: int) -> Any:
    row = workflow_id, 1, "", number, "other (quote)", "other", 60.0
    return (await execute(connection, ask.AWAIT_ANSWER, row))[0]


@pytest.mark.parametrize("number", [2, None])
@pytest.mark.parametrize("first_ends_by", ["commit", "rollback"])
async def test_c2_the_answer_that_is_committed_first_counts(
    number: int | None, first_ends_by: str, one: Any, two: Any, three: Any
) -> None:
    await one.execute("begin")
    first = await execute(one, answer.ANSWER, an_answer(1, "first"))
    assert first[0]["output"] == "true"
    task = asyncio.create_task(execute(two, answer.ANSWER, an_answer(number, "second")))
    await blocked(two, task, three)
    await one.execute(first_ends_by)
    second = (await task)[0]
    assert (outcome([second]), second["output"]) == ("done", "false" if first_ends_by == "commit" else "true")
    stored = await one.fetchval("select answer from dbos_async.messages where id = $1", QUESTION)
    assert stored == ('"first"' if first_ends_by == "commit" else '"second"')


async def test_c2_of_two_answers_in_one_batch_the_first_counts(one: Any) -> None:
    found = await execute(one, answer.ANSWER, an_answer(1, "first"), an_answer(2, "second"), calls=2)
    assert {row["n"]: row["output"] for row in found} == {0: "true", 1: "false"}
    assert await one.fetchval("select answer from dbos_async.messages where id = $1", QUESTION) == '"first"'


async def test_c2_a_step_that_repeats_its_call_hears_that_its_answer_is_there(one: Any) -> None:
    told = [(await execute(one, answer.ANSWER, an_answer(None, value)))[0]["output"] for value in ("a", "a", "b")]
    assert told == ["true", '"same"', "false"]


@pytest.mark.parametrize("first_ends_by", ["commit", "rollback"])
async def test_c2_two_askers_with_one_key_wait_for_one_message(
    first_ends_by: str, one: Any, two: Any, three: Any
) -> None:
    """The second one cannot see the first message when it begins, so only later polls find it."""
    await three.execute(OF_ANOTHER)
    first, second = uuid4(), uuid4()
    await one.execute("begin")
    assert outcome(await execute(one, ask.ASK, a_question("w", 1, first))) == "wait"
    task = asyncio.create_task(execute(two, ask.ASK, a_question("v", 1, second)))
    await blocked(two, task, three)
    await one.execute(first_ends_by)
    assert outcome(await task) == "wait"
    stored = [
        row["id"]
        for row in await one.fetch(
            "select id from dbos_async.messages where topic = 'quote' and destination_id = 'other'"
        )
    ]
    assert stored == [first if first_ends_by == "commit" else second]
    found = await asked(two, "v", 1)
    assert (found["outcome"], found["message_id"], found["asked_workflow_id"]) == ("wait", stored[0], "other")
    await one.execute("update dbos_async.messages set answer = '7', answered_at = now() where id = $1", stored[0])
    found = await asked(two, "v", 1)
    assert (found["outcome"], found["output"]) == ("done", "7")
    assert (await asked(two, "v", 1))["outcome"] == "recorded"


async def test_c2_a_question_of_a_run_that_asked_before_its_end_is_found_by_the_next_run(one: Any) -> None:
    await one.execute(OF_ANOTHER)
    first, second = uuid4(), uuid4()
    await execute(one, ask.ASK, a_question("w", 1, first, None))
    with pytest.raises(asyncpg.UniqueViolationError):
        await execute(one, ask.ASK, a_question("w", 1, second, None), form="new, alone")
    assert outcome(await execute(one, ask.ASK, a_question("w", 1, second, None))) == "again"
    found = await asked(one, "w", 1)
    assert (found["outcome"], found["message_id"]) == ("wait", first)
    output = await one.fetchval("select output from dbos_async.steps where workflow_id = 'w'")
    assert json.loads(output) == {"message_id": str(first), "idempotency_key": None}
    assert await one.fetchval("select count(*) from dbos_async.messages where destination_id = 'other'") == 1


async def test_c2_an_answer_that_is_committed_with_the_end_counts(one: Any) -> None:
    await one.execute(OF_ANOTHER)
    first = uuid4()
    await execute(one, ask.ASK, a_question("w", 1, first, None))
    await one.execute("update dbos_async.messages set answer = '7', answered_at = now() where id = $1", first)
    await one.execute("update dbos_async.workflows set status = 'SUCCESS', ended_at = now() where id = 'other'")
    assert (await asked(one, "w", 1))["output"] == "7"
