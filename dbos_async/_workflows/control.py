"""Cancelling a workflow, and resuming a cancelled or parked one.

Both move the fence, so whatever a run of the workflow still has under way comes too late. The executor that runs the workflow is
woken by the announcement of the end like every waiter, checks whether it still owns the workflow, and stops the run.
"""

from __future__ import annotations

from typing import Any, Final

from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._database.wakeups import UNOWNED_KEY, end_key
from dbos_async._runs.step import read
from dbos_async.errors import WorkflowNotFoundError
from dbos_async.keys import check_key

with load(__name__) as sql:
    CANCEL: Final = sql.statement("CANCEL")
    RESUME: Final = sql.statement("RESUME")


async def cancel(database: Database, workflow_id: str) -> None:
    """End a workflow that has not ended."""
    check_key(workflow_id, "workflow_id")
    digest = end_key(workflow_id)

    async def find() -> None:
        answer = await database.call(CANCEL, [(workflow_id, digest)], partition=workflow_id, wakes=[digest])
        if not answer:
            raise WorkflowNotFoundError(workflow_id)

    await read(database, "cancel_workflow", workflow_id, find)


async def resume(database: Database, workflow_id: str, application_version: str | None) -> None:
    """Make a cancelled or parked workflow PENDING again. It goes on after its last recorded step."""
    check_key(workflow_id, "workflow_id")
    row: tuple[Any, ...] = workflow_id, application_version, UNOWNED_KEY

    async def find() -> None:
        answer = await database.call(RESUME, [row], partition=workflow_id, wakes=[UNOWNED_KEY])
        if not answer:
            raise WorkflowNotFoundError(workflow_id)

    await read(database, "resume_workflow", workflow_id, find)
