"""A sleep that outlasts the process: its end is fixed in the database when it begins."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from dbos_async._database.calls import Call, Observer, Result, Row
from dbos_async._database.sql import load
from dbos_async._database.statement import Statement
from dbos_async._runs.context import WorkflowContext
from dbos_async._runs.history import note_error
from dbos_async._runs.step import Step
from dbos_async._runs.waiting import wait

with load(__name__) as sql:
    SLEEP: Final = sql.statement("SLEEP")
    SLEEP_UNTIL: Final = sql.statement("SLEEP_UNTIL")
    CUT_OFF: Final = sql.statement("CUT_OFF")


async def sleep(context: WorkflowContext, seconds: float) -> None:
    """Sleep until ``seconds`` after the first time that the run came here, by the database's clock."""
    await _sleep(context, SLEEP, lambda step: (*step.columns, seconds))


async def sleep_until(context: WorkflowContext, moment: datetime) -> None:
    """Sleep until this moment, by the database's clock: a sleep like any other, whose end is given."""
    await _sleep(context, SLEEP_UNTIL, lambda step: (*step.columns, moment))


async def _sleep(context: WorkflowContext, statement: Statement, row: Callable[[Step], Row]) -> None:
    step, polls = Step(context, "sleep", ""), _Polls()
    try:
        # A change of the key tells nothing here. It keeps the slow interval, in case this machine sleeps, too.
        (await wait(step, statement, row(step), (step.run.end_key,), observer=polls)).value()
    except asyncio.CancelledError:
        order = step.run.order
        # Among several tasks the places tell what was received, and nothing may be waited for before the cancellation is raised.
        if polls.may_have_ended and (order is None or not order.is_concurrent):
            await _wait_to_the_end(step, _cut_off(step, polls))
        raise


class _Polls(Observer):
    """What the polls of a sleep have told, also after its task was cancelled."""

    __slots__ = ("_under_way", "has_ended")

    def __init__(self) -> None:
        self._under_way: Call | None = None
        self.has_ended = False
        """Whether it is recorded that the sleep is over."""

    @property
    def may_have_ended(self) -> bool:
        """Whether that is so, or a poll is at the server that may record it."""
        return self.has_ended or self._under_way is not None

    def on_departure(self, call: Call, departure: int) -> None:
        self._under_way = call

    def on_result(self, call: Call, result: Result) -> None:
        self._under_way = None
        self.has_ended = result[0]["outcome"] == "recorded"


async def _cut_off(step: Step, polls: _Polls) -> None:
    """Record that the run did not sleep to the end, before it goes on to anything else."""
    database = step.run.database
    await database.batches.flush(step.run.partition)
    if polls.has_ended:
        await database.execute(step.call(CUT_OFF, [step.columns]))


async def _wait_to_the_end(step: Step, work: Coroutine[Any, Any, None]) -> None:
    """Wait for this however often the task is cancelled meanwhile, unless the run is stopped."""
    run = step.run
    task = run.database.loop.create_task(work, context=contextvars.Context())
    task.add_done_callback(note_error)
    while not task.done() and run.stopped is None and not run.over:
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task])
