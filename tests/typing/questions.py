"""What a type checker sees of questions and their answers, as in `surface.py`."""

from __future__ import annotations

from typing import Any, assert_type
from uuid import UUID

from pydantic import BaseModel

from dbos_async import DBOS, Asked, DBOSClient, Question, Topic


class Paid(BaseModel):
    cents: int


PAID = Topic("payment", Paid)
QUOTE = Question("quote", str, Paid)
MAYBE_SOLD = Question[int | None, int | str]("sold", int | None, int | str)


async def asking(dbos: DBOS, client: DBOSClient) -> None:
    assert_type(QUOTE, Question[str, Paid])
    assert_type(MAYBE_SOLD, Question[int | None, int | str])
    assert_type(await DBOS.ask("w", QUOTE, "a widget"), Paid)
    assert_type(await dbos.ask("w", QUOTE, "a widget", timeout_seconds=None, idempotency_key="k"), Paid)
    assert_type(await client.ask("w", MAYBE_SOLD, None, timeout_seconds=5), int | str)
    assert_type(await DBOS.get_answer("id"), Any)
    assert_type(await DBOS.get_answer(UUID(int=1), QUOTE, 5), Paid)
    assert_type(await dbos.get_answer("id", MAYBE_SOLD, timeout_seconds=None), int | str)
    assert_type(await client.get_answer("id", QUOTE), Paid)
    await DBOS.send("w", "a widget", QUOTE)
    assert_type(await DBOS.recv(QUOTE), str | None)
    asked = await DBOS.recv_envelope(QUOTE)
    assert_type(asked, Asked[str, Paid] | None)
    assert_type(await dbos.recv_envelope(MAYBE_SOLD, None), Asked[int | None, int | str] | None)
    if asked is not None:
        assert_type(asked.payload, str)
        assert_type(await asked.answer(Paid(cents=1)), bool)
        assert_type(await asked.refuse("no stock"), bool)
        await asked.answer(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no Paid
        await asked.refuse(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a reason is a text
    await DBOS.ask("w", QUOTE, 5)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]  # no str
    await client.ask("w", PAID, Paid(cents=1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a topic wants no answer
    await DBOS.ask("w", "quote", "x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # what would be the answer?
    await DBOS.get_answer("id", PAID)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # a topic
