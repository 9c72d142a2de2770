"""A flight: calls of one statement that are executed together, from the first attempt until none of them is left."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from math import isqrt
from typing import Final

from dbos_async._database.calls import Call, Result
from dbos_async._database.statement import Sql, Statement

FEW: Final = 32
"""So few calls are executed one by one."""


class Flight:
    """Calls of one statement that are under way together."""

    __slots__ = (
        "_landed",
        "at_server",
        "began",
        "calls",
        "conflicts",
        "failures",
        "losses",
        "reason",
        "sent_at",
        "sql",
        "statement",
        "untold",
    )

    def __init__(self, statement: Statement, calls: list[Call], began: float) -> None:
        self.statement = statement
        self.calls = calls
        """Those that have no result yet."""
        self.began = began
        """Since when they are under way, by the time of the loop."""
        self.sql: Sql = statement.sql_if_new or statement.sql
        """What is executed next."""
        self.failures = self.conflicts = 0
        self.losses = 0
        """How many attempts ended with a lost connection."""
        self.at_server: Sequence[Call] = ()
        """The calls whose statement was sent, and may be committed at any moment."""
        self.sent_at = 0.0
        self.reason = ""
        """Why the last attempt failed."""
        self.untold: list[tuple[Call, Result]] = []
        """Calls that have a result for which the waiters of this process are not woken yet."""
        self._landed: asyncio.Future[None] | None = None

    def land(self) -> None:
        """The flight is over. Its partition keeps it until the next one, so it forgets its calls."""
        self.calls = []
        self.at_server = ()
        if self._landed is not None and not self._landed.done():
            self._landed.set_result(None)

    def landed(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """A future that is done when the flight is over."""
        if self._landed is None:
            self._landed = loop.create_future()
        return self._landed


def pieces(calls: Sequence[Call]) -> Iterator[list[Call]]:
    """Parts of about equal size: single calls if there are few."""
    size = isqrt(len(calls)) if len(calls) > FEW else 1
    for start in range(0, len(calls), size):
        yield list(calls[start : start + size])
