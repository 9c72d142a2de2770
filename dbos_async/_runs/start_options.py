"""What a start takes from the ``with`` blocks around it: the id of the workflow, its version, its deadline and its delay."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

from dbos_async._checks import check_delay, check_flag, check_key, check_seconds
from dbos_async.errors import WrongPlaceError

T = TypeVar("T")


class Blocks(Generic[T]):
    """The ``with`` blocks of one kind around the code that runs. Tasks that share a block enter and leave it in any order."""

    def __init__(self, name: str) -> None:
        self._values: ContextVar[tuple[T | None, ...]] = ContextVar(name, default=())

    def get(self) -> T | None:
        """The value of the innermost block, ``None`` outside of all."""
        values = self._values.get()
        return values[-1] if values else None

    def enter(self, value: T | None) -> None:
        """Begin a block with this value."""
        self._values.set((*self._values.get(), value))

    def leave(self) -> None:
        """End the innermost block."""
        self._values.set(self._values.get()[:-1])


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
        self.is_used: bool = False
        """Whether it has given its id to a workflow."""

    def __enter__(self) -> Self:
        assigned.enter(self)
        return self

    def __exit__(self, *_: object) -> None:
        assigned.leave()

    def use(self) -> str:
        """Give the id away, which happens once."""
        if self.is_used:
            raise WrongPlaceError(
                f"SetWorkflowID({self.workflow_id!r}) has already given its id to a workflow: use a block for each start."
            )
        self.is_used = True
        return self.workflow_id

    def key_of_send(self, index: int) -> str:
        """The idempotency key of a message sent in this block; those of a bulk but the first add their index to the id."""
        return f"{self.workflow_id} {index}" if index else self.workflow_id


class SetWorkflowTimeout:
    """``with SetWorkflowTimeout(60):`` a workflow that is started in the block is cancelled unless it ends within ``seconds``.

    The deadline is stored with the workflow and follows the clock of the database, whatever restarts meanwhile. ``None`` means no
    deadline. Resuming a cancelled workflow removes it.

    Workflows that the started one starts do not inherit the deadline. With ``children=True`` they do: what it starts has the
    earlier one of that deadline and its own, and hands it on to what it starts. ``SetWorkflowTimeout(None)`` in such a workflow
    removes nothing of that. Forks inherit no deadline, and a workflow that is found by its id keeps what it has.

    Raises `InvalidArgumentError` unless ``seconds`` is ``None`` or a number of at least 0, and ``children`` is True or False.

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

    def __init__(self, seconds: float | None, *, children: bool = False) -> None:
        self.seconds: float | None = check_seconds(seconds, "seconds")
        self.children: bool = check_flag(children, "children")

    def __enter__(self) -> Self:
        # The column of the flag is null where it is not set.
        allowed.enter(None if self.seconds is None else (self.seconds, self.children or None))
        return self

    def __exit__(self, *_: object) -> None:
        allowed.leave()


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

    def __enter__(self) -> Self:
        start_delay.enter(self.seconds)
        return self

    def __exit__(self, *_: object) -> None:
        start_delay.leave()


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

    def __enter__(self) -> Self:
        wanted_version.enter(self.application_version)
        return self

    def __exit__(self, *_: object) -> None:
        wanted_version.leave()


wanted_version: Blocks[str] = Blocks("dbos_async_wanted_version")

start_delay: Blocks[float] = Blocks("dbos_async_start_delay")

Allowed = tuple[float | None, bool | None]
"""After how many seconds a workflow is cancelled, and true if what it starts inherits that."""

allowed: Blocks[Allowed] = Blocks("dbos_async_allowed")


def allowed_time() -> Allowed:
    """The time that a start gives to its workflow."""
    return allowed.get() or (None, None)


assigned: Blocks[SetWorkflowID] = Blocks("dbos_async_assigned")
