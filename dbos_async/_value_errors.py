"""The errors of values, which belong to `errors.py`: stored errors name that module."""

from __future__ import annotations

from typing import Any

from dbos_async._error_base import DBOSError


class InvalidValueError(DBOSError, ValueError):
    """Raised for a value that is not JSON, or does not fit its declared type.

    ``what`` names the value, ``problem`` says what is wrong with it and
    ``details`` is pydantic's list of errors (empty when the problem is not one of validation).
    """

    __module__ = "dbos_async.errors"

    def __init__(self, what: str, problem: str, details: list[Any] | None = None) -> None:
        super().__init__(what, problem, details or [])
        self.what: str = what
        self.problem: str = problem
        self.details: list[Any] = details or []

    def __str__(self) -> str:
        return f"{self.what} cannot be used: {self.problem.removesuffix('.')}."


class InvalidMessageError(InvalidValueError):
    """Raised for a message whose payload or headers are not JSON or do not fit the type of its topic.

    ``message_id`` is the id of a received message, which `DBOS.list_messages` still shows; it is ``None`` at the sender.
    """

    __module__ = "dbos_async.errors"

    def __init__(
        self, what: str, problem: str, details: list[Any] | None = None, message_id: str | None = None
    ) -> None:
        super().__init__(what, problem, details)
        self.args: tuple[Any, ...] = (*self.args, message_id)
        self.message_id: str | None = message_id


class InvalidStreamValueError(InvalidValueError):
    """Raised by a reader for a value of a stream that does not fit its type.

    ``offset`` is the position of that value: read on from ``offset + 1``.
    """

    __module__ = "dbos_async.errors"

    def __init__(self, what: str, problem: str, details: list[Any] | None = None, offset: int = 0) -> None:
        super().__init__(what, problem, details)
        self.args: tuple[Any, ...] = (*self.args, offset)
        self.offset: int = offset


class InvalidAnswerError(InvalidValueError):
    """Raised by `DBOS.ask` and `DBOS.get_answer` for an answer that does not fit the answer type of the question.

    The answer stays: ``get_answer(message_id)`` without a question reads it as plain JSON.
    """

    __module__ = "dbos_async.errors"

    def __init__(
        self, what: str, problem: str, details: list[Any] | None = None, message_id: str | None = None
    ) -> None:
        super().__init__(what, problem, details)
        self.args: tuple[Any, ...] = (*self.args, message_id)
        self.message_id: str | None = message_id


class InvalidEventValueError(InvalidValueError):
    """Raised by a watcher for a version of an event that does not fit its type.

    ``version`` is the version of that value: watch on with ``after=version``.
    """

    __module__ = "dbos_async.errors"

    def __init__(self, what: str, problem: str, details: list[Any] | None = None, version: int = 0) -> None:
        super().__init__(what, problem, details)
        self.args: tuple[Any, ...] = (*self.args, version)
        self.version: int = version
