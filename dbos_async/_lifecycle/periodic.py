"""Work that recurs as long as DBOS is launched: cancel workflows at their deadlines, report those that nobody can run."""

from __future__ import annotations

import logging
from typing import Final

from dbos_async._database.calls import Call, Observer, Result
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._database.wakeups import DUE_KEY, end_key
from dbos_async._executor.executor import Executor
from dbos_async._logs import counted

log = logging.getLogger("dbos_async")

CHECK_DEADLINES_EVERY_SECONDS = 1.0
REPORT_EVERY_SECONDS = 60.0
MAX_DUE = 100

with load(__name__) as sql:
    UNCLAIMABLE: Final = sql.statement("UNCLAIMABLE", parallelism=1)
    DUE: Final = sql.statement("DUE", parallelism=1)
    CANCEL_DUE: Final = sql.statement("CANCEL_DUE", parallelism=1)


class _Cancelling(Observer):
    """Stops the runs of this process whose workflows are cancelled."""

    __slots__ = ("_executor",)

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def on_result(self, call: Call, result: Result) -> None:
        for _, workflow_id, attempt in result:
            log.warning("Workflow %r is cancelled: its deadline has passed.", workflow_id)
            self._executor.stop_cancelled(workflow_id, attempt)


async def keep_deadlines(executor: Executor) -> None:
    """Cancel the workflows whose deadline has passed, until cancelled; the runs of this process set a timer for their own."""
    database, observer = executor.database, _Cancelling(executor)
    with database.changes(DUE_KEY) as changes:
        async for subscription in changes:
            due = await database.call(DUE, [(MAX_DUE,)], partition="", retry_forever=True)
            cancelled = 0
            if due:
                rows = [(workflow_id, end_key(workflow_id)) for _, workflow_id in due]
                wakes = [key for _, key in rows]
                call = database.call(CANCEL_DUE, rows, partition="", retry_forever=True, wakes=wakes, observer=observer)
                cancelled = len(await call)
            # Those whose rows are locked are left for the next time.
            subscription.poll_within(0 if len(due) == MAX_DUE and cancelled else CHECK_DEADLINES_EVERY_SECONDS)


async def keep_reporting_unclaimable(database: Database) -> None:
    """Log once a minute which workflows no live executor can run, until cancelled."""
    with database.changes() as changes:
        async for subscription in changes:
            for _, name, version, count in await database.call(UNCLAIMABLE, [()], partition="", retry_forever=True):
                log.warning(
                    "No live executor can run %s named %r%s: see list_workflows(unclaimable=True).",
                    counted(count, "workflow"), name, f" of version {version!r}" if version else "",
                )  # fmt: skip
            subscription.poll_within(REPORT_EVERY_SECONDS)
