"""Writing in the name of a caller: as a step of its own, inside the step that is under way, or outside of workflows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, overload

from dbos_async._database.calls import Call, Observer, Row
from dbos_async._database.database import Database
from dbos_async._database.statement import Statement
from dbos_async._runs.context import Context, StepContext, WorkflowContext, check_live
from dbos_async._runs.step import Step
from dbos_async._runs.step_result import StepResult
from dbos_async._runs.transaction import execute_inside, stop_as_lost_inside
from dbos_async.errors import InvalidValueError

if TYPE_CHECKING:
    from dbos_async._telemetry.acts import Act


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


def is_step(row: Row) -> bool:
    """Whether the row of a call, which begins with these columns, is that of a step of its own."""
    return row[3] is not None


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
    call: Call | Callable[[], Call],
    *,
    verb: str,
    connection: Any = None,
    invalid: InvalidValueError | None = None,
    act: Act | None = None,
) -> Awaitable[StepResult]:
    """Execute the call for its caller; with ``connection`` as a part of the transaction that is open there.

    An ``invalid`` value becomes the recorded error of a step, and is raised at any other caller. The call may be made only when the
    step is known to be no replay. ``act`` is told of all that is none.
    """
    if act is not None:
        return _issue_told(act, database, caller, call, verb, connection, invalid)
    # No coroutine of its own: one fewer for each call.
    if isinstance(caller, Step):
        return caller.perform(call, invalid)
    if caller is not None:
        check_live(caller, verb)
    if invalid is not None:
        raise invalid
    return _issue_without_step(database, caller, call if isinstance(call, Call) else call(), verb, connection)


async def _issue_told(
    act: Act,
    database: Database,
    caller: Caller,
    call: Call | Callable[[], Call],
    verb: str,
    connection: Any,
    invalid: InvalidValueError | None,
) -> StepResult:
    with act:
        if not isinstance(caller, Step):
            act.begin()
        elif isinstance(call, Call):
            made = call
            call = act.starting(lambda: made)
        else:
            call = act.starting(call)
        result = await issue(database, caller, call, verb=verb, connection=connection, invalid=invalid)
        result.value()  # an error that is recorded is one of the act
        return result


async def _issue_without_step(
    database: Database, caller: StepContext | None, call: Call, verb: str, connection: Any
) -> StepResult:
    if connection is not None:
        records = await execute_inside(database.names, connection, call.statement, call.rows)
    elif caller is None:
        records = await database.execute(call)
    else:
        with caller.run.inside(verb):
            if caller.run.stopped is not None:
                await caller.run.halt(caller.run.stopped)
            records = await database.execute(call)
            if records[0]["outcome"] == "lost":
                await caller.run.stop_as_lost()
    first = records[0]
    if caller is not None and first["outcome"] == "lost":  # in the user's transaction
        await stop_as_lost_inside(caller.run, "the transaction")
    return StepResult(first["output"], first["error"])
