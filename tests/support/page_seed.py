"""A small application with every kind of trouble, for the tests of the page and for its screenshots.

Checkouts converse with their customers, an agent streams its words, some fail, one is parked, one is unclaimable, a message is
rejected, and some are as hostile as a name or payload can be.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from pydantic import BaseModel

from dbos_async import DBOS, InvalidMessageError, SetApplicationVersion, SetWorkflowID, Topic
from tests.support.eventually import eventually


class Payment(BaseModel):
    status: str
    cents: int


PAID = Topic("payment_status", Payment)

HOSTILE_ID = '<img src=x onerror="alert(1)">\u202egnp.exe\x1b[31m/../?#&"\''
HOSTILE_NAME = "<script>alert('name')</script>\u2066\x07"
HOSTILE_VALUE = {
    "</pre><script>alert(3)</script>": "\x1b]0;owned\x07 \u202eevil\u2069 {{ 7 * 7 }} {% raw %} <b onclick=alert(4)>",
    "long": "W" * 3000,
}
ANSWER_TEXT = (
    "A durable workflow is a function whose progress is recorded. When its process dies, another one goes on after the last "
    "recorded step, and nothing is done twice."
)
ANSWER = ANSWER_TEXT.split()


@DBOS.step(name="reserve")
async def reserve(item: str) -> int:
    await asyncio.sleep(0.05)
    return 41


@DBOS.step(name="open payment")
async def open_payment(item: str, cents: int) -> str:
    await asyncio.sleep(0.12)
    return f"p-{len(item)}4711"


@DBOS.step(name="ship")
async def ship(item: str) -> str:
    await asyncio.sleep(0.08)
    return "PARCEL-0815"


def charge_card(cents: int) -> None:
    raise ConnectionError(f"the payment provider has refused {cents} cents: 502 Bad Gateway")


@DBOS.step(name="charge")
async def charge(cents: int) -> str:
    try:
        charge_card(cents)
    except ConnectionError as error:
        raise RuntimeError("the card could not be charged") from error
    return "charged"


@DBOS.step(name="think")
async def think(question: str) -> int:
    async with DBOS.stream_writer("tokens") as out:
        for word in ANSWER:
            await out.write(f"{word} ")
    return len(ANSWER)


@DBOS.workflow(name="customer of the shop")
async def customer(order: str) -> str:
    payment = await DBOS.get_event(order, "payment_id", timeout_seconds=60)
    await DBOS.sleep(0.15)
    await DBOS.send(order, Payment(status="paid", cents=1990), PAID)
    return str(payment)


@DBOS.workflow(name="checkout")
async def checkout(item: str, cents: int) -> str:
    await DBOS.write_stream("progress", f"{item}: received")
    left = await reserve(item)
    await DBOS.set_event("payment_id", await open_payment(item, cents))
    await DBOS.write_stream("progress", f"reserved, {left} left on the shelf")
    payment = await DBOS.recv(PAID, timeout_seconds=3600)
    if payment is None or payment.status != "paid":
        return "given up"
    parcel = await ship(item)
    await DBOS.write_stream("progress", f"shipped as {parcel}")
    await DBOS.close_stream("progress")
    return parcel


@DBOS.workflow(name="subscription")
async def subscription(cents: int) -> str:
    await DBOS.sleep(0.02)
    return await charge(cents)


@DBOS.workflow(name="agent")
async def agent(question: str) -> str:
    await think(question)
    while (said := await DBOS.recv("said", timeout_seconds=None)) != "bye":
        await DBOS.write_stream("tokens", f"You said {said}. ")
    return "bye"


@DBOS.workflow(name="stock")
async def stock() -> int:
    total = 0
    while total < 10:
        try:
            total += await DBOS.recv(Topic("delivered", int), timeout_seconds=None) or 0
        except InvalidMessageError:
            continue
    return total


@DBOS.workflow(name="versioned")
async def versioned() -> str:
    return "never here"


@DBOS.workflow(name=HOSTILE_NAME)
async def hostile(value: Any) -> Any:
    await DBOS.set_event(HOSTILE_NAME, value)
    await DBOS.write_stream(HOSTILE_NAME, value)
    await DBOS.send(DBOS.workflow_id or "", value, HOSTILE_NAME)
    await DBOS.set_event("large", "8" * (8 * 2**20 - 2))
    raise ValueError(f"{HOSTILE_NAME} {value}")


class Mind:
    """What a parked workflow's code changes."""

    changed = False


@DBOS.workflow(name="invoice")
async def invoice() -> str:
    await DBOS.set_event("total" if not Mind.changed else "sum", 100)
    await DBOS.recv("approved", timeout_seconds=None)
    return "approved"


async def start(workflow_id: str, workflow: Any, *arguments: Any) -> Any:
    with SetWorkflowID(workflow_id):
        return await DBOS.start_workflow(workflow, *arguments)


async def seed(url: str, *, is_hostile: bool = True) -> None:
    """Fill a database, by an executor that is gone when this returns; what waits belongs to nobody then.

    ``is_hostile=False`` leaves out what is hostile.
    """
    async with DBOS(url, executor_id="shop-1", application_version="2.1"):
        Mind.changed = False
        for number in range(1, 7):
            order = await start(f"order-{number:04}", checkout, "a widget", 1990)
            if number < 5:
                await (await start(f"customer-{number:04}", customer, order.workflow_id)).get_result()
                await order.get_result()
        await asyncio.gather(
            *[_ended(await start(f"subscription-{n}", subscription, 990 + n)) for n in range(3)],
            *([_ended(await start(HOSTILE_ID, hostile, HOSTILE_VALUE))] if is_hostile else []),
        )
        await start("agent-ada", agent, "What is a durable workflow?")
        await start("stock-7", stock)
        await DBOS.send("stock-7", "seven boxes", "delivered")
        await eventually(lambda: _rejected("stock-7"), "the message is rejected")
        await DBOS.send("stock-7", {"boxes": 3}, "note")
        with SetApplicationVersion("1.0"):
            await start("from-version-1", versioned)
        await start("invoice-31", invoice)
        cancelled = await start("order-9000", checkout, "a gadget", 4990)
        await _waits("order-9000", "invoice-31", "order-0005", "order-0006", "agent-ada")
        await DBOS.cancel_workflow(cancelled.workflow_id)
    Mind.changed = True


async def _ended(handle: Any) -> None:
    with suppress(ValueError, RuntimeError):
        await handle.get_result()


async def _rejected(workflow_id: str) -> bool:
    return bool(await DBOS.list_messages(workflow_id, status="rejected"))


async def _waits(*ids: str) -> None:
    async def wait() -> bool:
        return all([(await DBOS.describe_workflow(one)).waits for one in ids])

    await eventually(wait, "they wait")


async def parked(workflow_id: str = "invoice-31") -> None:
    """Wait until the launched DBOS has parked what its changed code cannot replay."""

    async def is_parked() -> bool:
        return (await DBOS.describe_workflow(workflow_id)).status.status == "REPLAY_MISMATCH"

    await eventually(is_parked, "it is parked")
