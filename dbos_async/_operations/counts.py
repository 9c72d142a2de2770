"""How many workflows there are, by name and status, and which executors run them."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from pydantic import BaseModel

from dbos_async._database.calls import Result
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._runs.step import read
from dbos_async._workflows.status import WorkflowFilter

with load(__name__) as sql:
    COUNT_WORKFLOWS: Final = sql.statement("COUNT_WORKFLOWS", parallelism=1)
    LIST_EXECUTORS: Final = sql.statement("LIST_EXECUTORS", parallelism=1)
    COUNT_MESSAGES: Final = sql.statement("COUNT_MESSAGES", parallelism=1)


class WorkflowCount(BaseModel, frozen=True):
    """How many workflows of one name have one status.

    ``unclaimable`` is how many of them wait for an executor although no live one can run them.
    """

    name: str
    status: str
    count: int
    unclaimable: int


class MessageCount(BaseModel, frozen=True):
    """How many messages of one topic wait for workflows that have not ended, and how many were rejected.

    ``topic`` is ``None`` for messages without one. ``oldest_at`` is when the oldest of those that wait was sent, ``None`` when none
    waits. ``rejected`` counts those whose receivers could not read them, also if their workflows have ended.
    """

    topic: str | None
    waiting: int
    oldest_at: datetime | None
    rejected: int


class ExecutorStatus(BaseModel, frozen=True):
    """One executor, or what a dead one has left.

    ``executor_id`` is the name that it was launched with, and ``id`` that name, a colon and a mark of the launch, as the
    ``executor_id`` of its workflows has it. ``is_live`` is whether its lease has not run out, by the clock of the database.
    ``workflows`` counts those that it runs now, also those that only wait. ``started_at`` and ``lease_until`` are ``None`` when
    nothing but the workflows is left of it.
    """

    id: str
    executor_id: str
    application_version: str | None
    workflow_names: list[str]
    started_at: datetime | None
    lease_until: datetime | None
    is_live: bool
    workflows: int


def is_any(_counts: Result) -> bool:
    """A count that lags is enough, also that of nothing."""
    return True


async def count_workflows(database: Database, fits: WorkflowFilter) -> list[WorkflowCount]:
    """The workflows that fit the filter, counted by name and status."""

    async def find() -> list[WorkflowCount]:
        records = await database.read(COUNT_WORKFLOWS, [fits.columns], partition="", is_enough=is_any)
        return [WorkflowCount(**{key: record[key] for key in WorkflowCount.model_fields}) for record in records]

    found: list[WorkflowCount] = await read(database, "count_workflows", "", find, list[WorkflowCount])
    return found


async def count_messages(database: Database) -> list[MessageCount]:
    """The messages that wait or were rejected, counted by topic."""

    async def find() -> list[MessageCount]:
        records = await database.read(COUNT_MESSAGES, [()], partition="", is_enough=is_any)
        return [MessageCount(**{key: record[key] for key in MessageCount.model_fields}) for record in records]

    found: list[MessageCount] = await read(database, "count_messages", "", find, list[MessageCount])
    return found


async def list_executors(database: Database) -> list[ExecutorStatus]:
    """All executors, and owners of workflows that are none any more."""

    async def find() -> list[ExecutorStatus]:
        records = await database.call(LIST_EXECUTORS, [()], partition="")
        return [ExecutorStatus(**{key: record[key] for key in ExecutorStatus.model_fields}) for record in records]

    found: list[ExecutorStatus] = await read(database, "list_executors", "", find, list[ExecutorStatus])
    return found
