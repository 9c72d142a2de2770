"""A sleep that outlasts the process: its end is fixed in the database when it begins."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from dbos_async._database.sql import load
from dbos_async._runs.context import WorkflowContext
from dbos_async._runs.step import Step
from dbos_async._runs.waiting import wait

with load(__name__) as sql:
    SLEEP: Final = sql.statement("SLEEP")
    SLEEP_UNTIL: Final = sql.statement("SLEEP_UNTIL")


async def sleep(context: WorkflowContext, seconds: float) -> None:
    """Sleep until ``seconds`` after the first time that the run came here, by the database's clock."""
    step = Step(context, "sleep", "")
    # A change of the key tells nothing here. It keeps the slow interval, in case this machine sleeps, too.
    (await wait(step, SLEEP, (*step.columns, seconds), (step.run.end_key,))).value()


async def sleep_until(context: WorkflowContext, moment: datetime) -> None:
    """Sleep until this moment, by the database's clock: a sleep like any other, whose end is given."""
    step = Step(context, "sleep", "")
    (await wait(step, SLEEP_UNTIL, (*step.columns, moment), (step.run.end_key,))).value()
