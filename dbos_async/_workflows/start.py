"""Workflows: registered functions, and how one is started, by this process or for another.

A start is one statement that makes the workflow's row, together with the parent's step when a workflow starts it.
With an owner it begins here and now; without one, whoever knows its name and has room claims it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from threading import get_ident
from typing import Any, Final, Generic, ParamSpec, TypeVar, cast

from dbos_async._database.batches import Answer
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._database.wakeups import UNOWNED_KEY
from dbos_async._executor import tracing
from dbos_async._executor.executor import Executor
from dbos_async._runs.context import (
    Run,
    StepContext,
    WorkflowContext,
    allowed_seconds,
    assigned,
    calling_context,
    check_live,
)
from dbos_async._runs.step import Step, StepResult, caller_columns
from dbos_async._runs.transaction import call_inside, check_answer, check_connection, is_connection
from dbos_async._serialization import values
from dbos_async._serialization.ids import ordered_id
from dbos_async._serialization.signature import Signature, encode_plain_call
from dbos_async._workflows.handle import WorkflowHandle
from dbos_async.errors import LaunchError, RegistrationError, WrongPlaceError
from dbos_async.keys import check_key

log = logging.getLogger("dbos_async")

P = ParamSpec("P")
R = TypeVar("R")

with load(__name__) as sql:
    START_BY_ID: Final = sql.statement("START_BY_ID")
    START: Final = sql.statement("START", otherwise=START_BY_ID)
    START_CHILD: Final = sql.statement("START_CHILD")


class Workflow(Generic[P, R]):
    """A registered workflow. Awaited directly it runs durably: started, and waited for; inside a workflow as its child."""

    def __init__(self, function: Callable[P, Awaitable[R]], name: str | None, max_recovery_attempts: int) -> None:
        if not inspect.iscoroutinefunction(function):
            raise RegistrationError(
                f"@DBOS.workflow() decorates async functions, and {function!r:.100} is none: "
                "write 'async def' and @DBOS.workflow()."
            )
        functools.update_wrapper(self, function)
        self.name: str = check_key(name or function.__qualname__, "The name of a workflow")
        self.function = function
        self.signature: Signature = Signature(function)
        self.max_recovery_attempts = max_recovery_attempts
        known = registered.get(self.name)
        if known is not None and _place(known.function) != _place(function):
            raise RegistrationError(
                f"Two workflows are named {self.name!r} ({_place(known.function)} and {_place(function)}): "
                "give one of them another name with @DBOS.workflow(name=…)."
            )
        registered[self.name] = self

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return cast("R", await (await start_here(self, args, kwargs)).get_result())


class StartOnCommit:
    """A run that begins with the commit of its start, and not with the caller, who may have left."""

    __slots__ = ("_here", "_row", "run")

    def __init__(self, here: Executor, row: tuple[Any, ...]) -> None:
        self._here, self._row = here, row
        self.run: Run | None = None

    def __call__(self, answer: Answer) -> None:
        # A repeated call knows its own row.
        if answer[0]["started"]:
            workflow_id, name, text, _, _, trace_parent, _, seconds_left, _ = self._row
            first = answer[0]["attempts"] + 1
            self.run = self._here.begin(
                workflow_id, name, text, first, trace_parent=trace_parent, seconds_left=seconds_left
            )


registered: dict[str, Workflow[Any, Any]] = {}
"""Every workflow that this process knows, by its name."""


async def start(
    database: Database,
    name: str,
    text: str,
    result_type: Any,
    here: Executor | None,
    connection: Any = None,
) -> WorkflowHandle[Any]:
    """Make a workflow's row, unless there is one of its id. It begins ``here`` if that executor has room for it."""
    # One in the user's transaction may never be committed, so nobody owns it: whoever hears of the commit claims it.
    owner = here.reserve() if here is not None and connection is None else None
    try:
        caller = calling_context(database)
        if connection is not None:
            check_connection(connection, caller, "start_workflow")
        if not isinstance(caller, WorkflowContext) and caller is not None:
            check_live(caller, "start_workflow")
        invalid = values.too_large(text, database.max_payload_bytes, f"The call of workflow {name!r}")
        if invalid is not None and not isinstance(caller, WorkflowContext):
            raise invalid
        ticket = assigned.get()
        start_id = ordered_id()
        workflow_id = str(start_id) if ticket is None else ticket.use()
        trace_parent, timeout_seconds = tracing.trace_parent(), allowed_seconds.get()
        row: tuple[Any, ...] = (
            workflow_id, name, text, owner, here.application_version if here else None, trace_parent, start_id, timeout_seconds,
            None if owner else UNOWNED_KEY,
        )  # fmt: skip
        beginning = None if here is None or owner is None else StartOnCommit(here, row)
        step = Step(caller, "start_workflow", name) if isinstance(caller, WorkflowContext) else caller
        statement = START if ticket is None else START_BY_ID
        if step is not None:
            statement, row = START_CHILD, (*caller_columns(step), step.path, *row)
        wakes = () if owner else (UNOWNED_KEY,)
        if connection is not None:
            answer = await call_inside(connection, statement, [row])
            await check_answer(answer, caller if isinstance(caller, StepContext) else None)
            done = StepResult(answer[0]["output"], answer[0]["error"])
        elif isinstance(step, Step):
            done = await step.perform(
                statement, [row], size=len(text), wakes=wakes, answered=beginning, invalid=invalid
            )
            child_id = await step.decode_or_reject(done, functools.partial(_decode_id, name))
            return WorkflowHandle(database, child_id, result_type)
        else:
            retry_forever = step is not None
            call = database.call(
                statement,
                (row,),
                partition=workflow_id,
                size=len(text),
                wakes=wakes,
                retry_forever=retry_forever,
                answered=beginning,
            )
            answer = await call
            if step is not None and answer[0]["outcome"] == "lost":
                await step.run.stop_as_lost()
            done = StepResult(answer[0]["output"], answer[0]["error"])
        done.value()
        return WorkflowHandle(database, workflow_id, result_type, None if beginning is None else beginning.run)
    finally:
        if here is not None:
            here.release(owner)


