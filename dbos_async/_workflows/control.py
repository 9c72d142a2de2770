"""Cancelling a workflow, and resuming a cancelled or parked one.

Both move the fence, so whatever a run of the workflow still has under way comes too late. A run in the process that cancels is
stopped before the caller goes on. An executor of another process is woken by the announcement of the end like every waiter, checks
whether it still owns the workflow, and stops the run.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from dbos_async._checks import check_delay, check_key, check_optional_key
from dbos_async._database.calls import Call, Observer, Result
from dbos_async._database.change_keys import UNOWNED_KEY, end_key
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._executor import launched
from dbos_async._runs.step import read
from dbos_async.errors import WorkflowNotFoundError

log = logging.getLogger("dbos_async")

with load(__name__) as sql:
    CANCEL: Final = sql.statement("CANCEL")
    RESUME: Final = sql.statement("RESUME")
    LAST_STEP: Final = sql.statement("LAST_STEP", parallelism=1)


class _Cancelling(Observer):
    """Stops the run of a workflow in this process as soon as the workflow is cancelled."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    def on_result(self, call: Call, result: Result) -> None:
        for (workflow_id, *_), record in zip(call.rows, result, strict=False):
            if record["may_clean_up"]:
                launched.ask_to_end(self._database, workflow_id, record["attempt"] - 1)
            elif record["ends"]:
                launched.stop_cancelled(self._database, workflow_id, record["attempt"])


def cancelling(database: Database, workflow_id: str, cleanup_seconds: float | None) -> Call:
    """A call that ends a workflow that has not ended, or gives it so much time to end."""
    digest = end_key(workflow_id)
    row: tuple[Any, ...] = workflow_id, cleanup_seconds, digest
    return database.call(CANCEL, [row], partition=workflow_id, wakes=[digest], observer=_Cancelling(database))


async def has_ended(database: Database, workflow_id: str, call: Call) -> bool | None:
    """Whether this call has ended the workflow. ``None``: there is no such workflow."""
    answer = await call
    if not answer:
        return None
    await launched.stop_if_lost(database, workflow_id)
    # A call that was sent before may have ended it, and its answer was lost.
    return bool(answer[0]["ends"]) or call.was_sent


async def cancel(database: Database, workflow_id: str, cleanup_seconds: float | None = None) -> bool:
    """End a workflow that has not ended, or give it so much time to end. False if it has."""
    workflow_id = check_key(workflow_id, "workflow_id")
    seconds = check_delay(cleanup_seconds, "cleanup_seconds")

    async def find() -> bool:
        found = await has_ended(database, workflow_id, cancelling(database, workflow_id, seconds))
        if found is None:
            raise WorkflowNotFoundError(workflow_id)
        return found

    has_ended_it: bool | None = await read(database, "cancel_workflow", workflow_id, find)
    return has_ended_it is not False  # releases before 0.2 recorded nothing


def resuming(database: Database, workflow_id: str, application_version: str | None) -> Call:
    """A call that makes a cancelled or parked workflow PENDING again; its answer has the status before."""
    row: tuple[Any, ...] = workflow_id, application_version, UNOWNED_KEY
    return database.call(RESUME, [row], partition=workflow_id, wakes=[UNOWNED_KEY])


async def resume(database: Database, workflow_id: str, application_version: str | None) -> None:
    """Make a cancelled or parked workflow PENDING again. It goes on after its last recorded step.

    For one that ended otherwise the log says that nothing changes, and which fork to make.
    """
    workflow_id = check_key(workflow_id, "workflow_id")
    version = check_optional_key(application_version, "application_version")

    async def find() -> None:
        answer = await resuming(database, workflow_id, version)
        if not answer:
            raise WorkflowNotFoundError(workflow_id)
        status = answer[0]["status"]
        if status in ("SUCCESS", "ERROR"):
            start, what = await _fork_instead(database, workflow_id, status)
            log.warning(
                "Workflow %r has ended in %s, and resuming it changes nothing: DBOS.fork_workflow(%r, %r) makes a copy that %s.",
                workflow_id, status, workflow_id, start, what,
            )  # fmt: skip

    await read(database, "resume_workflow", workflow_id, find)


async def _fork_instead(database: Database, workflow_id: str, status: str) -> tuple[int | str, str]:
    """From which step to fork a workflow that has ended, and what the copy then does."""
    if status == "SUCCESS":
        return 1, "runs it again"
    _, path, failed, number = (await database.call(LAST_STEP, [(workflow_id,)], partition=workflow_id))[0]
    if not failed:
        return number + 1, "repeats its recorded steps and goes on with the code as it is now"
    return int(path) if path.isdecimal() else path, "runs its last step again"
