"""A step's number, and the moment at which it may have its result (`order.py`)."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol
from uuid import UUID

from dbos_async._database.calls import Call, Observer, Row
from dbos_async._database.sql import load
from dbos_async._database.statement import Statement
from dbos_async._runs.context import WorkflowContext, next_number
from dbos_async._runs.history import History, Recorded, named, note_error
from dbos_async._runs.order import Order, Ticket
from dbos_async._runs.running_step import Tries

with load(__name__) as sql:
    PLACE: Final = sql.statement("PLACE")


class KeyMatcher(Protocol):
    """Compares keys of a verb whose keys are made of several names. Else a key is one name."""

    async def is_same(self, step: Any, recorded: str, ids: Sequence[str], /) -> bool:
        """Whether the step has recorded this key, when the workflow had one of these ids."""
        ...


class NumberedStep:
    """A step of a run with the places of its calls. `Step` executes and replays it."""

    __slots__ = (
        "asked_after",
        "began",
        "branch",
        "handed",
        "is_asked",
        "is_begun",
        "is_cancelled",
        "is_deferred",
        "is_followed",
        "key",
        "matcher",
        "may_be_late",
        "message_id",
        "number",
        "run",
        "task",
        "ticket",
        "tries",
        "verb",
        "waited",
    )

    def __init__(self, context: WorkflowContext, verb: str, key: str) -> None:
        self.task, branch, self.number = next_number(context, verb)
        self.run, self.branch, self.verb, self.key = context.run, branch.name, verb, key
        self.matcher: KeyMatcher | None = None
        self.is_begun = False
        self.began = 0.0
        """When it began to do what only its end records, by the monotonic clock."""
        self.tries: Tries | None = None
        """How far it is, if it failed and is tried again."""
        self.waited = False
        """Whether an earlier run has begun to wait here."""
        self.is_asked = self.is_cancelled = False
        self.is_followed = False
        """Whether the replay knows what is recorded of this step."""
        self.may_be_late = False
        """Whether an earlier run may have a call of this step in flight, since the step was not recorded when it was asked for."""
        self.is_deferred = False
        """Whether the verb calls `release` itself, after what it has left to do with its result."""
        self.message_id: UUID | None = None
        """The message that an earlier run has received here."""
        self.ticket: Ticket | None = None
        self.handed: Ticket | None = None
        """The ticket of a hand-off to this step."""
        order = self.run.order
        self.asked_after: int | None = None
        if order is not None and order.is_concurrent:
            self.asked_after = order.released
        else:
            self.run.last_step = self

    @property
    def path(self) -> str:
        """The number as people write it: ``4``, or ``4.1.2`` in a branch."""
        return f"{self.branch}.{self.number}" if self.branch else str(self.number)

    @property
    def attempts(self) -> int:
        """How often it was tried, if it is a function of the user."""
        return 1 if self.tries is None else self.tries.attempt

    @property
    def id(self) -> tuple[str, int]:
        """The branch, and the number in it."""
        return self.branch, self.number

    @property
    def name(self) -> str:
        """What log lines and errors call it."""
        return f"{named(self.verb, self.key)} ({self.path})"

    @property
    def columns(self) -> tuple[str, int, str, int]:
        """What names a step in the statements: its workflow, the fence of its run, and its number."""
        return self.run.workflow_id, self.run.attempt, self.branch, self.number

    def call(
        self,
        statement: Statement,
        rows: Sequence[Row],
        *,
        size: int = 0,
        wakes: Sequence[bytes] = (),
        observer: Observer | None = None,
    ) -> Call:
        """A call of a statement in the name of this step, not executed yet."""
        return Call(statement, rows, self.run.partition, size, wakes, observer, retry_forever=True)

    @contextmanager
    def awaits_result(self) -> Generator[None]:
        """Let the list of steps show that this one waits."""
        self.began, run = time.monotonic(), self.run
        if run.results_awaited is None:
            run.results_awaited = set()
        run.results_awaited.add(self)
        try:
            yield
        finally:
            run.results_awaited.discard(self)

    async def release(self) -> None:
        """Return when the result may be used, for a verb that had something left to do with it."""
        run, ticket = self.run, self.ticket
        if ticket is None or ticket.is_over:
            return
        if run.order is None and run.gate.is_quiet(run):
            return ticket.void()
        with run.inside(self.verb, self.task):
            await run.make_order().wait_for_release(ticket)

    async def wait_for_cancellation(self) -> None:
        """Return when a cancellation of the current task may be raised. The step has no result then."""
        run, order = self.run, self.run.order
        self.void()
        if self.is_cancelled:
            return
        if run.history is not None and not self.is_followed:
            self.is_followed = True
            run.history.leave(*self.id)
        if order is None or not order.is_concurrent or run.stopped is not None or run.over:
            return
        self.is_cancelled = True
        with run.inside(self.verb, self.task):
            if self.may_be_late:
                self.forget_place()
            await order.wait_for_cancellation(Ticket(run, self.id, None))

    def void(self) -> None:
        """This step will not use a result."""
        for ticket in (self.ticket, self.handed):
            if ticket is not None:
                ticket.void()

    async def release_recorded(self, order: Order, ticket: Ticket) -> None:
        """Return when a recorded result may be used."""
        self.ticket = ticket
        if ticket.place is None:
            order.join_zero(ticket)
        if not self.is_deferred:
            await order.wait_for_release(ticket)

    def was_received(self, recorded: Recorded, order: Order) -> bool:
        """Whether an earlier run has the recorded result, or would have received it at its place."""
        if not recorded.completed or recorded.place is not None or order.recorded is None:
            return recorded.completed
        if recorded.asked_after is not None:
            return False  # a sleep, whose row is complete before it is over
        return self.id != ("", order.recorded.sleep)

    async def take_place(self) -> None:
        """A call has found the result recorded: by a call whose answer was lost, by a hand-off, or by an earlier run."""
        order = self.run.order
        if order is None:
            return None if self.is_deferred else await self.release()
        polled = self.ticket
        ticket = self.handed if self.handed is not None and not self.handed.is_over else polled
        assert ticket is not None
        if order.is_concurrent:
            if not ticket.number:
                ticket.void()
                ticket = Ticket(self.run, self.id, self.asked_after)
            await self.record_place(order, ticket)
        self.ticket = ticket
        if polled is not None and polled is not ticket:
            polled.void()
        if not self.is_deferred:
            await order.wait_for_release(ticket)

    async def record_place(self, order: Order, ticket: Ticket) -> None:
        """Record the place at which a result is released that is recorded already."""
        if ticket.place is None:
            ticket.place = order.draw(None)
        self.ticket = ticket
        await self._store_place(ticket.number)

    def forget_place(self) -> asyncio.Task[None]:
        """Record that no run has received the result. Nothing is released before that is committed, whoever is cancelled."""
        run = self.run
        assert run.history is not None
        run.history.reading += 1
        task = run.database.loop.create_task(self._forget_place(run.history), context=contextvars.Context())
        task.add_done_callback(note_error)
        return task

    async def _forget_place(self, history: History) -> None:
        try:
            await self._store_place(None)
        finally:
            history.reading -= 1
            self.run.make_order().moved()

    async def _store_place(self, place: int | None) -> None:
        if self.run.host.only_replays:
            return
        call = self.call(PLACE, [(*self.columns, self.verb, self.key, place, self.asked_after)])
        if (await self.run.database.execute(call))[0]["outcome"] == "lost":
            await self.run.stop_as_lost()
