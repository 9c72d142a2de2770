"""Answers to questions, and their corners: promise C2."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from dbos_async import (
    DBOS,
    Asked,
    AskTimeoutError,
    InvalidAnswerError,
    InvalidArgumentError,
    InvalidMessageError,
    InvalidValueError,
    MessageNotFoundError,
    NotAnsweredError,
    Question,
    RefusedError,
    SetWorkflowID,
    WrongPlaceError,
)
from dbos_async._executor import launched
from tests.support.asking import (
    ANY,
    END,
    NUMBER,
    QUOTE,
    Quote,
    anything,
    customer,
    idle,
    messages_of,
    number,
    replayed,
    shop,
    steps_of,
)
from tests.support.eventually import eventually

pytestmark = pytest.mark.usefixtures("dbos")


@DBOS.step()
async def answer_in_a_step(asked: Asked[str, Quote], cents: int) -> bool:
    return await asked.answer(Quote(item="in a step", cents=cents))


@DBOS.step()
async def refuse_in_a_step(asked: Asked[str, Quote]) -> bool:
    return await asked.refuse("too late")


@DBOS.workflow()
async def answers_often() -> list[Any]:
    asked = await DBOS.recv_envelope(QUOTE, None)
    assert asked is not None
    told: list[Any] = [await answer_in_a_step(asked, 1), await answer_in_a_step(asked, 1)]
    told += [await asked.answer(Quote(item="x", cents=2)), await asked.refuse("no"), await refuse_in_a_step(asked)]
    return told


async def test_c2_the_first_answer_counts_wherever_it_is_given(connection: Any) -> None:
    handle = await DBOS.start_workflow(answers_often)
    assert await DBOS.ask(handle.workflow_id, QUOTE, "x") == Quote(item="in a step", cents=1)
    expected = [True, False, False, False, False]
    assert await handle.get_result() == expected
    assert await replayed(connection, handle.workflow_id) == expected


@DBOS.workflow()
async def answers_side_by_side() -> list[bool]:
    asked = await DBOS.recv_envelope(QUOTE, None)
    assert asked is not None
    return await asyncio.gather(
        *(asked.answer(Quote(item="x", cents=n)) for n in range(10)),
        *(answer_in_a_step(asked, n) for n in range(10)),
        *(asked.refuse(f"reason {n}") for n in range(10)),
    )


async def test_c2_one_of_many_answers_at_once_counts() -> None:
    handle = await DBOS.start_workflow(answers_side_by_side)
    await DBOS.send(handle.workflow_id, "x", QUOTE)
    told = await handle.get_result()
    assert sum(told) == 1
    (message,) = await DBOS.list_messages(handle.workflow_id)
    place = told.index(True)
    try:
        assert (await DBOS.get_answer(message.id, QUOTE)).cents == place % 10
    except RefusedError as refused:
        assert refused.reason == f"reason {place - 20}"


@DBOS.workflow()
async def answers_badly() -> list[str]:
    problems: list[str] = []
    asked: Any = await DBOS.recv_envelope(QUOTE, None)
    for value in (5, {"item": "x"}, None, object(), Quote(item="x" * 2_000_000, cents=1)):
        try:
            await asked.answer(value)
        except InvalidValueError as error:
            problems.append(str(error)[:30])
    for reason in (5, None, "\ud800"):
        try:
            await asked.refuse(reason)
        except (InvalidArgumentError, InvalidValueError) as error:
            problems.append(type(error).__name__)
    await asked.answer(Quote(item="good", cents=1))
    return problems


async def test_c2_d2_a_misfit_raises_at_the_one_who_answers_and_stores_nothing(connection: Any) -> None:
    launched.database().max_payload_bytes = 1_000_000
    handle = await DBOS.start_workflow(answers_badly)
    assert (await DBOS.ask(handle.workflow_id, QUOTE, "x")).item == "good"
    problems = await handle.get_result()
    assert problems == ["The answer to question 'quote'"] * 5 + ["InvalidArgumentError"] * 2 + ["InvalidValueError"]
    assert await replayed(connection, handle.workflow_id) == problems


async def test_c2_d2_an_answer_that_does_not_fit_raises_at_the_asker_and_stays(connection: Any) -> None:
    handle = await DBOS.start_workflow(shop)
    asking = await DBOS.start_workflow(number, handle.workflow_id)
    (message,) = await messages_of(handle.workflow_id)
    assert await asking.get_result() == f"InvalidAnswerError: {message.id}"
    assert await replayed(connection, asking.workflow_id) == f"InvalidAnswerError: {message.id}"
    assert (await DBOS.list_messages(handle.workflow_id))[0].rejected is None
    with pytest.raises(InvalidAnswerError, match=str(message.id)):
        await DBOS.get_answer(message.id, NUMBER)
    assert await DBOS.get_answer(message.id, QUOTE) == Quote(item="x", cents=100)


async def test_c2_d2_a_request_that_does_not_fit_raises_and_asks_nothing(connection: Any) -> None:
    handle = await DBOS.start_workflow(idle)
    request: Any = 5
    with pytest.raises(InvalidMessageError):
        await DBOS.ask(handle.workflow_id, QUOTE, request)
    question: Any = "quote"
    with pytest.raises(InvalidArgumentError, match="question"):
        await DBOS.ask(handle.workflow_id, question, "x")
    assert await connection.fetchval("select count(*) from dbos_async.messages") == 0


@DBOS.workflow()
async def asks_too_much(shop_id: str) -> str:
    try:
        await DBOS.ask(shop_id, QUOTE, "x" * 2_000_000)
    except InvalidMessageError as error:
        await DBOS.sleep(0.01)
        return str(error)[:20]
    return "stored"


async def test_c2_d2_a_request_that_is_too_large_is_a_recorded_error(connection: Any) -> None:
    handle = await DBOS.start_workflow(idle)
    launched.database().max_payload_bytes = 1_000_000
    asking = await DBOS.start_workflow(asks_too_much, handle.workflow_id)
    assert await asking.get_result() == "The message to '" + handle.workflow_id[:4]
    assert [error is None for _, _, error in await steps_of(asking.workflow_id)] == [False, True]
    assert await replayed(connection, asking.workflow_id) == "The message to '" + handle.workflow_id[:4]
    assert await connection.fetchval("select count(*) from dbos_async.messages") == 0


KEPT: list[Any] = []


@DBOS.workflow()
async def keeps_the_question() -> None:
    KEPT.append(await DBOS.recv_envelope(QUOTE, None))
    await DBOS.recv(END, None)


@DBOS.workflow()
async def answers_for_another() -> str:
    try:
        await KEPT[0].answer(Quote(item="x", cents=1))
    except WrongPlaceError as error:
        return str(error)
    return "answered"


async def test_c2_d6_only_the_workflow_that_was_asked_answers() -> None:
    KEPT.clear()
    handle = await DBOS.start_workflow(keeps_the_question)
    await DBOS.send(handle.workflow_id, "x", QUOTE)
    await eventually(lambda: asyncio.sleep(0, KEPT))
    for verb in (KEPT[0].answer(Quote(item="x", cents=1)), KEPT[0].refuse("no")):
        with pytest.raises(WrongPlaceError, match="works in workflows and steps"):
            await verb
    assert "works in the workflow that was asked" in await answers_for_another()
    assert (await DBOS.list_messages(handle.workflow_id))[0].answered_at is None
    await DBOS.send(handle.workflow_id, "now", END)


async def test_c2_recv_returns_the_payload_of_a_question() -> None:
    @DBOS.workflow(name="receives a payload")
    async def receives() -> str | None:
        return await DBOS.recv(QUOTE, None)

    handle = await DBOS.start_workflow(receives)
    with pytest.raises(NotAnsweredError):
        await DBOS.ask(handle.workflow_id, QUOTE, "abc")
    assert await handle.get_result() == "abc"


@DBOS.workflow()
async def gets_answer_of(message_id: str) -> Any:
    return await DBOS.get_answer(message_id, timeout_seconds=0.05)


async def test_c2_there_is_no_answer_to_a_message_that_is_not_there(connection: Any) -> None:
    nothing = uuid4()
    with pytest.raises(MessageNotFoundError, match=str(nothing)):
        await DBOS.get_answer(nothing)
    with SetWorkflowID("w"), pytest.raises(MessageNotFoundError, match=str(nothing)):
        await gets_answer_of(str(nothing))
    with pytest.raises(MessageNotFoundError):
        await replayed(connection, "w")
    with pytest.raises(InvalidArgumentError, match="UUID"):
        await DBOS.get_answer("no id")
    handle = await DBOS.start_workflow(idle)
    await DBOS.send(handle.workflow_id, "not a question")
    (message,) = await DBOS.list_messages(handle.workflow_id)
    with SetWorkflowID("w2"), pytest.raises(AskTimeoutError, match=str(message.id)):
        await gets_answer_of(str(message.id))
    with pytest.raises(AskTimeoutError, match=str(message.id)):
        await replayed(connection, "w2")


@DBOS.workflow()
async def repaired() -> str:
    try:
        await DBOS.recv_envelope(Question("quote", int, int))
    except InvalidMessageError:
        asked = await DBOS.recv_envelope(ANY, None)
        assert asked is not None
        await asked.answer("as text")
    return "done"


@pytest.mark.parametrize("outside", [True, False])
async def test_c2_the_asker_gets_the_answer_to_a_question_that_was_delivered_again(outside: bool) -> None:
    handle = await DBOS.start_workflow(repaired)
    asker = DBOS.ask(handle.workflow_id, ANY, "seven") if outside else anything(handle.workflow_id, "seven")
    task = asyncio.create_task(asker)
    (rejected,) = await messages_of(handle.workflow_id, "rejected")
    await DBOS.redeliver(rejected.id)
    async with asyncio.timeout(5):
        assert await task == "as text"
    first, copy = await DBOS.list_messages(handle.workflow_id)
    assert (first.id, first.answered_at is None, copy.answered_at) == (rejected.id, False, None)
    assert await DBOS.get_answer(copy.id) == "as text"


async def test_c2_a_null_is_an_answer() -> None:
    nothing = Question[Any, Any]("nothing", Any, None)

    @DBOS.workflow(name="answers nothing")
    async def answers_nothing() -> Any:
        asked = await DBOS.recv_envelope(nothing, None)
        assert asked is not None
        return [await asked.answer(None), await asked.answer(None)]

    handle = await DBOS.start_workflow(answers_nothing)
    assert await DBOS.ask(handle.workflow_id, nothing, None) is None
    assert await handle.get_result() == [True, False]


async def test_c2_a_workflow_may_ask_itself(connection: Any) -> None:
    @DBOS.workflow(name="asks itself")
    async def asks_itself() -> list[Any]:
        async def answers() -> bool:
            asked = await DBOS.recv_envelope(QUOTE, None)
            assert asked is not None
            return await asked.answer(Quote(item="mine", cents=1))

        found, told = await asyncio.gather(DBOS.ask(str(DBOS.workflow_id), QUOTE, "x"), answers())
        return [found.cents, told]

    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(asks_itself)
    assert await handle.get_result() == [1, True]
    assert await replayed(connection, "w") == [1, True]


@DBOS.workflow()
async def answers_after_a_stop() -> list[Any]:
    asked = await DBOS.recv_envelope(QUOTE, None)
    assert asked is not None
    end = await DBOS.recv(END, None)
    return [await asked.answer(Quote(item=str(end), cents=1)), asked.destination_id, str(asked.id)]


async def test_c2_a_fork_answers_its_own_copy_of_a_question() -> None:
    with SetWorkflowID("original"):
        original = await DBOS.start_workflow(answers_after_a_stop)
    task = asyncio.create_task(DBOS.ask("original", QUOTE, "x"))
    (question,) = await messages_of("original", "received")
    for of, fork_id in (("original", "fork"), ("fork", "fork of the fork")):
        with SetWorkflowID(fork_id):
            fork = await DBOS.fork_workflow(of, 2)
        await DBOS.send(fork_id, fork_id, END)
        assert await fork.get_result() == [True, "original", str(question.id)]
        copy, *_ = await DBOS.list_messages(fork_id)
        # The fork of the fork has the fork's message, too, and receives it first.
        assert await DBOS.get_answer(copy.id, QUOTE) == Quote(item="fork", cents=1)
    assert (await DBOS.list_messages("original"))[0].answered_at is None
    await DBOS.send("original", "at last", END)
    assert await task == Quote(item="at last", cents=1)
    assert await original.get_result() == [True, "original", str(question.id)]


async def test_c2_a_fork_of_one_who_waits_waits_for_the_same_answer() -> None:
    with SetWorkflowID("shop"):
        await DBOS.start_workflow(shop, 1, 0.5)
    with SetWorkflowID("asker"):
        asking = await DBOS.start_workflow(customer, "shop", "abc")
    await messages_of("shop")
    fork = await DBOS.fork_workflow("asker", 2)
    assert await fork.get_result() == {"item": "abc", "cents": 300}
    assert (await asking.get_result()).cents == 300
    assert len(await DBOS.list_messages("shop")) == 1


def test_c2_an_asked_is_an_envelope_that_can_be_stored() -> None:
    kind: Any = Asked[str, int]
    asked = kind(
        id=uuid4(), destination_id="w", topic="t", payload="x", sender_id=None, sent_at=datetime.now(UTC), headers={}
    )
    assert kind.model_validate_json(asked.model_dump_json()) == asked
    assert isinstance(asked.id, UUID)
