"""One call of a statement: its rows, the future of its result, and what follows from its commit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from math import inf
from typing import Any

import asyncpg

from dbos_async._database.statement import Statement
from dbos_async._database.wakeups import LocalUpdate, Wakeups

Row = tuple[Any, ...]

Result = list[asyncpg.Record]
"""The records that answer one call."""


class Observer:
    """What follows from a call, whether or not its caller still waits. Every method does nothing by default.

    A caller may be cancelled while its call is at the server. What must follow from a commit belongs here and not behind the
    caller's ``await``.
    """

    __slots__ = ()

    def on_result(self, call: Call, result: Result) -> None:
        """The call is committed. A caller that still waits has its result and goes on before anything that is woken here."""

    def on_failure(self, error: BaseException | None) -> None:
        """The call has no result; ``None`` when its caller was cancelled. The server may still commit a call that it has."""

    def on_lost_result(self, call: Call) -> None:
        """The connection broke while the server had the call: it may be committed, and is repeated now."""

    def local_update(self, result: Result) -> LocalUpdate | None:
        """What the waiters of this process are told with the wake-up, so that they need not poll."""
        return None


class Call(asyncio.Future[Result]):
    """One call of a statement, and the future of its result.

    ``partition`` is the run's partition, or the workflow that the call is about: calls of one partition keep their order.
    ``size`` is the weight of the rows in bytes. Waiters of this process for the keys in ``wakes`` are woken after the commit.
    A call with ``retry_forever`` outlasts any outage of the database.
    """

    __slots__ = (
        "give_up_at",
        "observer",
        "partition",
        "retry_forever",
        "rows",
        "size",
        "statement",
        "wakes",
        "was_sent",
    )

    def __init__(
        self,
        statement: Statement,
        rows: Sequence[Row],
        partition: str | int,
        size: int = 0,
        wakes: Sequence[bytes] = (),
        observer: Observer | None = None,
        *,
        retry_forever: bool = False,
    ) -> None:
        asyncio.Future.__init__(self)  # a third cheaper than by super()
        self.statement: Statement = statement
        self.rows: Sequence[Row] = rows
        self.partition: str | int = partition
        self.size: int = size
        self.wakes: Sequence[bytes] = wakes
        self.observer: Observer | None = observer
        self.retry_forever: bool = retry_forever
        self.give_up_at: float = inf
        self.was_sent: bool = False
        """Whether the server may have committed it already, since a connection broke while the server had it."""

    def cancel(self, msg: Any | None = None) -> bool:
        """Give the call up. A call that the server has may be committed all the same, and its observer hears of that."""
        cancelled = super().cancel(msg)
        if cancelled and self.observer is not None:
            self.observer.on_failure(None)
        return cancelled

    def resolve(self, result: Result) -> None:
        """Give the caller the result, then the observer."""
        if not self.done():
            self.set_result(result)
        if self.observer is not None:
            self.observer.on_result(self, result)

    def fail(self, error: BaseException) -> None:
        """Give the caller and the observer the error, unless the call has ended."""
        if not self.done():
            self.set_exception(error)
            if self.observer is not None:
                self.exception()  # marks it as retrieved: the observer may be the only one that it concerns
                self.observer.on_failure(error)

    def lose_result(self) -> None:
        """Note that the server may have committed this call, and prepare to repeat it."""
        self.was_sent = True
        if self.observer is not None:
            self.observer.on_lost_result(self)

    @property
    def must_finish(self) -> bool:
        """Whether a call whose caller has left is executed all the same.

        That is so when it may be committed already and matters to more than its caller.
        """
        return self.cancelled() and self.was_sent and (self.observer is not None or bool(self.wakes))

    def wake_local_waiters(self, result: Result, wakeups: Wakeups) -> None:
        """Wake the waiters of this process, with an update if the observer has one."""
        update = None if self.observer is None else self.observer.local_update(result)
        for key in self.wakes:
            wakeups.wake(key, update)
