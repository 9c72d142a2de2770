"""Starting workflows, in this process or for another one.

A start is one statement that makes the workflow's row, together with the parent's step when a workflow starts it.
With an owner it begins here and now. Without an owner, an executor that knows its name and has a free slot claims it.
"""

from __future__ import annotations

import functools
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Self, TypeVar, cast, overload

from dbos_async._database.calls import Call, Observer, Result, Row
from dbos_async._database.change_keys import UNOWNED_KEY
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._executor import launched, tracing
from dbos_async._executor.executor import Executor
from dbos_async._runs.context import StepContext, WorkflowContext, calling_context, check_live, run_of_body
from dbos_async._runs.issue import call_by, caller_columns, caller_in, issue
from dbos_async._runs.run import RunEnd
from dbos_async._runs.start_options import allowed_time, assigned, start_delay, wanted_version
from dbos_async._runs.step import Step
from dbos_async._runs.transaction import check_connection, check_may_wait, connection_for, is_connection
from dbos_async._serialization.ids import ordered_id
from dbos_async._serialization.values import decode_value, size_error
from dbos_async._workflows import shapes
from dbos_async._workflows.handle import WorkflowHandle
from dbos_async._workflows.registry import RegisteredWorkflow

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
T = TypeVar("T")

with load(__name__) as sql:
    START_BY_ID: Final = sql.statement("START_BY_ID")
    START: Final = sql.statement("START", otherwise=START_BY_ID)
    START_CHILD: Final = sql.statement("START_CHILD")
    START_DELAYED: Final = sql.statement("START_DELAYED")


class Workflow(RegisteredWorkflow[P, R]):
    """A registered workflow. Awaited directly it runs durably: started, and waited for; inside a workflow as its child."""

    async def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        check_may_wait(self.name)
        handle = await start_here(self.found(), args, kwargs)
        # A parked child is repaired and resumed, and so its parent waits. Others hear of it.
        return cast("R", await handle.get_result(wait_if_parked=run_of_body(None) is not None))

    if TYPE_CHECKING:  # only methods have this (methods.py)

        @overload  # a class method
        def __get__(self: shapes.TakesClass[Q, R], instance: object, owner: type | None = None) -> Workflow[Q, R]: ...
        @overload  # a method
        def __get__(self: shapes.TakesObject[T, Q, R], instance: T, owner: type | None = None) -> Workflow[Q, R]: ...
        @overload  # a static method, or what the class itself has
        def __get__(self, instance: object, owner: type | None = None) -> Self: ...
        def __get__(self, instance: object, owner: type | None = None) -> Any: ...

    def __set_name__(self, owner: type, name: str) -> None:
        """It stands in a class. Under a ``@staticmethod`` this is not called."""
        shapes.check_in_class(self.__dict__["__wrapped__"], owner)


class StartOnCommit(Observer):
    """Begins the run when the start is committed, whether or not its caller still waits."""

    __slots__ = ("_executor", "_row", "end")

    def __init__(self, executor: Executor, row: Row) -> None:
        self._executor, self._row = executor, row
        self.end: RunEnd | None = None

    def on_result(self, call: Call, result: Result) -> None:
        # A start that is repeated after its result was lost knows the row that it had made.
        if result[0]["started"]:
            workflow_id, name, text, _, _, trace_parent, _, seconds_left, *_ = self._row
            attempt = result[0]["attempts"] + 1
            run = self._executor.begin(
                workflow_id, name, text, attempt, trace_parent=trace_parent, seconds_left=seconds_left
            )
            self.end = None if run is None else run.end


async def start(
    database: Database,
    name: str,
    text: str,
    result_type: Any,
    executor: Executor | None,
    connection: Any = None,
    client_version: str | None = None,
) -> WorkflowHandle[Any]:
    """Make a workflow's row, unless its id has one. It begins in this executor if that has a free slot and runs its version."""
    connection = connection_for(database, connection, "start_workflow")
    own_version = client_version if executor is None else executor.application_version
    version = wanted_version.get() or own_version
    begins_here = executor is not None and own_version in (None, version)
    # A start in the user's transaction may never be committed, so it has no owner: an executor claims it after the commit.
    delay = start_delay.get()
    begins_here = begins_here and connection is None and delay is None
    owner = executor.reserve() if executor is not None and begins_here else None
    try:
        context = calling_context(database)
        if connection is not None:
            check_connection(connection, context, "start_workflow")
        if isinstance(context, StepContext):
            check_live(context, "start_workflow")
        invalid = size_error(text, database.max_payload_bytes, f"The call of workflow {name!r}")
        if invalid is not None and not isinstance(context, WorkflowContext):
            raise invalid  # before the id of SetWorkflowID is used
        ticket = assigned.get()
        start_id = ordered_id()
        workflow_id = str(start_id) if ticket is None else ticket.use()
        key = None if owner else UNOWNED_KEY
        wakes = () if key is None else (key,)
        row: Row = (
            workflow_id, name, text, owner, version, tracing.trace_parent(), start_id, *allowed_time(), key,
        )  # fmt: skip
        on_commit = None if executor is None or owner is None else StartOnCommit(executor, row)
        caller = caller_in(context, "start_workflow", name)
        statement = START if ticket is None else START_BY_ID
        if delay is not None:
            statement, wakes = START_DELAYED, ()
            row = (*caller_columns(caller), None if caller is None else caller.path, *_of_delayed(row), delay)
        elif caller is not None:
            statement, row = START_CHILD, (*caller_columns(caller), caller.path, *row)
        call = call_by(caller, statement, (row,), workflow_id, len(text), wakes, on_commit)
        result = await issue(database, caller, call, verb="start_workflow", connection=connection, invalid=invalid)
        if delay is not None and database.local_executor_id is not None:
            database.alarm.ring_in(delay)
        if isinstance(caller, Step):
            child_id = await caller.decode_or_reject(result, functools.partial(_decode_id, name))
            return WorkflowHandle(database, child_id, result_type)
        result.value()
        return WorkflowHandle(database, workflow_id, result_type, None if on_commit is None else on_commit.end)
    finally:
        if executor is not None:
            executor.release(owner)


def _of_delayed(row: Row) -> Row:
    """The columns of a start without the owner and what is announced, which a delayed one does not have."""
    workflow_id, name, text, _, *others, _ = row
    return workflow_id, name, text, *others


def _decode_id(name: str, recorded: str | None) -> str:
    child_id: str = decode_value(recorded or "null", str, what=f"The recorded id of the started workflow {name!r}")
    return child_id


def start_here(
    workflow: RegisteredWorkflow[Any, Any], args: Any, kwargs: Any
) -> Coroutine[Any, Any, WorkflowHandle[Any]]:
    """Start a workflow in the launched executor; a start in a workflow is a step of it."""
    executor = launched.executor()
    connection, kwargs = split_connection(workflow, kwargs)
    text = workflow.signature.encode_call(args, kwargs)
    return start(executor.database, workflow.name, text, workflow.signature.result_type, executor, connection)


def split_connection(workflow: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The connection that a start was given, and the arguments of the workflow, which may have one of that name, too."""
    connection = kwargs.get("connection")
    if connection is None:
        return None, kwargs
    takes_one = isinstance(workflow, RegisteredWorkflow) and workflow.signature.takes("connection")
    if takes_one and not is_connection(connection):
        return None, kwargs
    return connection, {name: value for name, value in kwargs.items() if name != "connection"}
