"""How workflows stand: one by its id, all that fit a filter, and the steps of one."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel

from dbos_async._database.database import Database
from dbos_async._database.statement import Statement
from dbos_async._runs.step import read
from dbos_async._serialization.values import display_value
from dbos_async.errors import InvalidArgumentError, WorkflowNotFoundError
from dbos_async.keys import check_int, check_key

STATUSES = ("PENDING", "SUCCESS", "ERROR", "CANCELLED", "REPLAY_MISMATCH", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")

STATUS = Statement(
    "STATUS",
    """
    select c.n, w.id as workflow_id, w.name, w.status, w.input, w.output, w.error, w.owner as executor_id,
           mod(w.attempt, 1000000) as attempt, w.recoveries, w.parent_id, w.forked_from, w.application_version,
           w.created_at, w.claimed_at, w.deadline, w.ended_at
    from unnest($1::int[], $2::text[]) as c(n, id)
    cross join lateral (select * from dbos_async.workflows where id = c.id limit 1) as w
    """,
)

LIST = Statement(
    "LIST",
    """
    select c.n, w.id as workflow_id, w.name, w.status, w.input, w.output, w.error, w.owner as executor_id,
           mod(w.attempt, 1000000) as attempt, w.recoveries, w.parent_id, w.forked_from, w.application_version,
           w.created_at, w.claimed_at, w.deadline, w.ended_at
    from unnest($1::int[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[],
                $7::text[], $8::boolean[], $9::int[], $10::text[])
        as c(n, status, name, id_prefix, since, until, parent_id, unclaimable, most, after)
    left join lateral (select created_at, id from dbos_async.workflows where id = c.after limit 1) as a on true
    cross join lateral (
        select * from dbos_async.workflows as w
        where (c.status is null or w.status = c.status)
          and (c.name is null or w.name = c.name)
          and (c.id_prefix is null or starts_with(w.id, c.id_prefix))
          and (c.since is null or w.created_at >= c.since)
          and (c.until is null or w.created_at < c.until)
          and (c.parent_id is null or w.parent_id = c.parent_id)
          and (c.unclaimable is null or c.unclaimable = (
                w.status = 'PENDING' and w.owner is null and not exists (
                    select 1 from dbos_async.executors as e
                    where e.lease_until > clock_timestamp() and w.name = any (e.workflow_names)
                      and (e.application_version is null or w.application_version is null
                           or e.application_version = w.application_version))))
          and (c.after is null or (w.created_at, w.id) > (a.created_at, a.id))
        order by w.created_at, w.id
        limit c.most
    ) as w
    order by c.n, w.created_at, w.id
    """,
    parallelism=1,
)

LIST_STEPS = Statement(
    "LIST_STEPS",
    """
    select c.n, case when s.branch = '' then s.number::text else s.branch || '.' || s.number end as step,
           s.verb, s.key, s.output, s.error, s.started_at,
           case when s.completed_at <= clock_timestamp() then s.completed_at end as completed_at
    from unnest($1::int[], $2::text[]) as c(n, workflow_id)
    cross join lateral (
        select * from dbos_async.steps where workflow_id = c.workflow_id
    ) as s
    order by c.n, s.started_at, s.branch, s.number
    """,
    parallelism=1,
)


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
        if moment is not None and moment.tzinfo is None:
            raise InvalidArgumentError(f"since and until must have a time zone, and {moment!r} has none.")
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