def _decode_id(name: str, recorded: str | None) -> str:
    child_id: str = values.decode(recorded or "null", str, what=f"The recorded id of the started workflow {name!r}")
    return child_id


def start_here(workflow: Workflow[Any, Any], args: Any, kwargs: Any) -> Coroutine[Any, Any, WorkflowHandle[Any]]:
    """Start a workflow in the launched executor; a start in a workflow is a step of it."""
    here = executor()
    connection, kwargs = split_connection(workflow, kwargs)
    text = workflow.signature.encode_call(args, kwargs)
    return start(here.database, workflow.name, text, workflow.signature.result_type, here, connection)


def split_connection(workflow: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The connection that a start was given, and the arguments of the workflow, which may have one of that name, too."""
    connection = kwargs.get("connection")
    takes_one = isinstance(workflow, Workflow) and workflow.signature.takes("connection")
    if connection is None or (takes_one and not is_connection(connection)):
        return None, kwargs
    return connection, {name: value for name, value in kwargs.items() if name != "connection"}


def find(function: Any) -> Workflow[Any, Any]:
    """The registered workflow that somebody named by its function."""
    if isinstance(function, Workflow):
        return function
    raise RegistrationError(f"{function!r:.100} is not a workflow: decorate it with @DBOS.workflow().")


def call_by_name(function: Any, args: Iterable[Any], kwargs: dict[str, Any]) -> tuple[str, str, Any]:
    """The name, the stored call and the result type of a workflow that this process may know by its name only."""
    if isinstance(function, str):
        check_key(function, "The name of a workflow")
        return function, encode_plain_call(tuple(args), kwargs), Any
    workflow = find(function)
    return workflow.name, workflow.signature.encode_call(tuple(args), kwargs), workflow.signature.result_type


_launched: Executor | None = None


def set_launched(here: Executor | None) -> None:
    """Make an executor the one that the verbs of this process speak to."""
    global _launched
    _launched = here


def executor() -> Executor:
    """The launched executor of this process, if it may be used from here."""
    if _launched is None:
        raise LaunchError(
            "DBOS is not launched: write 'async with DBOS(...):' around your program, or await DBOS.launch(...)."
        )
    # One loop runs in a thread, so if it is its thread and that loop runs, it is that loop: cheaper than to ask which one it is.
    if (get_ident() != _launched.thread or not _launched.loop.is_running()) and _running_loop() is not _launched.loop:
        raise WrongPlaceError(
            "DBOS was launched in another event loop: call it from there, for example with anyio.from_thread.run(...)."
        )
    return _launched


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def database() -> Database:
    """The database of the launched executor."""
    return executor().database


def _place(function: Any) -> str:
    return f"{function.__module__}.{function.__qualname__}"
