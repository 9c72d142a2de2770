"""How workflows stand: one by its id, and all that fit a filter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel, Field

from dbos_async._checks import (
    check_choices,
    check_flag,
    check_int,
    check_key,
    check_keys,
    check_moment,
    check_optional_key,
    check_text,
)
from dbos_async._database.database import Database
from dbos_async._database.pages import Cursor, unknown_after
from dbos_async._database.sql import load
from dbos_async._database.statement import Statement
from dbos_async._runs.step import read
from dbos_async._serialization.values import decode_value, display_value, encode_value
from dbos_async.errors import InvalidArgumentError, WorkflowNotFoundError

PARKED = ("REPLAY_MISMATCH", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")
STATUSES = ("PENDING", "DELAYED", "SUCCESS", "ERROR", "CANCELLED", *PARKED)

with load(__name__) as sql:
    STATUS: Final = sql.statement("STATUS")
    STATUS_IN_SHORT: Final = sql.statement("STATUS_IN_SHORT", parallelism=1)
    LIST: Final = sql.statement("LIST", parallelism=1)
    LIST_NEWEST: Final = sql.statement("LIST_NEWEST", parallelism=1)


class WorkflowStatus(BaseModel, frozen=True):
    """How a workflow stood at the time of the query.

    - ``status`` is PENDING (running, waiting, or not yet claimed), DELAYED (it starts at ``due_at``), ended (SUCCESS, ERROR,
      CANCELLED), or parked until it is resumed (REPLAY_MISMATCH, MAX_RECOVERY_ATTEMPTS_EXCEEDED).
    - ``input``, ``output`` and ``error`` are the stored values as plain JSON, or as text if they cannot be decoded.
    - ``executor_id`` is the executor that runs the workflow (the name that it was launched with, a colon and a mark of the launch),
      after its end the one that ran it last; ``None`` while it waits for one or is parked. ``attempt`` counts its runs.
    - ``generation`` counts how often it began: `DBOS.continue_as_new` begins the next one.
    - ``recoveries`` counts how many executors in a row have died under it without a new step.
    - ``parent_id`` is the workflow that started it, ``forked_from`` the one that it is a copy of, ``None`` without one.
    - ``unclaimable`` is whether it waits for an executor although no live one can run it: none knows its name, or none has its
      ``application_version``.
    - ``due_at`` is when a workflow whose start was delayed (`SetStartDelay`) starts, or did; ``None`` for others.
    - ``deadline`` is when it is cancelled (`SetWorkflowTimeout`), ``None`` for never. Times are those of the database, in UTC.
    - ``cancel_asked_at`` is when it was cancelled with time to clean up, which it has until ``deadline``; ``None`` for others.
    - ``patches`` are the names for which `DBOS.patched` has answered true in it, in their order as texts.
    - ``cursor`` is where the next page begins if this is the last workflow of a page, ``None`` outside of lists.
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
    due_at: datetime | None = None
    generation: int = 1
    cancel_asked_at: datetime | None = None
    unclaimable: bool = False
    patches: tuple[str, ...] = ()
    cursor: str | None = Field(default=None, repr=False)


async def get_status(database: Database, workflow_id: str) -> WorkflowStatus:
    """How the workflow of this id stands now."""
    workflow_id = check_key(workflow_id, "workflow_id")

    async def find() -> WorkflowStatus:
        return await find_status(database, workflow_id)

    status: WorkflowStatus = await read(database, "get_status", workflow_id, find, WorkflowStatus)
    return status


async def find_status(
    database: Database, workflow_id: str, statement: Statement = STATUS, *, may_lag: bool = True
) -> WorkflowStatus:
    """Look up how a workflow stands, whoever asks."""
    answer = await database.read(statement, [(workflow_id,)], partition=workflow_id, may_lag=may_lag)
    if not answer:
        raise WorkflowNotFoundError(workflow_id)
    return _status(answer[0])


