"""The handle of a workflow: ask for its status, or wait for its result."""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar, cast

from dbos_async._checks import check_loop
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._database.wakeups import end_key
from dbos_async._runs.context import WorkflowContext, calling_context
from dbos_async._runs.run import RunEnd
from dbos_async._runs.step import Step, StepResult
from dbos_async._runs.waiting import wait
from dbos_async._serialization.values import decode_value
from dbos_async._workflows.status import WorkflowStatus, get_status
from dbos_async.errors import WorkflowCancelledError, WorkflowNotFoundError

R = TypeVar("R")

with load(__name__) as sql:
    RESULT: Final = sql.statement("RESULT")
    AWAIT_RESULT: Final = sql.statement("AWAIT_RESULT")


class WorkflowHandle(Generic[R]):
    """One workflow, by its ``workflow_id``: ask for its status, or wait for its result. Starting a workflow returns a handle."""

    __slots__ = ("_database", "_end", "_result_type", "workflow_id")

    def __init__(self, database: Database, workflow_id: str, result_type: Any = Any, end: RunEnd | None = None) -> None:
        self._database = database
        self._result_type = result_type
        self._end = end
        self.workflow_id: str = workflow_id

    def __repr__(self) -> str:
        return f"WorkflowHandle({self.workflow_id!r})"

    async def get_result(self) -> R:
        """Wait until the workflow has ended; return what it returned, raise what it raised.

        A parked workflow has not ended: this waits until it has been resumed and has ended. Raises `WorkflowCancelledError` when
        the workflow was cancelled, and `WorkflowNotFoundError` when it does not exist.

        Example:
            ```python
            @DBOS.workflow()
            async def fails() -> None:
                raise ValueError("no such item")

            handle = await DBOS.start_workflow(fails)
            try:
                await handle.get_result()
            except ValueError as error:
                assert str(error) == "no such item"
            ```
        """
        database, end = self._in_this_loop(), self._end
        if end is not None and not isinstance(calling_context(database), WorkflowContext):
            # A run in this process reports its end as soon as that is committed, so the database need not be asked.
            outcome = await end.wait()
            if outcome is not None:
                return cast("R", _value(self.workflow_id, outcome.output, outcome.error, self._result_type))
        return cast("R", await _result(database, self.workflow_id, self._result_type))

    async def get_status(self) -> WorkflowStatus:
        """How the workflow stands now. Raises `WorkflowNotFoundError` when it does not exist.

        Example:
            ```python
            @DBOS.workflow()
            async def waits() -> None:
                await DBOS.recv(timeout_seconds=None)

            handle = await DBOS.start_workflow(waits)
            assert (await handle.get_status()).status == "PENDING"
            ```
        """
        return await get_status(self._in_this_loop(), self.workflow_id)

    def _in_this_loop(self) -> Database:
        check_loop(
            self._database.loop, "This handle belongs to another event loop: use it in the one that it was made in."
        )
        return self._database


async def _result(database: Database, workflow_id: str, declared: Any) -> Any:
    context = calling_context(database)
    if isinstance(context, WorkflowContext):
        step = Step(context, "get_result", workflow_id)
        with step.awaits_result():
            result = await wait(step, AWAIT_RESULT, (*step.columns, workflow_id), (end_key(workflow_id),))
        return await step.decode_or_reject(result, lambda text: decode_value(text, declared, what=_what(workflow_id)))
    with database.changes(end_key(workflow_id)) as changes:
        async for _ in changes:
            answer = await database.call(
                RESULT, [(workflow_id,)], partition=workflow_id, retry_forever=context is not None
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
    return decode_value(output, declared, what=_what(workflow_id))


def _what(workflow_id: str) -> str:
    return f"The result of workflow {workflow_id!r}"
