"""What `DBOS` adds to the verbs of a client: start a workflow in this process, and sleep in one."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from dbos_async._checks import check_seconds
from dbos_async._runs import sleep
from dbos_async._runs.context import calling_context, in_workflow
from dbos_async._workflows import start
from dbos_async._workflows.handle import WorkflowHandle
from dbos_async._workflows.registry import find, registered
from dbos_async._workflows.start import Workflow
from dbos_async._workflows.start_step import StepHandle, start_step
from dbos_async._workflows.verbs import WorkflowVerbs
from dbos_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from dbos_async._runs.transaction import Connection

P = ParamSpec("P")
R = TypeVar("R")


class LaunchedWorkflowVerbs(WorkflowVerbs):
    """The verbs of `DBOS` for workflows: those of every caller, and those that need the launched executor."""

    def _result_type(self, name: str) -> Any:
        workflow = registered.get(name)
        return Any if workflow is None else workflow.signature.result_type

    @overload
    async def start_workflow(
        self, function: Workflow[..., R], /, *args: Any, connection: Connection, **kwargs: Any
    ) -> WorkflowHandle[R]: ...
    @overload
    async def start_workflow(
        self, function: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> WorkflowHandle[R]: ...
    async def start_workflow(self, function: Any, /, *args: Any, **kwargs: Any) -> WorkflowHandle[Any]:
        """Start a workflow and return its handle once the start is committed; it runs here, in the background.

        `SetWorkflowID` gives it an id. If a workflow of that id exists, none is started: the handle is of the first one, and its
        arguments count. Without a free slot (``max_running``) any live executor that knows the workflow runs it.

        With ``connection=``, an asyncpg connection, the start is a part of the transaction that is open there: a live executor
        that knows the workflow begins it once that commits. Type checkers then do not check the arguments.

        Raises `WorkflowConflictError` when the id belongs to a workflow of another function, `InvalidValueError` when the
        arguments are not JSON, are too large or do not fit their types, and `RegistrationError` when ``function`` is no workflow.

        Example:
            ```python
            @DBOS.workflow()
            async def checkout(item: str, *, cents: int) -> str:
                return f"{item} for {cents} cents"

            with SetWorkflowID("order-17"):
                handle = await DBOS.start_workflow(checkout, "widget", cents=1250)
            assert await handle.get_result() == "widget for 1250 cents"
            ```
        """
        return await start.start_here(find(function), args, kwargs)

    async def start_step(
        self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> StepHandle[R]:
        """Start a step and go on (workflows only): the handle is waited for, asked for the result, or cancelled on record.

        The step is recorded as one that is called, in a task of its own. When the workflow ends before its step, the step is
        cancelled without a record. An error of the step comes from `StepHandle.get_result`; nothing else raises it.

        Raises `InvalidArgumentError` when ``function`` is no step, and `WrongPlaceError` outside workflows.

        Example:
            ```python
            STOP = Topic("stop", str)

            @DBOS.step()
            async def think(question: str) -> str:
                await asyncio.sleep(3600)
                return "42"

            @DBOS.workflow()
            async def answer() -> str:
                thought = await DBOS.start_step(think, "everything")
                if isinstance(await DBOS.wait_first(STOP, thought), Envelope):
                    await thought.cancel()
                    return "stopped"
                return await thought.get_result()

            handle = await DBOS.start_workflow(answer)
            await DBOS.send(handle.workflow_id, "enough", STOP)
            assert await handle.get_result() == "stopped"
            ```
        """
        return await start_step(self._database, function, *args, **kwargs)

    async def sleep(self, seconds: float) -> None:
        """Sleep durably (workflows only): until ``seconds`` after the first call, by the clock of the database.

        A restart waits only for the rest. Raises `InvalidArgumentError` unless ``seconds`` is a finite number of at least 0, and
        `WrongPlaceError` outside workflows.

        Example:
            ```python
            @DBOS.workflow()
            async def remind() -> str:
                await DBOS.sleep(0.2)
                return "It is time."

            assert await remind() == "It is time."
            ```
        """
        checked = check_seconds(seconds, "seconds")
        if checked is None:
            raise InvalidArgumentError("seconds must be a finite number: a workflow cannot sleep for ever.")
        await sleep.sleep(in_workflow(calling_context(self._database), "sleep"), checked)
