"""A shop and its customers: workflows that answer questions, and that ask them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from dbos_async import DBOS, InvalidAnswerError, Message, Question, Topic
from dbos_async._database.change_keys import UNOWNED_KEY
from tests.support.eventually import eventually


class Quote(BaseModel):
    item: str
    cents: int


QUOTE = Question("quote", str, Quote)
NUMBER = Question("quote", str, int)
ANY = Question[Any, Any]("quote", Any, Any)
END = Topic("the end", str)


@DBOS.workflow()
async def shop(answers: int = 1, pause: float = 0) -> list[bool]:
    told: list[bool] = []
    for _ in range(answers):
        asked = await DBOS.recv_envelope(QUOTE, timeout_seconds=None)
        assert asked is not None
        if pause:
            await DBOS.sleep(pause)
        if asked.payload == "nothing":
            told.append(await asked.refuse("no stock"))
        else:
            told.append(await asked.answer(Quote(item=asked.payload, cents=100 * len(asked.payload))))
    return told


@DBOS.workflow(name="is asked nothing")
async def idle() -> str | None:
    return await DBOS.recv(END, None)


@DBOS.workflow()
async def gone() -> None: ...


@DBOS.workflow()
async def customer(shop_id: str, item: str, timeout_seconds: float | None = 60, key: str | None = None) -> Quote:
    return await DBOS.ask(shop_id, QUOTE, item, timeout_seconds=timeout_seconds, idempotency_key=key)


@DBOS.workflow()
async def anything(shop_id: str, item: str, timeout_seconds: float | None = 60) -> Any:
    return await DBOS.ask(shop_id, ANY, item, timeout_seconds=timeout_seconds)


@DBOS.workflow()
async def number(shop_id: str) -> str:
    try:
        await DBOS.ask(shop_id, NUMBER, "x")
    except InvalidAnswerError as error:
        await DBOS.sleep(0.01)
        return f"{type(error).__name__}: {error.message_id}"
    return "none"


@DBOS.step()
async def ask_in_a_step(shop_id: str, item: str) -> Quote:
    return await DBOS.ask(shop_id, QUOTE, item)


@DBOS.workflow()
async def customer_with_a_step(shop_id: str, item: str) -> Quote:
    return await ask_in_a_step(shop_id, item)


async def messages_of(workflow_id: str, status: str | None = None) -> list[Message]:
    """The messages of a workflow, once there are some."""
    await eventually(lambda: DBOS.list_messages(workflow_id, status=status))
    return await DBOS.list_messages(workflow_id, status=status)


async def steps_of(workflow_id: str) -> list[tuple[str, Any, Any]]:
    return [(step.verb, step.output, step.error) for step in await DBOS.list_workflow_steps(workflow_id)]


AGAIN = """
    update dbos_async.workflows set status = 'PENDING', owner = null, output = null, error = null, ended_at = null where id = $1
"""


async def replayed(connection: Any, workflow_id: str) -> Any:
    """What a workflow that has ended returns when it is replayed."""
    await connection.execute(AGAIN, workflow_id)
    await connection.execute("select dbos_async.announce($1)", UNOWNED_KEY)
    return await (await DBOS.retrieve_workflow(workflow_id)).get_result(timeout_seconds=60)


@DBOS.workflow()
async def regular(shops: list[str], count: int) -> list[int]:
    """Asks shop after shop, so many questions."""
    return [(await DBOS.ask(shops[n % len(shops)], QUOTE, "x" * n, timeout_seconds=None)).cents for n in range(count)]
