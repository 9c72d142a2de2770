"""The tail of a stream: where the next value will be, found without reading the values."""

from __future__ import annotations

from typing import Final, NamedTuple

from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async.errors import WorkflowNotFoundError

with load(__name__) as sql:
    TAIL: Final = sql.statement("TAIL")


class Tail(NamedTuple):
    """The offset behind the last value, and how the stream ended: CLOSED, the status of its workflow, or ``None``."""

    offset: int
    end: str | None


async def tail_of(database: Database, workflow_id: str, key: str) -> Tail:
    """Where the stream ends now. Raises `WorkflowNotFoundError` and `DatabaseUnavailableError`."""
    (found,) = await database.call(TAIL, [(workflow_id, key)], partition=workflow_id)
    if found["status"] is None:
        raise WorkflowNotFoundError(workflow_id)
    end = "CLOSED" if found["closes"] else found["status"] if found["ended"] else None
    return Tail(found["stop"] or 0, end)
