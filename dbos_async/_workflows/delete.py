"""Deleting a workflow that has ended, with everything that it recorded, received, said and wrote.

Nothing may be left behind that is written at this very moment. Whoever sends to a workflow that has ended holds its row; whoever
believes that it goes on had begun before it ended, and is waited for.
"""

from __future__ import annotations

import anyio

from dbos_async._database.database import Database
from dbos_async._database.statement import Statement
from dbos_async._database.wakeups import end_key
from dbos_async._runs.step import read
from dbos_async.errors import DatabaseUnavailableError, WorkflowNotEndedError, WorkflowNotFoundError
from dbos_async.keys import check_key

ENDED = ("SUCCESS", "ERROR", "CANCELLED")
DELETE_WITHIN_SECONDS = 30.0

UNDER_WAY = Statement(
    "UNDER_WAY",
    """
    -- How the workflow stands, and who writes at this moment. A statement takes its locks before it takes its snapshot,
    -- so whoever is not among these sees what was seen here.
    select c.n, w.status, w.attempt,
           array(select distinct virtualtransaction from pg_locks
                 where mode = 'RowExclusiveLock' and granted and pid <> pg_backend_pid()
                   and database = (select oid from pg_database where datname = current_database())
                   and relation in ('dbos_async.steps'::regclass, 'dbos_async.messages'::regclass,
                                    'dbos_async.events'::regclass, 'dbos_async.stream_entries'::regclass)) as writers
    from unnest($1::int[], $2::text[]) as c(n, id)
    cross join lateral (select status, attempt from dbos_async.workflows where id = c.id limit 1) as w
    """,
    parallelism=1,
)

DELETE = Statement(
    "DELETE",
    """
    with deleted as materialized (
        select c.n, c.digest from unnest($1::int[], $2::text[], $3::bigint[], $4::bytea[]) as c(n, id, attempt, digest)
        where dbos_async.delete_workflow(c.id, c.attempt)
    ),
    announced as (select dbos_async.announce(string_agg(distinct digest, '')) from deleted)
    select n from deleted, announced
    """,
    parallelism=1,
)


async def delete(database: Database, workflow_id: str) -> None:
    """Remove a workflow that has ended, and everything that it recorded, received, said and wrote."""
    check_key(workflow_id, "workflow_id")
    digest = end_key(workflow_id)

    async def find() -> None:
        give_up_at = anyio.current_time() + DELETE_WITHIN_SECONDS
        seen: int | None = None
        earlier: set[str] = set()
        with database.changes() as changes:
            async for subscription in changes:
                answer = await database.call(UNDER_WAY, [(workflow_id,)], partition="")
                if not answer:
                    raise WorkflowNotFoundError(workflow_id)
                _, status, attempt, writers = answer[0]
                if status not in ENDED:
                    raise WorkflowNotEndedError(workflow_id, status)
                earlier = earlier.intersection(writers) if seen == attempt else set(writers)
                seen = attempt
                if not earlier and await database.call(
                    DELETE, [(workflow_id, attempt, digest)], partition="", wakes=[digest]
                ):
                    return
                if anyio.current_time() > give_up_at:
                    reason = "transactions that may still write to this workflow stayed open"
                    raise DatabaseUnavailableError(DELETE_WITHIN_SECONDS, False, reason)
                subscription.poll_within(0.01)

    await read(database, "delete_workflow", workflow_id, find)
