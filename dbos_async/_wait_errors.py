"""The errors of a wait for a result, an answer or an event, which belong to `errors.py`: stored errors name that module."""

from __future__ import annotations

from dbos_async._error_base import DBOSError, with_fields
from dbos_async._logs import shown, without_stop


@with_fields
class WorkflowParkedError(DBOSError):
    """Raised by ``get_result`` of a parked workflow, which has not ended; ``status`` says why it was parked."""

    __module__ = "dbos_async.errors"

    workflow_id: str
    status: str

    def __str__(self) -> str:
        return (
            f"The workflow {self.workflow_id!r} is parked ({self.status}) and has no result yet: repair the cause and resume it, "
            "or wait for that with get_result(wait_if_parked=True)."
        )


@with_fields
class ResultTimeoutError(DBOSError, TimeoutError):
    """Raised by ``get_result`` when the workflow did not end within ``timeout_seconds``. The workflow goes on."""

    __module__ = "dbos_async.errors"

    workflow_id: str
    timeout_seconds: float

    def __str__(self) -> str:
        return (
            f"The workflow {self.workflow_id!r} did not end within {self.timeout_seconds:g} seconds and goes on: "
            "wait longer, or cancel it."
        )


@with_fields
class AskTimeoutError(DBOSError, TimeoutError):
    """Raised by `DBOS.ask` and `DBOS.get_answer` when a question was not answered within ``timeout_seconds``.

    The question goes on: ``get_answer(message_id)`` returns the answer once it is there.
    """

    __module__ = "dbos_async.errors"

    workflow_id: str
    message_id: str
    timeout_seconds: float

    def __str__(self) -> str:
        return (
            f"The workflow {self.workflow_id!r} did not answer the question {self.message_id!r} within "
            f"{self.timeout_seconds:g} seconds: wait for the answer with get_answer({self.message_id!r})."
        )


@with_fields
class NotAnsweredError(DBOSError):
    """Raised by `DBOS.ask` and `DBOS.get_answer` when the workflow that was asked has ended and not answered.

    If it is resumed and answers, ``get_answer(message_id)`` returns the answer.
    """

    __module__ = "dbos_async.errors"

    workflow_id: str
    message_id: str

    def __str__(self) -> str:
        return (
            f"The workflow {self.workflow_id!r} has ended and has not answered the question {self.message_id!r}: "
            "ask another one, or see why it ended."
        )


@with_fields
class RefusedError(DBOSError):
    """Raised by `DBOS.ask` and `DBOS.get_answer` when the workflow that was asked has refused to answer; ``reason`` is its own."""

    __module__ = "dbos_async.errors"

    reason: str
    workflow_id: str
    message_id: str

    def __str__(self) -> str:
        reason = shown(without_stop(self.reason))
        return f"The workflow {self.workflow_id!r} refused to answer the question {self.message_id!r}: {reason}."


@with_fields
class EventTimeoutError(DBOSError, TimeoutError):
    """Raised by a watcher when the event got no version within ``timeout_seconds``; watch on with ``after=after``."""

    __module__ = "dbos_async.errors"

    workflow_id: str
    key: str
    after: int
    timeout_seconds: float

    def __str__(self) -> str:
        return (
            f"The event {self.key!r} of workflow {self.workflow_id!r} got no version for {self.timeout_seconds:g} seconds: "
            f"watch on with after={self.after}, or wait longer."
        )
