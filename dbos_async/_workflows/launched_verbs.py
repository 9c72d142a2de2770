"""What `DBOS` adds to the verbs of a client: start a workflow in this process, sleep in one, and ask for what a replay repeats."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar, overload
from uuid import UUID

from dbos_async._checks import check_moment, check_seconds
from dbos_async._runs import moments, patched, sleep
from dbos_async._runs.context import calling_context, in_workflow
from dbos_async._workflows import start
from dbos_async._workflows.continue_as_new import continue_as_new
from dbos_async._workflows.handle import WorkflowHandle
from dbos_async._workflows.registry import find, registered
from dbos_async._workflows.run_step import run_step
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

        `SetWorkflowID` gives it an id, `SetStartDelay` lets it begin later. If a workflow of that id exists, none is started: the
        handle is of the first one, and its arguments count. Without a free slot (``max_running``) any live executor that knows the
        workflow runs it.

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

        Raises `InvalidArgumentError` when ``function`` is no step, `InvalidCallError` when it does not take the arguments, and
        `WrongPlaceError` outside workflows.

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

    @overload
    async def run_step(
        self, name: str, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def run_step(self, name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def run_step(self, name: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function as a step, without a decorator: a workflow records its result or exception under ``name``.

        The function may be an ``async def``, or a ``def`` or lambda, which runs in a thread; if that returns a coroutine, it is
        awaited. The result comes back as the type that the function is annotated with. A replay compares the name alone. In steps
        and outside workflows it is a plain call. For retries and limits make it a step: ``DBOS.step(name=…, retries_allowed=True)``
        also takes a function that is not yours.

        Raises `InvalidArgumentError` when ``name`` cannot be used, or ``function`` is none or is a step or workflow already, and
        `RegistrationError` when its result is annotated with a type that has no JSON.

        Example:
            ```python
            async def charge(cents: int, *, card: str) -> str:
                return f"{card} paid {cents} cents"

            @DBOS.workflow()
            async def checkout() -> str:
                return await DBOS.run_step("charge", charge, 1250, card="a visa")

            assert await checkout() == "a visa paid 1250 cents"
            ```
        """
        return await run_step(name, function, args, kwargs)

    async def continue_as_new(self, /, *args: Any, **kwargs: Any) -> NoReturn:
        """Begin this workflow anew, with these arguments (in the function of a workflow only). The call does not return.

        In one transaction the next *generation* of the workflow gets its arguments, and the steps of this one go, with the messages
        that they have received. The id stays, and so do messages that were not received, in their order, events, streams, the
        deadline, children, and everybody who waits for any of this. So a workflow can last for years, and its rows stay few.

        An exception, which is no ``Exception``, takes the call out of the function: ``finally`` blocks and context managers run,
        and their steps are the last ones of this generation. Code that swallows it and returns continues as new all the same; an
        exception that is raised instead ends the workflow. Tasks that the function has left running come to their end, and a
        message that such a task is just receiving stays in the queue.

        In ``with SetApplicationVersion("2"):`` the next generation runs in executors of that version. A received message with an
        idempotency key, and an answered question, are kept through the next generation, a question also as long as a workflow waits
        for its answer, and a message that was rejected for good.

        Raises `WrongPlaceError` in steps, in tasks that the workflow has started and outside workflows, `InvalidCallError` when
        the function does not take the arguments, and `InvalidValueError` when they are not JSON, are too large or do not fit their
        types. Then nothing has happened.

        Example:
            ```python
            @DBOS.workflow()
            async def counter(count: int) -> int:
                for _ in range(2):  # a real one would take some thousands
                    count += await DBOS.recv("add")
                if count < 10:
                    await DBOS.continue_as_new(count)
                return count

            handle = await DBOS.start_workflow(counter, 0)
            for _ in range(5):
                await DBOS.send(handle.workflow_id, 3, "add")
            assert await handle.get_result() == 12
            ```
        """
        await continue_as_new(self._database, args, kwargs)

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

    async def sleep_until(self, moment: datetime) -> None:
        """Sleep durably (workflows only): until ``moment``, by the clock of the database.

        A moment that has passed is recorded, too. Once the sleep has begun its end stands, whatever ``moment`` a replay names.

        Raises `InvalidArgumentError` unless ``moment`` is a datetime with a time zone, and `WrongPlaceError` outside workflows.

        Example:
            ```python
            @DBOS.workflow()
            async def remind() -> str:
                await DBOS.sleep_until(await DBOS.now() + timedelta(seconds=0.2))
                return "It is time."

            assert await remind() == "It is time."
            ```
        """
        checked = check_moment(moment, "moment")
        if checked is None:
            raise InvalidArgumentError("moment must be a datetime with a time zone: a workflow cannot sleep for ever.")
        await sleep.sleep_until(in_workflow(calling_context(self._database), "sleep_until"), checked)

    async def now(self) -> datetime:
        """The time in UTC, by the clock of the database. In a workflow it is recorded: a replay is told the same time.

        In steps and outside workflows it is asked for each time, and raises `DatabaseUnavailableError` there when the database
        cannot be reached.

        Example:
            ```python
            @DBOS.workflow()
            async def greet() -> str:
                return "Good morning" if (await DBOS.now()).hour < 12 else "Hello"

            assert await greet() in ("Good morning", "Hello")
            ```
        """
        return await moments.now(self._database)

    async def random(self) -> float:
        """A random number of at least 0 and below 1. In a workflow it is recorded: a replay is given the same one.

        Example:
            ```python
            @DBOS.workflow()
            async def toss() -> str:
                return "heads" if await DBOS.random() < 0.5 else "tails"

            assert await toss() in ("heads", "tails")
            ```
        """
        return await moments.random_number(self._database)

    async def uuid(self) -> UUID:
        """A random UUID. In a workflow it is recorded: a replay is given the same one, for instance as a key of another system.

        Example:
            ```python
            @DBOS.workflow()
            async def order() -> str:
                return f"order-{await DBOS.uuid()}"

            assert len(await order()) == 42
            ```
        """
        return await moments.random_uuid(self._database)

    def patched(self, name: str) -> bool:
        """Whether the calling workflow goes the way of new code (workflows only). It is not awaited.

        True for workflows that reach the first call of this ``name`` first, false for those that an earlier release of the code
        has taken past it. The first call answers for the whole workflow, in all of its tasks, and a replay is told the same.
        ``list_workflows(without_patch=name)`` shows which workflows may still need the old way.

        Raises `WrongPlaceError` in steps and outside workflows, and `InvalidArgumentError` when ``name`` is no text of 1 to 512
        characters.

        Example:
            ```python
            @DBOS.step()
            async def ask_for_vat() -> str:
                return "DE123"

            @DBOS.workflow()
            async def invoice() -> str | None:
                vat = None
                if DBOS.patched("ask-for-vat"):
                    vat = await ask_for_vat()
                return vat

            assert await invoice() == "DE123"
            ```
        """
        return patched.patched(self._database, name)
