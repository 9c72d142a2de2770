"""The handle of a workflow: ask for its status, or wait for its result."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from dbos_async._checks import check_flag, check_loop, check_seconds
from dbos_async._database.calls import Call, Observer, Result
from dbos_async._database.change_keys import end_key
from dbos_async._database.database import Database
from dbos_async._database.news import EndNews
from dbos_async._database.sql import load
from dbos_async._runs.awaited import Awaited
from dbos_async._runs.context import WorkflowContext, calling_context
from dbos_async._runs.run import Outcome, RunEnd
from dbos_async._runs.step import Step
from dbos_async._runs.step_result import StepResult
from dbos_async._runs.waiting import wait
from dbos_async._serialization.values import decode_value
from dbos_async._workflows.status import PARKED, WorkflowStatus, get_status
from dbos_async.errors import (
    InvalidArgumentError,
    ResultTimeoutError,
    WorkflowCancelledError,
    WorkflowNotFoundError,
    WorkflowParkedError,
)

log = logging.getLogger("dbos_async")

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

    async def get_result(self, *, timeout_seconds: float | None = None, wait_if_parked: bool = False) -> R:
        """Wait until the workflow has ended; return what it returned, raise what it raised.

        Raises `WorkflowCancelledError` when the workflow was cancelled, `WorkflowNotFoundError` when it does not exist,
        `ResultTimeoutError` when it has not ended after ``timeout_seconds`` (``None``: no limit), and `WorkflowParkedError` when it
        is parked. A parked workflow has not ended: with ``wait_if_parked`` this waits until it has been resumed and has ended.

        In a workflow the outcome is recorded, and the time limit counts from the first call, by the clock of the database.

        Example:
            ```python
            @DBOS.workflow()
            async def fails() -> None:
                raise ValueError("no such item")

            handle = await DBOS.start_workflow(fails)
            try:
                await handle.get_result(timeout_seconds=60)
            except ValueError as error:
                assert str(error) == "no such item"
            ```
        """
        seconds, wait_if_parked = check_seconds(timeout_seconds), check_flag(wait_if_parked, "wait_if_parked")
        database, end = self._in_this_loop(), self._end
        context = calling_context(database)
        if isinstance(context, WorkflowContext):
            return cast("R", await self._result_in_workflow(context, seconds, wait_if_parked))
        give_up_at = None if seconds is None else database.loop.time() + seconds
        if end is not None:
            # A run in this process reports its end as soon as that is committed, so the database need not be asked.
            outcome = await self._end_within(end, give_up_at, seconds)
            if outcome is not None:
                return cast("R", self._value(outcome.output, outcome.error))
        return cast("R", await self._result(give_up_at, seconds, wait_if_parked, retry_forever=context is not None))

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

    if TYPE_CHECKING:

        def _brings(self) -> WorkflowHandle[R]: ...

    def __dbos_wait__(self, database: Any) -> Any:
        """For `DBOS.wait_first`."""
        if database is not self._database:
            raise InvalidArgumentError("This handle is of another DBOS or DBOSClient: wait for it where it was made.")
        return Awaited(
            kind="workflow", name=f"workflow {self.workflow_id}", id=self.workflow_id, keys=(end_key(self.workflow_id),),
            read=lambda _, __: self,
        )  # fmt: skip

    def _in_this_loop(self) -> Database:
        check_loop(
            self._database.loop, "This handle belongs to another event loop: use it in the one that it was made in."
        )
        return self._database

    async def _result_in_workflow(self, context: WorkflowContext, seconds: float | None, wait_if_parked: bool) -> Any:
        workflow_id, declared = self.workflow_id, self._result_type
        step = Step(context, "get_result", workflow_id)
        row = (*step.columns, workflow_id, seconds, wait_if_parked)
        observer = _NameParked() if wait_if_parked else None
        with step.awaits_result():
            result = await wait(step, AWAIT_RESULT, row, (end_key(workflow_id),), observer=observer)
        return await step.decode_or_reject(result, lambda text: decode_value(text, declared, what=_what(workflow_id)))

    async def _end_within(self, end: RunEnd, give_up_at: float | None, seconds: float | None) -> Outcome | None:
        if give_up_at is None or seconds is None:
            return await end.wait()
        limit = asyncio.timeout_at(give_up_at)
        try:
            async with limit:
                return await end.wait()
        except TimeoutError:
            if not limit.expired():
                raise
            raise ResultTimeoutError(self.workflow_id, seconds) from None

    async def _result(
        self, give_up_at: float | None, seconds: float | None, wait_if_parked: bool, *, retry_forever: bool
    ) -> Any:
        database, workflow_id = self._database, self.workflow_id
        parked: str | None = None
        attempt, is_first = sys.maxsize, True
        with database.changes(end_key(workflow_id), takes_updates=True) as changes:
            async for subscription in changes:
                told: list[EndNews] = subscription.take_updates()
                if told and not subscription.changed and told[-1].attempt >= attempt:
                    # Else it is the end of a run before the one that the last poll has seen.
                    status, output, error = told[-1].status, told[-1].output, told[-1].error
                else:
                    answer = await database.read(
                        RESULT,
                        [(workflow_id,)],
                        partition=workflow_id,
                        retry_forever=retry_forever,
                        is_enough=_has_ended,
                        may_lag=is_first,
                    )
                    _, status, output, error, attempt = answer[0]
                is_first = False
                if status is None:
                    raise WorkflowNotFoundError(workflow_id)
                if status == "CANCELLED":
                    raise WorkflowCancelledError(workflow_id)
                if status in ("SUCCESS", "ERROR"):
                    return self._value(output, error)
                if status in PARKED and not wait_if_parked:
                    raise WorkflowParkedError(workflow_id, status)
                parked = name_parked(workflow_id, status, parked)
                if give_up_at is not None and seconds is not None:
                    left = give_up_at - database.loop.time()
                    if left <= 0:
                        raise ResultTimeoutError(workflow_id, seconds)
                    subscription.poll_within(left)
        raise AssertionError("A waiting loop ends only by returning.")

    def _value(self, output: str | None, error: str | None) -> Any:
        """What the workflow returned; what it raised is raised."""
        if error is not None:
            StepResult(output, error, of=f"workflow {self.workflow_id!r}").value()
        return decode_value(output, self._result_type, what=_what(self.workflow_id))


def _has_ended(answer: Any) -> bool:
    """Whether the workflow has a result, which does not change any more."""
    return answer[0]["status"] in ("SUCCESS", "ERROR")


class _NameParked(Observer):
    """Says in the log that a workflow for which another one waits is parked."""

    __slots__ = ("_parked",)

    def __init__(self) -> None:
        self._parked: str | None = None

    def on_result(self, call: Call, result: Result) -> None:
        if result[0]["outcome"] == "wait":
            self._parked = name_parked(call.rows[0][4], result[0]["status"], self._parked)


def name_parked(workflow_id: str, status: str, named: str | None) -> str | None:
    """Say once that a workflow is parked for which somebody waits; the status that has been named by now."""
    if status not in PARKED:
        return None
    if status != named:
        log.warning(
            "Workflow %r is parked (%s), and its result is awaited: it goes on once it is resumed.", workflow_id, status
        )
    return status


def _what(workflow_id: str) -> str:
    return f"The result of workflow {workflow_id!r}"
