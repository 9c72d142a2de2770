"""Work that recurs as long as DBOS is launched: cancel workflows at their deadlines, report those that nobody can run."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._database.wakeups import DUE_KEY
from dbos_async._workflows import control

log = logging.getLogger("dbos_async")

CHECK_DEADLINES_EVERY_SECONDS = 1.0
REPORT_EVERY_SECONDS = 60.0
MAX_DUE = 100

with load(__name__) as sql:
    UNCLAIMABLE: Final = sql.statement("UNCLAIMABLE", parallelism=1)
    DUE: Final = sql.statement("DUE", parallelism=1)


async def keep_deadlines(database: Database) -> None:
    """Cancel the workflows whose deadline has passed, until cancelled; the runs of this process set a timer for their own."""
    with database.changes(DUE_KEY) as changes:
        async for subscription in changes:
            due = await database.call(DUE, [(MAX_DUE,)], partition="", retry_forever=True)
            for _, workflow_id in due:
                log.warning("Workflow %r is cancelled: its deadline has passed.", workflow_id)
            await asyncio.gather(*(control.cancel_if_due(database, workflow_id) for _, workflow_id in due))
            subscription.poll_within(0 if len(due) == MAX_DUE else CHECK_DEADLINES_EVERY_SECONDS)


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
