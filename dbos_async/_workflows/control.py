"""Cancelling a workflow, and letting a cancelled or parked one go on.

Both move the fence, so whatever a run of the workflow still has under way comes too late. The executor that runs it hears of
the end like everybody else who waits for it, looks whether it still owns the workflow, and stops its run.
"""

from __future__ import annotations

from typing import Any

from dbos_async._database.database import Database
from dbos_async._database.statement import Statement
from dbos_async._database.wakeups import UNOWNED_KEY, end_key
from dbos_async._runs.step import read
from dbos_async.errors import WorkflowNotFoundError
from dbos_async.keys import check_key

CANCEL = Statement(
    "CANCEL",
    """
    with held as materialized (
        select c.n, c.digest, w.id, w.ended_at is null and (not c.only_if_due or w.deadline <= clock_timestamp()) as ends
        from (
            select * from unnest($1::int[], $2::text[], $3::boolean[], $4::bytea[]) as c(n, id, only_if_due, digest)
            order by id
        ) as c
        cross join lateral (
            select id, deadline, ended_at from dbos_async.workflows where id = c.id for no key update
        ) as w
    ),
    cancelled as (
        update dbos_async.workflows
        set status = 'CANCELLED', attempt = attempt + 1, owner = null, ended_at = clock_timestamp()
        where id = any (array(select id from held where ends))
    ),
    announced as (select dbos_async.announce(string_agg(distinct digest, '')) from held)
    select n, ends from held, announced
    """,
)

RESUME = Statement(
    "RESUME",
    """
    with held as materialized (
        select c.n, c.digest, c.application_version, w.id, w.status, w.owner
        from (
            select * from unnest($1::int[], $2::text[], $3::text[], $4::bytea[]) as c(n, id, application_version, digest)
            order by id
        ) as c
        cross join lateral (
            select id, status, owner from dbos_async.workflows where id = c.id for no key update
        ) as w
    ),
    resumed as (
        update dbos_async.workflows as w
        set status = 'PENDING', attempt = attempt + 1, owner = null, recoveries = 0, ended_at = null, error = null, deadline = null,
            application_version = coalesce(
                (select h.application_version from held as h where h.id = w.id limit 1), w.application_version)
        where id = any (array(
            select id from held
            where case when status = 'PENDING' then owner is null and application_version is not null
                       else status not in ('SUCCESS', 'ERROR') end))
    ),
    announced as (select dbos_async.announce(string_agg(distinct digest, '')) from held)
    select n, status from held, announced
    """,
)


async def cancel(database: Database, workflow_id: str) -> None:
    """End a workflow that has not ended."""
    check_key(workflow_id, "workflow_id")
    digest = end_key(workflow_id)

    async def find() -> None:
        answer = await database.call(CANCEL, [(workflow_id, False, digest)], partition=workflow_id, wakes=[digest])
        if not answer:
            raise WorkflowNotFoundError(workflow_id)

    await read(database, "cancel_workflow", workflow_id, find)


async def cancel_if_due(database: Database, workflow_id: str) -> None:
    """End a workflow whose deadline has come, unless it has ended or somebody has lifted the deadline."""
    digest = end_key(workflow_id)
    await database.call(
        CANCEL, [(workflow_id, True, digest)], partition=workflow_id, wakes=[digest], retry_forever=True
    )


async def resume(database: Database, workflow_id: str, application_version: str | None) -> None:
    """Let a cancelled or parked workflow go on after its last recorded step."""
    check_key(workflow_id, "workflow_id")
    row: tuple[Any, ...] = workflow_id, application_version, UNOWNED_KEY

    async def find() -> None:
        answer = await database.call(RESUME, [row], partition=workflow_id, wakes=[UNOWNED_KEY])
        if not answer:
            raise WorkflowNotFoundError(workflow_id)

    await read(database, "resume_workflow", workflow_id, find)
