"""What a type checker sees of messages and starts that come later, as `surface.py` has it for the others."""

from __future__ import annotations

from typing import Any, assert_type

import asyncpg

from dbos_async import DBOS, DBOSClient, SendMessage, SetStartDelay, Start
from tests.typing.surface import PAID, Paid, checkout, greet, not_decorated


async def later(client: DBOSClient, connection: asyncpg.Connection[Any]) -> None:
    with SetStartDelay(60) as delayed, SetStartDelay(None):
        assert_type(delayed, SetStartDelay)
    SetStartDelay("60")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no number
    await DBOS.send("w", Paid(cents=1), PAID, delay_seconds=60, start=Start(checkout, "widget", cents=10))
    await client.send("w", Paid(cents=1), PAID, start=Start("by its name", 1, item="x"), connection=connection)
    await DBOS.send("w", "paid", PAID, start=Start(greet))  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    Start(checkout)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]  # no item
    Start(checkout, 17)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # no str
    Start(not_decorated, "x")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # no workflow
    await DBOS.send("w", 1, start=checkout)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await DBOS.send("w", 1, delay_seconds="60")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    SendMessage("w", Paid(cents=1), PAID, delay_seconds=60)
