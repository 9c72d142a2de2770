"""Writing in the name of a caller: as a step of its own, inside the step that is under way, or outside of workflows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, overload

from dbos_async._database.calls import Call, Observer, Row
from dbos_async._database.database import Database
from dbos_async._database.statement import Statement
from dbos_async._runs.context import Context, StepContext, WorkflowContext, check_live
from dbos_async._runs.step import Step, StepResult
from dbos_async._runs.transaction import execute_inside
from dbos_async.errors import InvalidValueError

Caller = Step | StepContext | None
"""What a write is a part of: a step of its own, the step that is under way, or no workflow at all."""


@overload
def caller_in(context: Context, verb: str, key: str) -> Step | StepContext: ...
@overload
def caller_in(context: Context | None, verb: str, key: str) -> Caller: ...
def caller_in(context: Context | None, verb: str, key: str) -> Caller:
    """The caller of a verb. In the body of a workflow the verb is a step of its own, and takes the next number."""
    return Step(context, verb, key) if isinstance(context, WorkflowContext) else context


def caller_columns(caller: Caller) -> tuple[str | None, int | None, str | None, int | None]:
    """The columns that name the caller: a step has a number, the inside of a step has none, an outside caller has no workflow."""
    if isinstance(caller, Step):
        return caller.columns
    if caller is None:
        return None, None, None, None
    return caller.run.workflow_id, caller.run.attempt, None, None


def call_by(
    caller: Caller,
    statement: Statement,
    rows: Sequence[Row],
    about: str,
    size: int = 0,
    wakes: Sequence[bytes] = (),
    observer: Observer | None = None,
) -> Call:
    """A call in the name of the caller, not executed yet; ``about`` is the workflow that an outside call is about."""
    if caller is None:
        return Call(statement, rows, about, size, wakes, observer)
    return Call(statement, rows, caller.run.partition, size, wakes, observer, retry_forever=True)


def issue(
    database: Database,
    caller: Caller,
    call: Call,
    *,
    verb: str,
    connection: Any = None,
    invalid: InvalidValueError | None = None,
    after: Callable[[], Awaitable[None]] | None = None,
) -> Awaitable[StepResult]:
    """Execute the call for its caller; with ``connection`` as a part of the transaction that is open there.

    In a run it is executed once ``after`` has returned.

    An ``invalid`` value becomes the recorded error of a step, and is raised at any other caller.
    """
    # No coroutine of its own: one fewer for each call.
    if isinstance(caller, Step):
        return caller.perform(call, invalid, after)
    if caller is not None:
        check_live(caller, verb)
    if invalid is not None:
        raise invalid
    return _issue_without_step(database, caller, call, verb, connection, after)


async def _issue_without_step(
    database: Database,
    caller: StepContext | None,
    call: Call,
    verb: str,
    connection: Any,
    after: Callable[[], Awaitable[None]] | None,
) -> StepResult:
    if connection is not None:
        records = await execute_inside(connection, call.statement, call.rows)
    elif caller is None:
        records = await database.execute(call)
    else:
        with caller.run.inside(verb):
            if caller.run.stopped is not None:
                await caller.run.halt(caller.run.stopped)
            if after is not None:
                await after()
            records = await database.execute(call)
            if records[0]["outcome"] == "lost":
                await caller.run.stop_as_lost()
    first = records[0]
    if caller is not None and first["outcome"] == "lost":  # in the user's transaction
        await caller.run.stop_as_lost()
    return StepResult(first["output"], first["error"])