@dataclass(frozen=True)
class WorkflowFilter:
    """What `list_workflows` asks for, checked. ``None`` fits all."""

    ids: str | None
    statuses: str | None
    names: str | None
    versions: str | None
    id_prefix: str | None
    since: datetime | None
    until: datetime | None
    parent_id: str | None
    unclaimable: bool | None
    patch: str | None
    without_patch: str | None

    @property
    def columns(self) -> tuple[Any, ...]:
        """The columns of the statement."""
        return tuple(vars(self).values())


def workflow_filter(
    *,
    ids: str | Sequence[str] | None = None,
    status: str | Sequence[str] | None = None,
    name: str | Sequence[str] | None = None,
    application_version: str | Sequence[str] | None = None,
    id_prefix: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    parent_id: str | None = None,
    unclaimable: bool | None = None,
    patch: str | None = None,
    without_patch: str | None = None,
) -> WorkflowFilter:
    """The filter of these arguments. What is unclaimable is PENDING, which has indexes of its own."""
    unclaimable = None if unclaimable is None else check_flag(unclaimable, "unclaimable")
    if unclaimable and status is None and ids is None:
        status = "PENDING"
    return WorkflowFilter(
        _json(None if ids is None else check_keys(ids, "workflow_id")),
        _json(None if status is None else check_choices(status, STATUSES, "status")),
        _json(None if name is None else check_keys(name, "name")),
        _json(None if application_version is None else check_keys(application_version, "application_version")),
        None if id_prefix is None else check_text(id_prefix, "id_prefix"),
        check_moment(since, "since"),
        check_moment(until, "until"),
        check_optional_key(parent_id, "parent_id"),
        unclaimable,
        check_optional_key(patch, "patch"),
        check_optional_key(without_patch, "without_patch"),
    )


async def list_workflows(
    database: Database,
    fits: WorkflowFilter,
    *,
    newest_first: bool,
    payloads: bool,
    limit: int,
    after: str | None,
    cursor: str | None,
) -> list[WorkflowStatus]:
    """The workflows that fit the filter, the oldest or the newest first."""
    newest_first, payloads = check_flag(newest_first, "newest_first"), check_flag(payloads, "payloads")
    limit, after = check_int(limit, 1, "limit"), check_optional_key(after, "after")
    before, of = None, ("list_workflows", fits, newest_first)
    if cursor is not None:
        if after is not None:
            raise InvalidArgumentError("after and cursor both say where the page begins: give one of them.")
        before = Cursor.of(cursor, datetime, str)
    elif after is not None:
        before = database.pages.find(of, after)
    known_after = after if before is None else None
    columns = (None,) * 7 if before is None else (*before[:5], *before.position)
    row = (*fits.columns, payloads, limit, known_after, *columns)

    async def find() -> list[WorkflowStatus]:
        records = await database.call(LIST_NEWEST if newest_first else LIST, [row], partition="")
        if records[0]["is_unknown"]:
            raise unknown_after(after)
        found = [_listed(record, before) for record in records if record["workflow_id"] is not None]
        if found:
            database.pages.remember(of, found[-1][0].workflow_id, found[-1][1])
        return [status for status, _ in found]

    found: list[WorkflowStatus] = await read(database, "list_workflows", "", find, list[WorkflowStatus])
    return found


def _json(several: list[str] | None) -> str | None:
    return None if several is None else encode_value(several)


def _listed(record: Any, before: Cursor | None) -> tuple[WorkflowStatus, Cursor]:
    cursor = Cursor.after(before, record, (record["created_at"], record["workflow_id"]))
    return _status(record, cursor.text), cursor


def _status(record: Any, cursor: str | None = None) -> WorkflowStatus:
    fields = {name: record[name] for name in WorkflowStatus.model_fields if name != "cursor"}
    for name in ("input", "output", "error"):
        fields[name] = display_value(fields[name])
    fields["patches"] = tuple(sorted(decode_value(fields["patches"] or "{}", dict[str, Any])))
    return WorkflowStatus(**fields, cursor=cursor)
