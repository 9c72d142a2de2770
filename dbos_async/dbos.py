"""`DBOS`: the front door. Each verb is one line into the room where its story is told."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, cast, overload

from dbos_async import _control, _delete, _events, _fork, _messages, _sleep, _streams, _workflows, handle
from dbos_async._context import Here, StepBody, caller, in_workflow
from dbos_async._database import Database
from dbos_async._runtime import Runtime
from dbos_async._signals import Terminator
from dbos_async._step_functions import StepDecorator
from dbos_async._workflows import Workflow
from dbos_async.envelope import Envelope, SendMessage
from dbos_async.errors import InvalidArgumentError, LaunchError
from dbos_async.handle import WorkflowHandle, WorkflowStatus, WorkflowStep
from dbos_async.keys import Event, Stream, Topic, check_key, check_seconds, check_whole

P = ParamSpec("P")
R = TypeVar("R")


class DBOS:
    """One launched application: ``async with DBOS("postgresql://…"):`` connects, migrates, listens and takes over what is left.

    Without a URL it uses ``$DBOS_DATABASE_URL``, else starts the embedded Postgres in ``.dbos_async/``. One DBOS is launched in
    a process at a time; its verbs are reached through the class or the instance alike. ``max_running`` bounds how many workflows
    run here at a time, not counting those that wait. Leaving the block lets running steps finish (up to
    ``drain_seconds``), stops the runs and gives their workflows back; so does a SIGTERM that the program does not handle itself.

    Example:
        ```python
        async with DBOS():
            handle = await DBOS.start_workflow(checkout, "order-17")
            print(await handle.get_result())
        ```
    """

    workflow_id = Here(
        lambda here: here.run.workflow_id, "The id of the workflow that asks, None outside of workflows."
    )
    step_id = Here(
        lambda here: here.path if isinstance(here, StepBody) else None,
        "The path of the step that asks (4, or 4.1.2 in a task of its own), None outside of steps.",
    )

    def __init__(
        self,
        url: str | None = None,
        *,
        executor_id: str | None = None,
        application_version: str | None = None,
        max_running: int = 1000,
        migrate: bool = True,
        connect_timeout_seconds: float = 30.0,
        drain_seconds: float = 10.0,
    ) -> None:
        if executor_id is not None:
            check_key(executor_id, "executor_id")
        check_whole(max_running, 1, "max_running")
        self._runtime = Runtime(
            url,
            executor_id=executor_id,
            application_version=application_version,
            max_running=max_running,
            migrate=migrate,
            connect_timeout_seconds=connect_timeout_seconds,
            drain_seconds=drain_seconds,
        )
        self._terminator = Terminator()

    async def __aenter__(self) -> Self:
        self._terminator.install()
        try:
            return await self._open()
        except BaseException as error:
            self._terminator.leave(error)
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
            self._terminator.leave(error)

    @staticmethod
    async def launch(
        url: str | None = None,
        *,
        executor_id: str | None = None,
        application_version: str | None = None,
        max_running: int = 1000,
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
        check_whole(max_attempts, 1, "max_attempts")
        check_seconds(interval_seconds, "interval_seconds")
        check_seconds(timeout_seconds)
        return StepDecorator(
            name, max_attempts if retries_allowed else 1, interval_seconds, backoff_rate, timeout_seconds
        )

    @staticmethod
    async def start_workflow(
        function: Callable[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs
    ) -> WorkflowHandle[R]:
        """Start a workflow and return its handle once the start is committed; it runs here, in the background.

        With an id (`SetWorkflowID`) that exists nothing is started: the handle is of the first one, and its arguments count.
        Raises `WorkflowConflictError` when that id belongs to another function.
        """
        started = await _workflows.start_here(_workflows.find(function), args, kwargs)
        return cast("WorkflowHandle[R]", started)

    @staticmethod
    async def retrieve_workflow(workflow_id: str) -> WorkflowHandle[Any]:
        """The handle of an existing workflow. Raises `WorkflowNotFoundError` when there is none of this id."""
        status = await handle.get_status(_database(), workflow_id)
        known = _workflows.registered.get(status.name)
        return WorkflowHandle(_database(), workflow_id, known.signature.result_type if known else Any)

    @staticmethod
    async def list_workflows(
        *,
        status: str | None = None,
        name: str | None = None,
        id_prefix: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        parent_id: str | None = None,
        unclaimable: bool | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[WorkflowStatus]:
        """The workflows that fit every filter, the oldest first, at most ``limit``; ``after`` is the last id of the page before.

        ``unclaimable=True`` are those that wait for an executor and that no live one can run, since none knows their name or
        has their ``application_version``.
        """
        return await handle.list_workflows(
            _database(), status=status, name=name, id_prefix=id_prefix, since=since, until=until,
            parent_id=parent_id, unclaimable=unclaimable, limit=limit, after=after,
        )  # fmt: skip

    @staticmethod
    async def list_workflow_steps(workflow_id: str) -> list[WorkflowStep]:
        """The recorded steps of a workflow, in the order in which they began."""
        return await handle.list_workflow_steps(_database(), workflow_id)

    @staticmethod
    async def cancel_workflow(workflow_id: str) -> None:
        """Cancel a workflow, in whatever process it runs or waits; who waits for its result gets `WorkflowCancelledError`.

        One that has ended stays as it is. Its children go on. Raises `WorkflowNotFoundError` when there is none of this id.
        """
        await _control.cancel(_database(), workflow_id)

    @staticmethod
    async def resume_workflow(workflow_id: str, *, application_version: str | None = None) -> WorkflowHandle[Any]:
        """Let a cancelled or parked workflow go on after its last recorded step, in any executor that knows it.

        ``application_version`` (default: as it was) is the version that it is for from now on, also of one that waits for an
        executor. One that runs or has ended otherwise stays as it is. Raises `WorkflowNotFoundError` when there is none of this id.
        """
        await _control.resume(_database(), workflow_id, application_version)
        return await DBOS.retrieve_workflow(workflow_id)

    @staticmethod
    async def fork_workflow(
        workflow_id: str, start_step: int | str, *, application_version: str | None = None
    ) -> WorkflowHandle[Any]:
        """Start a copy of a workflow that goes on from step ``start_step``; the original stays as it is.

        The copy has the recorded steps below ``start_step`` (a number of `list_workflow_steps`), what they said and wrote, and
        every message that the original took later or has not taken. `SetWorkflowID` gives it an id; ``application_version``
        (default: the original's) says which executors may run it. Raises `WorkflowNotFoundError` when there is no original.
        """
        return await _fork.fork(_database(), workflow_id, start_step, application_version)

    @staticmethod
    async def delete_workflow(workflow_id: str) -> None:
        """Remove a workflow that has ended, with its steps, messages, events and streams; its children stay.

        Raises `WorkflowNotEndedError` when it goes on or is parked, `WorkflowNotFoundError` when there is none of this id.
        """
        await _delete.delete(_database(), workflow_id)

    @staticmethod
    async def sleep(seconds: float) -> None:
        """Sleep durably (workflows only): until ``seconds`` after the first time, by the database's clock, whatever restarts."""
        checked = check_seconds(seconds, "seconds")
        if checked is None:
            raise InvalidArgumentError("seconds must be a finite number: a workflow cannot sleep for ever.")
        await _sleep.sleep(in_workflow(caller(_database()), "sleep"), checked)

    # Messages

    @staticmethod
    async def send(
        destination_id: str,
        message: Any,
        topic: str | Topic[Any] | None = None,
        *,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send a message to a workflow; once this returns it is committed and a live destination will receive it.

        From a workflow it is sent exactly once. Elsewhere an ``idempotency_key`` (or `SetWorkflowID`) makes a repeated send to
        that destination a no-op. Raises `WorkflowNotFoundError` when there is no such workflow, `InvalidMessageError` when
        the message is not JSON or does not fit the type of its topic; then nothing is stored.
        """
        await _messages.send(_database(), SendMessage(destination_id, message, topic, idempotency_key, headers))

    @staticmethod
    async def send_bulk(messages: Sequence[SendMessage]) -> None:
        """Send all these messages, or none; they keep their order. One commit, however many."""
        await _messages.send_bulk(_database(), messages)

    @overload
    @staticmethod
    async def recv(topic: Topic[R], timeout_seconds: float | None = 60) -> R | None: ...
    @overload
    @staticmethod
    async def recv(topic: str | None = None, timeout_seconds: float | None = 60) -> Any: ...
    @staticmethod
    async def recv(topic: Any = None, timeout_seconds: float | None = 60) -> Any:
        """Take the oldest unreceived message of this workflow and topic (workflows only), ``None`` when none came in time.

        Without a topic only messages that were sent without one are received. The time counts from the first wait, by the
        database's clock, also across restarts; ``timeout_seconds=None`` waits for ever.

        Example:
            ```python
            payment_status = await DBOS.recv("payment_status", timeout_seconds=300)
            ```
        """
        return await _messages.recv(_database(), topic, timeout_seconds)

    @overload
    @staticmethod
    async def recv_envelope(topic: Topic[R], timeout_seconds: float | None = 60) -> Envelope[R] | None: ...
    @overload
    @staticmethod
    async def recv_envelope(topic: str | None = None, timeout_seconds: float | None = 60) -> Envelope[Any] | None: ...
    @staticmethod
    async def recv_envelope(topic: Any = None, timeout_seconds: float | None = 60) -> Envelope[Any] | None:
        """As `DBOS.recv`, with everything that is known of the message; ``None`` is a time-out and nothing else."""
        return await _messages.recv_envelope(_database(), topic, timeout_seconds)

    # Events

    @staticmethod
    async def set_event(key: str | Event[Any], value: Any) -> None:
        """Let the workflow say ``value`` under ``key`` (workflows and steps); the latest value can always be read."""
        await _events.set_event(_database(), key, value)

    @overload
    @staticmethod
    async def get_event(workflow_id: str, key: Event[R], timeout_seconds: float | None = 60) -> R | None: ...
    @overload
    @staticmethod
    async def get_event(workflow_id: str, key: str, timeout_seconds: float | None = 60) -> Any: ...
    @staticmethod
    async def get_event(workflow_id: str, key: Any, timeout_seconds: float | None = 60) -> Any:
        """The latest value that the workflow said under ``key``; waits for a first one, also of a workflow that is yet to start.

        ``None`` when none came in time, and at once when the workflow has ended without it. In a workflow what was read is
        recorded. ``timeout_seconds=None`` waits for ever.
        """
        return await _events.get_event(_database(), workflow_id, key, timeout_seconds)

    @staticmethod
    async def get_all_events(workflow_id: str) -> dict[str, Any]:
        """The latest value of every event that the workflow has set so far, by key, as plain JSON."""
        return await _events.get_all_events(_database(), workflow_id)

    # Streams

    @staticmethod
    async def write_stream(key: str | Stream[Any], value: Any) -> None:
        """Append any JSON value to a stream of the workflow (workflows and steps). Raises `StreamClosedError` when it is closed."""
        await _streams.write_stream(_database(), key, value)

    @staticmethod
    async def close_stream(key: str | Stream[Any]) -> None:
        """Close a stream of the workflow for writing (workflows and steps); closing it twice is a no-op."""
        await _streams.close_stream(_database(), key)

    @overload
    @staticmethod
    def read_stream(
        workflow_id: str, key: Stream[R], *, offset: int = 0, timeout_seconds: float | None = None
    ) -> AsyncGenerator[R, None]: ...
    @overload
    @staticmethod
    def read_stream(
        workflow_id: str, key: str, *, offset: int = 0, timeout_seconds: float | None = None
    ) -> AsyncGenerator[Any, None]: ...
    @staticmethod
    def read_stream(
        workflow_id: str, key: Any, *, offset: int = 0, timeout_seconds: float | None = None
    ) -> AsyncGenerator[Any, None]:
        """Yield each value of a stream in order, from ``offset`` on, as they are written, until it is closed or its workflow ended.

        Raises `WorkflowNotFoundError` when there is no such workflow, and `StreamTimeoutError` (a ``TimeoutError``) after
        ``timeout_seconds`` without a value (``None`` waits for ever).

        Example:
            ```python
            async for value in DBOS.read_stream(workflow_id, "progress"):
                print(value)
            ```
        """
        return _streams.read_stream(_database(), workflow_id, key, offset, timeout_seconds)


_current: DBOS | None = None


def _database() -> Database:
    return _workflows.executor().database
