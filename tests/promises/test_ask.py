"""Questions and their answers: promise C2."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dbos_async import (
    DBOS,
    AskTimeoutError,
    DBOSClient,
    NotAnsweredError,
    RefusedError,
    SetWorkflowID,
    WorkflowNotFoundError,
)
from tests.support.asking import (
    END,
    QUOTE,
    Quote,
    customer,
    customer_with_a_step,
    gone,
    idle,
    replayed,
    shop,
    steps_of,
)
from tests.support.eventually import eventually

pytestmark = pytest.mark.usefixtures("dbos")


@pytest.mark.parametrize("asker", [customer, customer_with_a_step])
async def test_c2_a_question_of_a_workflow_is_answered(asker: Any, connection: Any) -> None:
    handle = await DBOS.start_workflow(shop)
    asking = await DBOS.start_workflow(asker, handle.workflow_id, "a widget")
    assert await asking.get_result() == Quote(item="a widget", cents=800)
    assert await handle.get_result() == [True]
    assert [verb for verb, _, _ in await steps_of(handle.workflow_id)] == ["recv_envelope", "answer"]
    (message,) = await DBOS.list_messages(handle.workflow_id)
    assert message.answered_at is not None
    assert message.sender_id == asking.workflow_id
    assert await replayed(connection, asking.workflow_id) == Quote(item="a widget", cents=800)
    assert await replayed(connection, handle.workflow_id) == [True]
    assert len(await DBOS.list_messages(handle.workflow_id)) == 1


async def test_c2_a_question_from_outside_and_of_a_client_is_answered(database_url: str) -> None:
    handle = await DBOS.start_workflow(shop, 2)
    async with DBOSClient(database_url) as client:
        mine, its = await asyncio.gather(
            DBOS.ask(handle.workflow_id, QUOTE, "a"), client.ask(handle.workflow_id, QUOTE, "bc", timeout_seconds=None)
        )
    assert (mine, its) == (Quote(item="a", cents=100), Quote(item="bc", cents=200))


@pytest.mark.parametrize("outside", [True, False])
async def test_c2_a_refusal_is_raised_at_the_asker(outside: bool, connection: Any) -> None:
    handle = await DBOS.start_workflow(shop)
    with SetWorkflowID("asker"), pytest.raises(RefusedError, match="'no stock'|no stock") as raised:
        await (DBOS.ask(handle.workflow_id, QUOTE, "nothing") if outside else customer(handle.workflow_id, "nothing"))
    (message,) = await DBOS.list_messages(handle.workflow_id)
    assert raised.value.args == ("no stock", handle.workflow_id, str(message.id))
    if not outside:
        with pytest.raises(RefusedError, match="no stock"):
            await replayed(connection, "asker")


@pytest.mark.parametrize("place", ["outside", "step", "workflow"])
async def test_c2_an_unknown_workflow_is_asked_nothing(place: str, connection: Any) -> None:
    asks = {
        "outside": lambda: DBOS.ask("nobody", QUOTE, "x"),
        "step": lambda: customer_with_a_step("nobody", "x"),
        "workflow": lambda: customer("nobody", "x"),
    }
    with pytest.raises(WorkflowNotFoundError, match="nobody"):
        await asks[place]()
    assert await connection.fetchval("select count(*) from dbos_async.messages") == 0


@pytest.mark.parametrize("place", ["outside", "step", "workflow"])
async def test_c2_a_workflow_that_has_ended_answers_no_more(place: str) -> None:
    handle = await DBOS.start_workflow(gone)
    await handle.get_result()
    asks = {
        "outside": lambda: DBOS.ask(handle.workflow_id, QUOTE, "x"),
        "step": lambda: customer_with_a_step(handle.workflow_id, "x"),
        "workflow": lambda: customer(handle.workflow_id, "x"),
    }
    with pytest.raises(NotAnsweredError, match=handle.workflow_id) as raised:
        await asks[place]()
    (message,) = await DBOS.list_messages(handle.workflow_id)
    assert raised.value.message_id == str(message.id)
    with pytest.raises(NotAnsweredError):
        await DBOS.get_answer(message.id)


@pytest.mark.parametrize("end", ["returns", "is cancelled", "is deleted"])
@pytest.mark.parametrize("place", ["outside", "workflow"])
async def test_c2_a_workflow_that_ends_while_it_is_asked_raises_at_the_asker(
    place: str, end: str, connection: Any
) -> None:
    handle = await DBOS.start_workflow(idle)
    asker = customer(handle.workflow_id, "x", None) if place == "workflow" else DBOS.ask(handle.workflow_id, QUOTE, "x")
    task = asyncio.create_task(asker)
    await eventually(lambda: connection.fetchval("select count(*) > 0 from dbos_async.messages"))
    if end == "returns":
        await DBOS.send(handle.workflow_id, "now", END)
    else:
        await DBOS.cancel_workflow(handle.workflow_id)
        if end == "is deleted":
            await DBOS.delete_workflow(handle.workflow_id)
    async with asyncio.timeout(10):
        with pytest.raises((NotAnsweredError, WorkflowNotFoundError), match=handle.workflow_id):
            await task


async def test_c2_an_answer_counts_though_the_workflow_has_ended_since() -> None:
    handle = await DBOS.start_workflow(shop)
    await DBOS.send(handle.workflow_id, "abc", QUOTE)
    await handle.get_result()
    (message,) = await DBOS.list_messages(handle.workflow_id)
    assert await DBOS.get_answer(message.id, QUOTE) == Quote(item="abc", cents=300)
    assert await DBOS.get_answer(str(message.id)) == {"item": "abc", "cents": 300}


@DBOS.workflow(name="asks for a late answer")
async def late(shop_id: str) -> list[Any]:
    try:
        await DBOS.ask(shop_id, QUOTE, "abcd", timeout_seconds=0.05)
    except AskTimeoutError as error:
        found = await DBOS.get_answer(error.message_id, QUOTE)
        return [error.workflow_id, error.timeout_seconds, found.cents]
    return []


async def test_c2_a_time_out_is_recorded_and_the_answer_comes_later(connection: Any) -> None:
    handle = await DBOS.start_workflow(shop, 1, 0.4)
    asking = await DBOS.start_workflow(late, handle.workflow_id)
    expected = [handle.workflow_id, 0.05, 400]
    assert await asking.get_result() == expected
    assert [verb for verb, _, _ in await steps_of(asking.workflow_id)] == ["ask", "get_answer"]
    assert await replayed(connection, asking.workflow_id) == expected


async def test_c2_a_time_out_outside_of_workflows(database_url: str) -> None:
    handle = await DBOS.start_workflow(shop, 2, 0.3)
    with pytest.raises(AskTimeoutError) as raised:
        await DBOS.ask(handle.workflow_id, QUOTE, "ab", timeout_seconds=0.02)
    assert isinstance(raised.value, TimeoutError)
    with pytest.raises(AskTimeoutError):
        await DBOS.ask(handle.workflow_id, QUOTE, "ab", timeout_seconds=0)
    with pytest.raises(AskTimeoutError):
        await DBOS.get_answer(raised.value.message_id, timeout_seconds=0.01)
    async with DBOSClient(database_url) as client:
        assert await client.get_answer(raised.value.message_id, QUOTE, None) == Quote(item="ab", cents=200)


@pytest.mark.parametrize("first", ["outside", "workflow"])
@pytest.mark.parametrize("second", ["outside", "workflow"])
async def test_c2_a_repetition_with_the_same_key_gets_the_same_answer(first: str, second: str) -> None:
    handle = await DBOS.start_workflow(shop)

    async def asked(place: str, item: str) -> Quote:
        if place == "workflow":
            return await customer(handle.workflow_id, item, 30, "k")
        return await DBOS.ask(handle.workflow_id, QUOTE, item, idempotency_key="k", timeout_seconds=30)

    both = await asyncio.gather(asked(first, "abc"), asked(second, "other"))
    assert both[0] == both[1]
    assert await handle.get_result() == [True]
    assert await asked(first, "again") == await asked(second, "later") == both[0]
    assert len(await DBOS.list_messages(handle.workflow_id)) == 1


async def test_c2_many_repetitions_at_once_get_one_answer() -> None:
    handle = await DBOS.start_workflow(shop, 5)
    asks = [
        customer(handle.workflow_id, "abc", 30, f"k{n % 5}") if n % 2 else
        DBOS.ask(handle.workflow_id, QUOTE, "abc", idempotency_key=f"k{n % 5}")
        for n in range(60)
    ]  # fmt: skip
    assert {each.cents for each in await asyncio.gather(*asks)} == {300}
    assert len(await DBOS.list_messages(handle.workflow_id)) == 5


async def test_c2_set_workflow_id_is_the_key_of_a_question_outside_workflows() -> None:
    handle = await DBOS.start_workflow(shop)
    for _ in range(2):
        with SetWorkflowID("webhook"):
            assert (await DBOS.ask(handle.workflow_id, QUOTE, "ab")).cents == 200
