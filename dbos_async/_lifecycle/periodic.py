"""Work that recurs as long as DBOS is launched: cancel workflows at their deadlines, report those that nobody can run."""

from __future__ import annotations

import logging
from typing import Final

from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._database.wakeups import DUE_KEY, end_key

log = logging.getLogger("dbos_async")

CHECK_DEADLINES_EVERY_SECONDS = 1.0
REPORT_EVERY_SECONDS = 60.0
MAX_DUE = 100

with load(__name__) as sql:
    UNCLAIMABLE: Final = sql.statement("UNCLAIMABLE", parallelism=1)
    DUE: Final = sql.statement("DUE", parallelism=1)
    CANCEL_DUE: Final = sql.statement("CANCEL_DUE", parallelism=1)


async def keep_deadlines(database: Database) -> None:
    """Cancel the workflows whose deadline has passed, until cancelled; the runs of this process set a timer for their own."""
    with database.changes(DUE_KEY) as changes:
        async for subscription in changes:
            due = await database.call(DUE, [(MAX_DUE,)], partition="", retry_forever=True)
            cancelled = await _cancel(database, [workflow_id for _, workflow_id in due]) if due else 0
            subscription.poll_within(0 if len(due) == MAX_DUE and cancelled else CHECK_DEADLINES_EVERY_SECONDS)


async def _cancel(database: Database, workflow_ids: list[str]) -> int:
    """Cancel those of these workflows whose rows are free; how many that were."""
    rows = [(workflow_id, end_key(workflow_id)) for workflow_id in workflow_ids]
    wakes = [key for _, key in rows]
    records = await database.call(CANCEL_DUE, rows, partition="", retry_forever=True, wakes=wakes)
    for _, workflow_id in records:
        log.warning("Workflow %r is cancelled: its deadline has passed.", workflow_id)
    return len(records)


async def keep_reporting_unclaimable(database: Database) -> None:
    """Log once a minute which workflows no live executor can run, until cancelled."""
    with database.changes() as changes:
        async for subscription in changes:
            for _, name, version, count in await database.call(UNCLAIMABLE, [()], partition="", retry_forever=True):
                log.warning(
                    "%d workflows named %r%s wait for an executor that can run them: see list_workflows(unclaimable=True).",
                    count, name, f" of version {version!r}" if version else "",
                )  # fmt: skip
            subscription.poll_within(REPORT_EVERY_SECONDS)
