"""The three examples of the tutorial on communicating with workflows, with nothing changed but ``async`` and ``await``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dbos_async import DBOS, SetWorkflowID

pytestmark = pytest.mark.usefixtures("dbos")

PAYMENT_STATUS = "payment_status"
PAYMENT_ID = "payment_id"
example_key = "example_key"


class HTTPException(Exception):  # noqa: N818 - as the web framework has it
    def __init__(self, status_code: int, detail: str) -> None:
        super().__init__(status_code, detail)


class Response(str):
    __slots__ = ()


class App:
    def post(self, path: str) -> Callable[[Any], Any]:
        return lambda function: function


app = App()


@DBOS.workflow()
async def checkout_workflow() -> str:
    # Validate the order, then redirect customers to a payments service.
    payment_id = "the payment"
    await DBOS.set_event(PAYMENT_ID, payment_id)
    payment_status = await DBOS.recv(PAYMENT_STATUS)
    if payment_status is not None and payment_status == "paid":
        return "handled a successful payment"
    return "handled a failed payment or timeout"


@app.post("/payment_webhook/{workflow_id}/{payment_status}")
async def payment_endpoint(payment_id: str, payment_status: str) -> None:
    # Send the payment status to the checkout workflow.
    await DBOS.send(payment_id, payment_status, PAYMENT_STATUS)


@app.post("/checkout/{idempotency_key}")
async def checkout_endpoint(idempotency_key: str) -> Response:
    # Idempotently start the checkout workflow in the background.
    with SetWorkflowID(idempotency_key):
        handle = await DBOS.start_workflow(checkout_workflow)
    # Wait for the checkout workflow to send a payment ID, then return it.
    payment_id = await DBOS.get_event(handle.workflow_id, PAYMENT_ID)
    if payment_id is None:
        raise HTTPException(status_code=404, detail="Checkout failed to start")
    return Response(payment_id)


@DBOS.workflow()
async def producer_workflow() -> None:
    await DBOS.write_stream(example_key, {"step": 1, "data": "value1"})
    await DBOS.write_stream(example_key, {"step": 2, "data": "value2"})
    await DBOS.close_stream(example_key)  # Signal completion


@pytest.mark.parametrize(
    ("status", "outcome"), [("paid", "handled a successful payment"), ("lost", "handled a failed payment or timeout")]
)
async def test_the_checkout_of_the_tutorial(status: str, outcome: str) -> None:
    assert await checkout_endpoint("order-17") == "the payment"
    assert await checkout_endpoint("order-17") == "the payment"
    await payment_endpoint("order-17", status)
    assert await (await DBOS.retrieve_workflow("order-17")).get_result() == outcome


async def test_the_producer_of_the_tutorial(capsys: pytest.CaptureFixture[str]) -> None:
    workflow_id = (await DBOS.start_workflow(producer_workflow)).workflow_id
    async for value in DBOS.read_stream(workflow_id, example_key):
        print(f"Received: {value}")
    assert capsys.readouterr().out == (
        "Received: {'step': 1, 'data': 'value1'}\nReceived: {'step': 2, 'data': 'value2'}\n"
    )
