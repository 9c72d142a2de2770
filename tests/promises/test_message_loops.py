"""Receiving in a loop: promise C3 of `messages`."""

from __future__ import annotations

from typing import Any

import pytest

from dbos_async import (
    DBOS,
    InvalidArgumentError,
    InvalidMessageError,
    SendMessage,
    SetWorkflowID,
    Topic,
    WrongPlaceError,
)

pytestmark = pytest.mark.usefixtures("dbos")

OFFER = Topic("offer", int)


async def send(workflow_id: str, *offers: Any) -> None:
    await DBOS.send_bulk([SendMessage(workflow_id, offer, "offer") for offer in offers])


@DBOS.workflow(name="takes offers")
async def takes(most: int, timeout_seconds: float | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"offers": [], "senders": []}
    async for offer in DBOS.messages(OFFER, timeout_seconds=timeout_seconds):
        found["offers"].append(offer.payload)
        found["senders"].append(offer.sender_id)
        if len(found["offers"]) == most:
            break
    found["left"] = await DBOS.recv(OFFER, 0)
    return found


async def test_c3_each_message_comes_once_in_order_and_leaving_the_loop_takes_no_more() -> None:
    handle = await DBOS.start_workflow(takes, 3)
    await send(handle.workflow_id, 1, 2, 3, 4, 5)
    assert await handle.get_result() == {"offers": [1, 2, 3], "senders": [None] * 3, "left": 4}
    steps = await DBOS.list_workflow_steps(handle.workflow_id)
    assert [step.verb for step in steps] == ["recv_envelope"] * 3 + ["recv"]
    (left,) = await DBOS.list_messages(handle.workflow_id, status="waiting")
    assert left.payload == 5


@pytest.mark.parametrize("seconds", [0, 0.05])
async def test_c3_the_loop_ends_when_no_message_came_for_so_long(seconds: float) -> None:
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(takes, 9, 0.3)
    await send("w", 1, 2)
    assert (await handle.get_result())["offers"] == [1, 2]
    assert (await takes(9, seconds))["offers"] == []


async def test_c3_a_message_that_does_not_fit_raises_in_its_turn_and_a_new_loop_goes_on() -> None:
    @DBOS.workflow(name="takes what fits")
    async def fits() -> list[Any]:
        found: list[Any] = []
        while len(found) < 4:
            try:
                async for offer in DBOS.messages(OFFER):
                    found.append(offer.payload)
                    if len(found) == 4:
                        break
            except InvalidMessageError as error:
                found.append(error.message_id)
        return found

    handle = await DBOS.start_workflow(fits)
    await send(handle.workflow_id, 1, "two", 3, 4)
    found = await handle.get_result()
    (rejected,) = await DBOS.list_messages(handle.workflow_id, status="rejected")
    assert found == [1, str(rejected.id), 3, 4]


async def test_d6_messages_are_received_in_workflows_only() -> None:
    with pytest.raises(WrongPlaceError, match="messages works in workflows only and was called outside"):
        await anext(DBOS.messages(OFFER))

    @DBOS.step(name="receives in a step")
    async def step() -> str:
        try:
            await anext(DBOS.messages(OFFER))
        except WrongPlaceError as error:
            return str(error)
        return ""

    @DBOS.workflow(name="receives in a step")
    async def workflow() -> str:
        return await step()

    assert "inside a step" in await workflow()


async def test_d5_bad_arguments_of_messages_raise_at_once() -> None:
    with pytest.raises(InvalidArgumentError, match="topic"):
        DBOS.messages(5)  # type: ignore[call-overload]  # the mistake under test
    with pytest.raises(InvalidArgumentError, match="timeout_seconds"):
        DBOS.messages(OFFER, timeout_seconds=-1)
