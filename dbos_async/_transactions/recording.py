"""The step of a transaction: it is recorded inside of the transaction, and released like any step once that is committed."""

from __future__ import annotations

import time
from typing import Any, Final

import asyncpg

from dbos_async._database.denied import SET_CONFIG
from dbos_async._database.outages import Meaning, meaning_of
from dbos_async._database.sql import load
from dbos_async._database.urls import reason_of
from dbos_async._runs.context import WorkflowContext
from dbos_async._runs.order import Ticket
from dbos_async._runs.step import Step
from dbos_async._runs.step_result import StepResult
from dbos_async._runs.transaction import NO_TABLES, without_tables
from dbos_async._transactions.opened import swallowed_error
from dbos_async.errors import InvalidValueError

with load(__name__) as sql:
    RECORD_INSIDE: Final = sql.statement("RECORD_INSIDE")
    LOOK: Final = sql.statement("LOOK")

LIMIT_IDLE: Final = "set local idle_in_transaction_session_timeout = '10s'"
"""What RECORD_INSIDE does by set_config, where that may be executed."""


class TransactionStep(Step):
    """A step that a transaction records."""

    __slots__ = ("_found", "committed")

    def __init__(self, context: WorkflowContext, key: str) -> None:
        super().__init__(context, "step", key)
        self.committed: str | None = None
        """The output that was committed together with the transaction, ``None`` before."""
        self._found: asyncpg.Record | None = None

    @property
    def is_found(self) -> bool:
        """Whether the step turned out to be recorded already."""
        return self._found is not None

    @property
    def was_cancelled(self) -> bool:
        """Whether the body of the step has swallowed a cancellation of which other tasks of the run may know."""
        order = self.run.order
        return (
            order is not None
            and order.is_concurrent
            and self.task.cancelling() > self.run.step_bodies.get(self, self.task.cancelling())
        )

    async def record_inside(self, connection: Any, output: str) -> str:
        """Record the output in the transaction that is open on this connection; ``done``, ``recorded`` or ``lost``."""
        ticket, names = self._take_ticket(), self.run.database.names
        row = (*self.columns, self.key, output, time.monotonic() - self.began, *ticket.columns)
        try:
            if SET_CONFIG in names.denied:
                await connection.execute(LIMIT_IDLE)
            records = await connection.fetch(names(RECORD_INSIDE.sql.one_row), 0, *row)
        except NO_TABLES as error:
            raise without_tables("the transaction", names, error) from None
        except asyncpg.InFailedSQLTransactionError:
            raise swallowed_error() from None
        except Exception as error:
            if meaning_of(error) is Meaning.VALUE and isinstance(error, asyncpg.PostgresError):
                problem = f"the database refused it: {reason_of(error)}"
                raise InvalidValueError(f"The result of step {self.key!r}", problem) from None
            raise
        return str(records[0]["outcome"])

    async def look(self) -> bool:
        """Whether the step is recorded; waits for the database, however long it is away."""
        run = self.run
        found = (await run.database.execute(self.call(LOOK, [self.columns])))[0]
        if found["outcome"] == "lost":
            await run.stop_as_lost()
        if found["outcome"] == "recorded":
            self._found = found
        return self.is_found

    def forget(self) -> None:
        """The transaction was rolled back: nothing is recorded at the place that was drawn for it."""
        if self.ticket is not None:
            self.ticket.void()

    def _take_ticket(self) -> Ticket:
        """The place at which the result will be released. A commit that was not answered may have it, so a repetition keeps it."""
        ticket, order = self.ticket, self.run.order
        if ticket is None or ticket.is_over:
            self.ticket = ticket = Ticket(self.run, self.id, self.asked_after)
        if order is not None and order.is_concurrent and ticket.place is None:
            ticket.place = order.draw(None)
        return ticket

    async def _record(self, output: str | None, error: str | None, took_seconds: float) -> StepResult:
        if self.committed is not None:
            await self.release()
            return self.result(self.committed, None, None)
        if self._found is not None:
            self._take_ticket()
            await self.take_place()
            await self.compare(self._found["recorded_verb"], self._found["recorded_key"])
            return self.result(self._found["output"], self._found["error"], None)
        self.forget()
        return await super()._record(output, error, took_seconds)
