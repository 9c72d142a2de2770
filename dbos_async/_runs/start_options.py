"""What a start takes from the ``with`` blocks around it: the id of the workflow, and its deadline."""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import Self

from dbos_async.errors import WrongPlaceError
from dbos_async.keys import check_key, check_seconds


class SetWorkflowID:
    """``with SetWorkflowID("order-17"):`` the workflow started in the block gets this id.

    The id is a one-use ticket: a second start in the block raises, since it would silently be the first workflow again.
    A send in the block, outside of workflows, has the id as its idempotency key.
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
        """The id, once."""
        if self._used:
            raise WrongPlaceError(
                f"SetWorkflowID({self.workflow_id!r}) has already given its id to a workflow: use a block for each start."
            )
        self._used = True
        return self.workflow_id

    def key_of_send(self, place: int) -> str:
        """The idempotency key of a message sent in this block; the later ones of a bulk have their place in it."""
        return f"{self.workflow_id} {place}" if place else self.workflow_id


class SetWorkflowTimeout:
    """``with SetWorkflowTimeout(60):`` a workflow started in the block is cancelled when it has not ended ``seconds`` later.

    The deadline is stored with the workflow and judged by the database's clock, whatever restarts meanwhile. ``None`` means
    no deadline. It does not reach the workflows that the started one starts: they have deadlines of their own.
    Resuming a workflow that was cancelled lifts its deadline.

    Example:
        ```python
        with SetWorkflowTimeout(24 * 3600):
            handle = await DBOS.start_workflow(checkout, "order-17")
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


allowed_seconds: ContextVar[float | None] = ContextVar("dbos_async_allowed_seconds", default=None)

assigned: ContextVar[SetWorkflowID | None] = ContextVar("dbos_async_assigned", default=None)
