"""Everything that is stored of one workflow, as it was at one moment."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

from dbos_async._checks import check_key
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async.errors import WorkflowNotFoundError

with load(__name__) as sql:
    EXPORT: Final = sql.statement("EXPORT", parallelism=1)

PREFETCH: Final = 50
"""So many rows are read ahead: each may have some megabytes."""


async def export_workflow(database: Database, workflow_id: str) -> AsyncGenerator[tuple[str, str], None]:
    """Yield the rows of a workflow, each with its kind and as JSON: the workflow itself, then steps, messages, delayed messages,
    events and stream entries.

    It is one statement and so one moment, and reads row by row, however many there are.
    """
    workflow_id = check_key(workflow_id, "workflow_id")
    async with database.postgres.acquire() as connection, connection.transaction(readonly=True):
        is_there = False
        async for _, kind, row in connection.cursor(EXPORT.sql.one_row, 0, workflow_id, prefetch=PREFETCH):
            is_there = True
            yield kind, row
    if not is_there:
        raise WorkflowNotFoundError(workflow_id)
