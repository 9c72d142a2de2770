"""A sleep that outlasts the process: its end is fixed in the database when it begins."""

from __future__ import annotations

from typing import Final

from dbos_async._database.sql import load
from dbos_async._runs.context import WorkflowContext
from dbos_async._runs.step import Step

with load(__name__) as sql:
    SLEEP: Final = sql.statement("SLEEP")


async def sleep(context: WorkflowContext, seconds: float) -> None:
    """Sleep until ``seconds`` after the first time that the run came here, by the database's clock."""
    step = Step(context, "sleep", "")
    await step.perform(SLEEP, [(*step.columns, seconds)], watch=())
