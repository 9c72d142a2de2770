"""Everything that is stored of one workflow, as it was at one moment."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

from dbos_async._checks import check_key
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async.errors import WorkflowNotFoundError

with load(__name__) as sql:
    EXPORT_WORKFLOW: Final = sql.statement("EXPORT_WORKFLOW", parallelism=1)
    EXPORT_STEPS: Final = sql.statement("EXPORT_STEPS", parallelism=1)
    EXPORT_MESSAGES: Final = sql.statement("EXPORT_MESSAGES", parallelism=1)
    EXPORT_DELAYED_MESSAGES: Final = sql.statement("EXPORT_DELAYED_MESSAGES", parallelism=1)
    EXPORT_EVENTS: Final = sql.statement("EXPORT_EVENTS", parallelism=1)
    EXPORT_STREAM_ENTRIES: Final = sql.statement("EXPORT_STREAM_ENTRIES", parallelism=1)

KINDS: Final = {
    "workflow": EXPORT_WORKFLOW,
    "step": EXPORT_STEPS,
    "message": EXPORT_MESSAGES,
    "delayed_message": EXPORT_DELAYED_MESSAGES,
    "event": EXPORT_EVENTS,
    "stream_entry": EXPORT_STREAM_ENTRIES,
}

PREFETCH: Final = 50
"""So many rows are read ahead: each may have some megabytes."""


async def export_workflow(database: Database, workflow_id: str) -> AsyncGenerator[tuple[str, str], None]:
    """Yield the rows of a workflow, each with its kind and as JSON: the workflow itself, then steps, messages, delayed messages,
    events and stream entries.

    All of it is as it was at one moment, and is read row by row, however many rows there are.
    """
    workflow_id = check_key(workflow_id, "workflow_id")
    async with (
        database.postgres.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        for kind, statement in KINDS.items():
            is_there = False
            async for _, row in connection.cursor(statement.sql.one_row, 0, workflow_id, prefetch=PREFETCH):
                is_there = True
                yield kind, row
            if kind == "workflow" and not is_there:
                raise WorkflowNotFoundError(workflow_id)
