"""How workflows stand: one by its id, all that fit a filter, and the steps of one."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel

from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._runs.step import read
from dbos_async._serialization.values import display_value
from dbos_async.errors import InvalidArgumentError, WorkflowNotFoundError
from dbos_async.keys import check_int, check_key

STATUSES = ("PENDING", "SUCCESS", "ERROR", "CANCELLED", "REPLAY_MISMATCH", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")
PARKED = STATUSES[4:]

with load(__name__) as sql:
    STATUS: Final = sql.statement("STATUS")
    LIST: Final = sql.statement("LIST", parallelism=1)
    LIST_STEPS: Final = sql.statement("LIST_STEPS", parallelism=1)


class WorkflowStatus(BaseModel, frozen=True):
    """How a workflow stood at the time of the query.

    - ``status`` is PENDING (running, waiting, or not yet claimed), ended (SUCCESS, ERROR, CANCELLED), or parked until it is
      resumed (REPLAY_MISMATCH, MAX_RECOVERY_ATTEMPTS_EXCEEDED).
    - ``input``, ``output`` and ``error`` are the stored values as plain JSON, or as text if they cannot be decoded.
    - ``executor_id`` is the executor that runs the workflow now, ``None`` when none does; ``attempt`` counts its runs.
    - ``recoveries`` counts how many executors in a row have died under it without a new step.
    - ``parent_id`` is the workflow that started it, ``forked_from`` the one that it is a copy of, ``None`` without one.
    - ``deadline`` is when it is cancelled (`SetWorkflowTimeout`), ``None`` for never. Times are those of the database, in UTC.
    """

    workflow_id: str
    name: str
    status: str
    input: Any
    output: Any
    error: Any
    executor_id: str | None
    attempt: int
    recoveries: int
    parent_id: str | None
    forked_from: str | None
    application_version: str | None
    created_at: datetime
    claimed_at: datetime | None
    deadline: datetime | None
    ended_at: datetime | None


class WorkflowStep(BaseModel, frozen=True):
    """One recorded step.

    ``step`` is its path, as `DBOS.fork_workflow` takes it; ``verb`` and ``key`` say what it did; ``output`` and ``error`` are plain
    JSON. ``completed_at`` is ``None`` while the step waits.
    """

    step: str
    verb: str
    key: str
    output: Any
    error: Any
    started_at: datetime
    completed_at: datetime | None


async def get_status(database: Database, workflow_id: str) -> WorkflowStatus:
    """How the workflow of this id stands now."""
    check_key(workflow_id, "workflow_id")

    async def find() -> WorkflowStatus:
        answer = await database.call(STATUS, [(workflow_id,)], partition=workflow_id)
        if not answer:
            raise WorkflowNotFoundError(workflow_id)
        return _status(answer[0])

    status: WorkflowStatus = await read(database, "get_status", workflow_id, find, WorkflowStatus)
    return status


async def list_workflows(
    database: Database,
    *,
    status: str | None,
    name: str | None,
    id_prefix: str | None,
    since: datetime | None,
    until: datetime | None,
    parent_id: str | None,
    unclaimable: bool | None,
    limit: int,
    after: str | None,
) -> list[WorkflowStatus]:
    """The workflows that fit every filter, the oldest first."""
    if status is not None and status not in STATUSES:
        raise InvalidArgumentError(f"status must be one of {', '.join(STATUSES)} and is {status!r:.100}.")
    check_int(limit, 1, "limit")
    for moment in (since, until):
        if moment is not None and (not isinstance(moment, datetime) or moment.tzinfo is None):
            raise InvalidArgumentError(
                f"since and until must be datetimes with a time zone, and {moment!r:.100} is none."
            )
    row = status, name, id_prefix, since, until, parent_id, unclaimable, limit, after

    async def find() -> list[WorkflowStatus]:
        return [_status(record) for record in await database.call(LIST, [row], partition="")]

    found: list[WorkflowStatus] = await read(database, "list_workflows", "", find, list[WorkflowStatus])
    return found


async def list_workflow_steps(database: Database, workflow_id: str) -> list[WorkflowStep]:
    """The recorded steps of a workflow, in the order in which they began."""
    check_key(workflow_id, "workflow_id")

    async def find() -> list[WorkflowStep]:
        return [
            WorkflowStep(
                step=step, verb=verb, key=key, output=display_value(output), error=display_value(error),
                started_at=started_at, completed_at=completed_at,
            )
            for _, step, verb, key, output, error, started_at, completed_at
            in await database.call(LIST_STEPS, [(workflow_id,)], partition=workflow_id)
        ]  # fmt: skip

    steps: list[WorkflowStep] = await read(database, "list_workflow_steps", workflow_id, find, list[WorkflowStep])
    return steps


def _status(record: Any) -> WorkflowStatus:
    fields = dict(record)
    del fields["n"]
    for name in ("input", "output", "error"):
        fields[name] = display_value(fields[name])
    return WorkflowStatus(**fields)
