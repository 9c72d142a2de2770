"""Deleting a workflow that has ended, with its steps, messages, events and streams.

Nothing may be left behind that another transaction writes at this very moment. A transaction that sends to a workflow that has
ended locks its row. A transaction that still sees the workflow as running began before the end, and the deletion waits for it.
"""

from __future__ import annotations

from typing import Final

import anyio

from dbos_async._checks import check_key
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._database.wakeups import end_key
from dbos_async._executor import launched
from dbos_async._runs.step import read
from dbos_async.errors import DatabaseUnavailableError, WorkflowNotEndedError, WorkflowNotFoundError

ENDED = ("SUCCESS", "ERROR", "CANCELLED")
DELETE_WITHIN_SECONDS = 30.0

with load(__name__) as sql:
    UNDER_WAY: Final = sql.statement("UNDER_WAY", parallelism=1)
    DELETE: Final = sql.statement("DELETE", parallelism=1)


async def delete(database: Database, workflow_id: str) -> None:
    """Remove a workflow that has ended, with its steps, messages, events and streams."""
    workflow_id = check_key(workflow_id, "workflow_id")
    digest = end_key(workflow_id)

    async def find() -> None:
        give_up_at = anyio.current_time() + DELETE_WITHIN_SECONDS
        seen: int | None = None
        earlier: set[str] = set()
        with database.changes() as changes:
            async for subscription in changes:
                records = await database.call(UNDER_WAY, [(workflow_id,)], partition="")
                if not records:
                    raise WorkflowNotFoundError(workflow_id)
                _, status, attempt, writers = records[0]
                if status not in ENDED:
                    raise WorkflowNotEndedError(workflow_id, status)
                earlier = earlier.intersection(writers) if seen == attempt else set(writers)
                seen = attempt
                if not earlier and await database.call(
                    DELETE, [(workflow_id, attempt, digest)], partition="", wakes=[digest]
                ):
                    return await launched.stop_if_lost(database, workflow_id)
                if anyio.current_time() > give_up_at:
                    reason = "transactions that may still write to this workflow stayed open"
                    raise DatabaseUnavailableError(DELETE_WITHIN_SECONDS, False, reason)
                subscription.poll_within(0.01)

    await read(database, "delete_workflow", workflow_id, find)
