"""The handle of a workflow: ask for its status, or wait for its result."""

from __future__ import annotations

from typing import Any, Generic, TypeVar, cast

from dbos_async._database.database import Database
from dbos_async._database.statement import Statement
from dbos_async._database.wakeups import end_key
from dbos_async._runs.context import WorkflowContext, calling_context
from dbos_async._runs.run import RunEnd
from dbos_async._runs.step import Step, StepResult
from dbos_async._runs.waiting import wait
from dbos_async._serialization.values import decode_value
from dbos_async._workflows.status import WorkflowStatus, get_status
from dbos_async.errors import WorkflowCancelledError, WorkflowNotFoundError

R = TypeVar("R")

RESULT = Statement(
    "RESULT",
    """
    select c.n, w.status, w.output, w.error
    from unnest($1::int[], $2::text[]) as c(n, id)
    left join lateral (
        select status, output, error from dbos_async.workflows where id = c.id limit 1
    ) as w on true
    """,
)

AWAIT_RESULT = Statement(
    "AWAIT_RESULT",
    """
    -- The same inside a workflow: the other's outcome is the outcome of this step.
    with calls as materialized (
        select c.*, coalesce(w.attempt = c.attempt and w.status = 'PENDING', false) as holds,
               s.verb as recorded_verb, s.key as recorded_key, s.output as recorded_output, s.error as recorded_error,
               t.output as target_output,
               case when t.status is null then json_build_object(
                        'type', 'dbos_async.errors:WorkflowNotFoundError', 'args', json_build_array(c.target_id))
                    when t.status = 'CANCELLED' then json_build_object(
                        'type', 'dbos_async.errors:WorkflowCancelledError', 'args', json_build_array(c.target_id))
                    else t.error end as target_error,
               t.status is null or t.status in ('SUCCESS', 'ERROR', 'CANCELLED') as ripe
        from unnest($1::int[], $2::text[], $3::bigint[], $4::text[], $5::int[], $6::text[])
            as c(n, workflow_id, attempt, branch, number, target_id)
        left join lateral (
            select attempt, status from dbos_async.workflows where id = c.workflow_id limit 1
        ) as w on true
        left join lateral (
            select verb, key, output, error from dbos_async.steps
            where workflow_id = c.workflow_id and branch = c.branch and number = c.number limit 1
        ) as s on true
        left join lateral (
            select status, output, error from dbos_async.workflows where id = c.target_id limit 1
        ) as t on true
    ),
    recorded as (
        insert into dbos_async.steps (workflow_id, branch, number, verb, key, output, error, completed_at)
        select workflow_id, branch, number, 'get_result', target_id, target_output, target_error, clock_timestamp()
        from calls where holds and recorded_verb is null and ripe
        order by workflow_id, branch, number
    )
    select n,
           case when not holds then 'lost' when recorded_verb is not null then 'recorded' when ripe then 'done' else 'wait' end
               as outcome,
           case when recorded_verb is not null then recorded_output else target_output end as output,
           case when recorded_verb is not null then recorded_error else target_error end as error,
           null::float8 as seconds_left, recorded_verb, recorded_key
    from calls
    """,
)


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
        end = self._end
        if end is not None and not isinstance(calling_context(self._database), WorkflowContext):
            # A run in this process reports its end as soon as that is committed, so the database need not be asked.
            outcome = await end.wait()
            if outcome is not None:
                return cast("R", _value(self.workflow_id, outcome.output, outcome.error, self._result_type))
        return cast("R", await _result(self._database, self.workflow_id, self._result_type))

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
        return await get_status(self._database, self.workflow_id)


async def _result(database: Database, workflow_id: str, declared: Any) -> Any:
    context = calling_context(database)
    if isinstance(context, WorkflowContext):
        step = Step(context, "get_result", workflow_id)
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
