"""Work that recurs as long as DBOS is launched: cancel workflows at their deadlines, report those that nobody can run."""

from __future__ import annotations

import asyncio
import logging

from dbos_async._database.database import Database
from dbos_async._database.statement import Statement
from dbos_async._database.wakeups import DUE_KEY
from dbos_async._workflows import control

log = logging.getLogger("dbos_async")

CHECK_DEADLINES_EVERY_SECONDS = 1.0
REPORT_EVERY_SECONDS = 60.0
MAX_DUE = 100

UNCLAIMABLE = Statement(
    "UNCLAIMABLE",
    """
    select ($1::int[])[1] as n, w.name, w.application_version, w.count
    from (
        select name, application_version, count(*) as count from dbos_async.workflows
        where status = 'PENDING' and owner is null and created_at < clock_timestamp() - interval '1 minute'
        group by name, application_version
    ) as w
    where not exists (
        select 1 from dbos_async.executors as e
        where e.lease_until > clock_timestamp() and w.name = any (e.workflow_names)
          and (e.application_version is null or w.application_version is null
               or e.application_version = w.application_version))
    order by w.name, w.application_version
    """,
    parallelism=1,
)

DUE = Statement(
    "DUE",
    """
    select ($1::int[])[1] as n, id from dbos_async.workflows
    where deadline is not null and ended_at is null and deadline <= clock_timestamp()
    order by deadline limit ($2::int[])[1]
    """,
    parallelism=1,
)


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
