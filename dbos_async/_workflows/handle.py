"""A workflow seen from outside: its handle, its status, its steps, its result."""

from __future__ import annotations

from contextlib import aclosing
from datetime import datetime
from typing import Any, Final, Generic, TypeVar, cast

from pydantic import BaseModel

from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._database.wakeups import end_key
from dbos_async._runs.context import Run, WorkflowContext, calling_context
from dbos_async._runs.step import Step, StepResult, read
from dbos_async._serialization import values
from dbos_async.errors import InvalidArgumentError, WorkflowCancelledError, WorkflowNotFoundError
from dbos_async.keys import check_int, check_key

R = TypeVar("R")

STATUSES = ("PENDING", "SUCCESS", "ERROR", "CANCELLED", "REPLAY_MISMATCH", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")

with load(__name__) as sql:
    RESULT: Final = sql.statement("RESULT")
    AWAIT_RESULT: Final = sql.statement("AWAIT_RESULT")
    STATUS: Final = sql.statement("STATUS")
    LIST: Final = sql.statement("LIST", parallelism=1)
    LIST_STEPS: Final = sql.statement("LIST_STEPS", parallelism=1)


class WorkflowStatus(BaseModel, frozen=True):
    """How a workflow stood when somebody looked.

    ``status`` is PENDING (running, waiting, or not yet claimed), an end (SUCCESS, ERROR, CANCELLED), or parked until
    somebody repairs and resumes it (REPLAY_MISMATCH, MAX_RECOVERY_ATTEMPTS_EXCEEDED). ``input``, ``output`` and ``error``
    are the plain JSON that is stored, or its text if that cannot be read. ``executor_id`` is the executor that runs it now,
    ``None`` when none does; ``attempt`` counts its runs. At its ``deadline`` (`SetWorkflowTimeout`) it is cancelled.
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
    """One recorded step: its path, what it was, and how it ended; ``completed_at`` is ``None`` while it waits."""

    step: str
    verb: str
    key: str
    output: Any
    error: Any
    started_at: datetime
    completed_at: datetime | None


class WorkflowHandle(Generic[R]):
    """One workflow, by its id: ask for its status, or wait for its result."""

    __slots__ = ("_database", "_result_type", "_run", "workflow_id")

    def __init__(self, database: Database, workflow_id: str, result_type: Any = Any, run: Run | None = None) -> None:
        self._database = database
        self._result_type = result_type
        self._run = run
        self.workflow_id: str = workflow_id

    def __repr__(self) -> str:
        return f"WorkflowHandle({self.workflow_id!r})"

    async def get_result(self) -> R:
        """Wait until the workflow has ended; return what it returned, raise what it raised.

        A cancelled workflow raises `WorkflowCancelledError`, an unknown one `WorkflowNotFoundError`.
        A parked workflow has not ended: this waits until it was resumed and has come to its end.
        """
        run = self._run
        if run is not None and not isinstance(calling_context(self._database), WorkflowContext):
            # Of a run in this process the end is heard as soon as it is committed, and need not be asked for.
            listener = run.listen()
            try:
                await listener
            finally:
                run.listen_no_more(listener)
            if (outcome := run.outcome) is not None:
                return cast("R", _value(self.workflow_id, outcome.output, outcome.error, self._result_type))
        return cast("R", await _result(self._database, self.workflow_id, self._result_type))

    async def get_status(self) -> WorkflowStatus:
        """How the workflow stands now. Raises `WorkflowNotFoundError` when there is none of this id."""
        return await get_status(self._database, self.workflow_id)


async def _result(database: Database, workflow_id: str, declared: Any) -> Any:
    here = calling_context(database)
    if isinstance(here, WorkflowContext):
        step = Step(here, "get_result", workflow_id)
        done = await step.perform(AWAIT_RESULT, [(*step.columns, workflow_id)], watch=[end_key(workflow_id)])
        return await step.decode_or_reject(done, lambda text: values.decode(text, declared, what=_what(workflow_id)))
    async with aclosing(database.changes(end_key(workflow_id))) as changes:
        async for _ in changes:
            answer = await database.call(
                RESULT, [(workflow_id,)], partition=workflow_id, retry_forever=here is not None
            )
            _, status, output, error = answer[0]
            if status is None:
                raise WorkflowNotFoundError(workflow_id)
            if status == "CANCELLED":
                raise WorkflowCancelledError(workflow_id)
            if status in ("SUCCESS", "ERROR"):
                return _value(workflow_id, output, error, declared)
    raise AssertionError("A waiting loop ends only by returning.")


def _value(workflow_id: str, output: str | None, error: str | None, declared: Any) -> Any:
    """What a workflow returned; what it raised is raised."""
    if error is not None:
        StepResult(output, error, of=f"workflow {workflow_id!r}").value()
    return values.decode(output, declared, what=_what(workflow_id))


def _what(workflow_id: str) -> str:
    return f"The result of workflow {workflow_id!r}"


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
                step=step, verb=verb, key=key, output=values.show(output), error=values.show(error),
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
        fields[name] = values.show(fields[name])
    return WorkflowStatus(**fields)
