"""`DBOS`: the front door. Each verb is one line into the room where its story is told."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from dbos_async._lifecycle.runtime import Runtime
from dbos_async._lifecycle.signals import SigtermHandler
from dbos_async._messaging.verbs import Conversation
from dbos_async._runs import sleep
from dbos_async._runs.context import ContextProperty, StepContext, calling_context, in_workflow
from dbos_async._workflows.start import Workflow, database
from dbos_async._workflows.step_functions import StepDecorator
from dbos_async._workflows.verbs import Management
from dbos_async.errors import InvalidArgumentError, LaunchError
from dbos_async.keys import check_int, check_key, check_seconds

P = ParamSpec("P")
R = TypeVar("R")


class DBOS(Conversation, Management):
    """One launched application: ``async with DBOS("postgresql://…"):`` connects, migrates, listens and takes over what is left.

    Without a URL it uses ``$DBOS_DATABASE_URL``, else starts the embedded Postgres in ``.dbos_async/``. One DBOS is launched in
    a process at a time; its verbs are reached through the class or the instance alike. ``max_running`` bounds how many workflows
    run here at a time, not counting those that wait; ``max_payload_bytes`` bounds the JSON of each message, event, stream value,
    argument list and result that is stored from here. Leaving the block lets running steps finish (up to
    ``drain_seconds``), stops the runs and gives their workflows back; so does a SIGTERM that the program does not handle itself.

    Example:
        ```python
        async with DBOS():
            handle = await DBOS.start_workflow(checkout, "order-17")
            print(await handle.get_result())
        ```
    """

    workflow_id: ContextProperty = ContextProperty(
        lambda here: here.run.workflow_id, "The id of the workflow that asks, None outside of workflows."
    )
    step_id: ContextProperty = ContextProperty(
        lambda here: here.path if isinstance(here, StepContext) else None,
        "The path of the step that asks (4, or 4.1.2 in a task of its own), None outside of steps.",
    )

    def __init__(
        self,
        url: str | None = None,
        *,
        executor_id: str | None = None,
        application_version: str | None = None,
        max_running: int = 1000,
        max_payload_bytes: int = 8 * 2**20,
        migrate: bool = True,
        connect_timeout_seconds: float = 30.0,
        drain_seconds: float = 10.0,
    ) -> None:
        if executor_id is not None:
            check_key(executor_id, "executor_id")
        check_int(max_running, 1, "max_running")
        check_int(max_payload_bytes, 1, "max_payload_bytes")
        self._runtime = Runtime(
            url,
            executor_id=executor_id,
            application_version=application_version,
            max_running=max_running,
            max_payload_bytes=max_payload_bytes,
            migrate=migrate,
            connect_timeout_seconds=connect_timeout_seconds,
            drain_seconds=drain_seconds,
        )
        self._sigterm_handler = SigtermHandler()

    async def __aenter__(self) -> Self:
        self._sigterm_handler.install()
        try:
            return await self._open()
        except BaseException as error:
            self._sigterm_handler.leave(error)
            raise

    async def _open(self) -> Self:
        global _current
        if _current is not None:
            raise LaunchError("DBOS is launched already: shut it down before launching another in this process.")
        _current = self
        try:
            await self._runtime.open()
        except BaseException:
            _current = None
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        global _current
        try:
            await self._runtime.close()
        finally:
            if _current is self:
                _current = None
            self._sigterm_handler.leave(error)

    @staticmethod
    async def launch(
        url: str | None = None,
        *,
        executor_id: str | None = None,
        application_version: str | None = None,
        max_running: int = 1000,
        max_payload_bytes: int = 8 * 2**20,
        migrate: bool = True,
        connect_timeout_seconds: float = 30.0,
        drain_seconds: float = 10.0,
    ) -> DBOS:
        """Launch where a context manager does not fit; `DBOS.shutdown` is its end, and signals are the program's affair."""
        dbos = DBOS(
            url,
            executor_id=executor_id,
            application_version=application_version,
            max_running=max_running,
            max_payload_bytes=max_payload_bytes,
            migrate=migrate,
            connect_timeout_seconds=connect_timeout_seconds,
            drain_seconds=drain_seconds,
        )
        return await dbos._open()

    @staticmethod
    async def shutdown() -> None:
        """Stop the runs, give their workflows back, close everything. Nothing to do when nothing is launched."""
        if _current is not None:
            await _current.__aexit__(None, None, None)

    # Workflows and steps

    @staticmethod
    def workflow(
        name: str | None = None, max_recovery_attempts: int = 50
    ) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Workflow[P, R]]:
        """Register an ``async def`` as a workflow: called, it runs durably and continues after its last recorded step.

        ``name`` (default: its qualified name) is how it is found again after a restart. When executors die under a workflow
        more than ``max_recovery_attempts`` times in a row without a new step, it is parked.
        """
        if callable(name):
            raise InvalidArgumentError("@DBOS.workflow needs its parentheses: write @DBOS.workflow().")
        return lambda function: Workflow(function, name, max_recovery_attempts)

    @staticmethod
    def step(
        name: str | None = None,
        retries_allowed: bool = False,
        max_attempts: int = 3,
        interval_seconds: float = 1.0,
        backoff_rate: float = 2.0,
        timeout_seconds: float | None = None,
    ) -> StepDecorator:
        """Register an ``async def`` or ``def`` as a step: its result or exception is recorded and not computed again.

        With ``retries_allowed`` it is tried up to ``max_attempts`` times, with pauses that start at ``interval_seconds`` and grow
        by ``backoff_rate``; the last exception is the step's. Each attempt may take ``timeout_seconds`` (``None``: as long as it
        takes), then it raises `StepTimeoutError`. A ``def`` runs in a thread and is awaited like any other step.
        """
        if callable(name):
            raise InvalidArgumentError("@DBOS.step needs its parentheses: write @DBOS.step().")
        check_int(max_attempts, 1, "max_attempts")
        check_seconds(interval_seconds, "interval_seconds")
        check_seconds(timeout_seconds)
        return StepDecorator(
            name, max_attempts if retries_allowed else 1, interval_seconds, backoff_rate, timeout_seconds
        )

    @staticmethod
    async def sleep(seconds: float) -> None:
        """Sleep durably (workflows only): until ``seconds`` after the first time, by the database's clock, whatever restarts."""
        checked = check_seconds(seconds, "seconds")
        if checked is None:
            raise InvalidArgumentError("seconds must be a finite number: a workflow cannot sleep for ever.")
        await sleep.sleep(in_workflow(calling_context(database()), "sleep"), checked)


_current: DBOS | None = None
