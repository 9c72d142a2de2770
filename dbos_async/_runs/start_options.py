"""What a start takes from the ``with`` blocks around it: the id of the workflow, its version, its deadline and its delay."""

from __future__ import annotations

from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Self

from dbos_async._checks import check_delay, check_key, check_seconds
from dbos_async.errors import WrongPlaceError


@dataclass(frozen=True)
class StartCall:
    """Which workflow to start, and its encoded arguments."""

    name: str
    text: str


class SetWorkflowID:
    """``with SetWorkflowID("order-17"):`` the workflow that is started in the block gets this id.

    The id is a one-use ticket: a second start in the block raises `WrongPlaceError`, because it would silently return the first
    workflow. A send in the block, outside of workflows, uses the id as its idempotency key. Raises `InvalidArgumentError` unless
    the id is a text of 1 to 512 characters.

    Example:
        ```python
        @DBOS.workflow()
        async def checkout(item: str) -> str:
            return f"{item} is sold"

        for _ in range(2):  # The second start finds the first workflow.
            with SetWorkflowID("order-18"):
                handle = await DBOS.start_workflow(checkout, "widget")
        assert await handle.get_result() == "widget is sold"
        ```
    """

    def __init__(self, workflow_id: str) -> None:
        self.workflow_id: str = check_key(workflow_id, "The id of SetWorkflowID")
        self._used = False
        self._before: list[Token[SetWorkflowID | None]] = []

    def __enter__(self) -> Self:
        self._before.append(assigned.set(self))
        return self

    def __exit__(self, *_: object) -> None:
        assigned.reset(self._before.pop())

    def use(self) -> str:
        """Give the id away, which happens once."""
        if self._used:
            raise WrongPlaceError(
                f"SetWorkflowID({self.workflow_id!r}) has already given its id to a workflow: use a block for each start."
            )
        self._used = True
        return self.workflow_id

    def key_of_send(self, index: int) -> str:
        """The idempotency key of a message sent in this block; those of a bulk but the first add their index to the id."""
        return f"{self.workflow_id} {index}" if index else self.workflow_id


class SetWorkflowTimeout:
    """``with SetWorkflowTimeout(60):`` a workflow that is started in the block is cancelled unless it ends within ``seconds``.

    The deadline is stored with the workflow and follows the clock of the database, whatever restarts meanwhile. ``None`` means no
    deadline. Workflows that the started one starts do not inherit the deadline. Resuming a cancelled workflow removes it.
    Raises `InvalidArgumentError` unless ``seconds`` is ``None`` or a number of at least 0.

    Example:
        ```python
        @DBOS.workflow()
        async def waits() -> None:
            await DBOS.recv(timeout_seconds=None)

        with SetWorkflowTimeout(0.2):
            handle = await DBOS.start_workflow(waits)
        try:
            await handle.get_result()
        except WorkflowCancelledError:
            print("It took too long.")
        ```
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds: float | None = check_seconds(seconds, "seconds")
        self._before: list[Token[float | None]] = []

    def __enter__(self) -> Self:
        self._before.append(allowed_seconds.set(self.seconds))
        return self

    def __exit__(self, *_: object) -> None:
        allowed_seconds.reset(self._before.pop())


class SetStartDelay:
    """``with SetStartDelay(3600):`` a workflow that is started in the block begins after this time.

    It is there at once, with its id and the status DELAYED: messages may be sent to it, and it can be listed and cancelled. When
    it is due, by the clock of the database, any live executor that knows it runs it; while none is alive it waits. The time of a
    `SetWorkflowTimeout` counts from then. `DBOS.resume_workflow` begins it now. Workflows that the started one starts, and forks,
    are not delayed. ``None`` and 0 mean no delay. Raises `InvalidArgumentError` unless ``seconds`` is ``None`` or a number from 0
    to a hundred years.

    Example:
        ```python
        @DBOS.workflow()
        async def remind(what: str) -> str:
            return f"Think of {what}."

        with SetStartDelay(0.2):
            handle = await DBOS.start_workflow(remind, "the milk")
        assert (await handle.get_status()).status == "DELAYED"
        assert await handle.get_result() == "Think of the milk."
        ```
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds: float | None = check_delay(seconds, "seconds")
        self._before: list[Token[float | None]] = []

    def __enter__(self) -> Self:
        self._before.append(start_delay.set(self.seconds))
        return self

    def __exit__(self, *_: object) -> None:
        start_delay.reset(self._before.pop())


class SetApplicationVersion:
    """``with SetApplicationVersion("2"):`` a workflow that is started in the block runs only in executors of this version.

    Executors that have no version run it, too. Without the block a workflow gets the version of the executor that starts it, or the
    ``application_version`` of the client, or, if that has none, the version of the first executor that claims it. Raises
    `InvalidArgumentError` unless the version is a text of 1 to 512 characters.

    Example:
        ```python
        @DBOS.workflow()
        async def greet(name: str) -> str:
            return f"hello, {name}"

        async with DBOSClient(url) as client:
            with SetApplicationVersion("2"):
                handle = await client.start_workflow("greet", "world")
            assert (await handle.get_status()).application_version == "2"
        ```
    """

    def __init__(self, application_version: str) -> None:
        self.application_version: str = check_key(application_version, "The version of SetApplicationVersion")
        self._before: list[Token[str | None]] = []

    def __enter__(self) -> Self:
        self._before.append(wanted_version.set(self.application_version))
        return self

    def __exit__(self, *_: object) -> None:
        wanted_version.reset(self._before.pop())


wanted_version: ContextVar[str | None] = ContextVar("dbos_async_wanted_version", default=None)

start_delay: ContextVar[float | None] = ContextVar("dbos_async_start_delay", default=None)

allowed_seconds: ContextVar[float | None] = ContextVar("dbos_async_allowed_seconds", default=None)

assigned: ContextVar[SetWorkflowID | None] = ContextVar("dbos_async_assigned", default=None)
