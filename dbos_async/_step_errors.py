"""The errors of steps, which belong to `errors.py`: stored errors name that module."""

from __future__ import annotations

from datetime import timedelta

from dbos_async._error_base import DBOSError, InvalidArgumentError, with_fields
from dbos_async._logs import shown, without_stop


@with_fields
class StepTimeoutError(DBOSError, TimeoutError):
    """Raised by a step that took longer than its ``timeout_seconds``."""

    __module__ = "dbos_async.errors"

    step: str
    timeout_seconds: float

    def __str__(self) -> str:
        return f"The step {self.step!r} took longer than {self.timeout_seconds:g} seconds: raise timeout_seconds, or speed it up."


@with_fields
class StepCancelledError(DBOSError):
    """Raised by `StepHandle.get_result` when the step was cancelled with `StepHandle.cancel`."""

    __module__ = "dbos_async.errors"

    step: str
    step_id: str

    def __str__(self) -> str:
        return (
            f"The step {self.step!r} ({self.step_id}) was cancelled: start it again if its result is needed after all."
        )


@with_fields
class SystemExitError(DBOSError):
    """Raised in the place of ``SystemExit`` by a step or workflow whose code called ``sys.exit``; ``code`` is its argument."""

    __module__ = "dbos_async.errors"

    what: str
    code: int | str | None

    def __str__(self) -> str:
        return f"{self.what} called sys.exit({self.code!r:.100}): raise an exception, and end the program elsewhere."


class RetryAfter(DBOSError):  # noqa: N818 - it is raised to ask for something, as StopIteration is
    """Raise it in a step with retries: the step is tried again after ``seconds``, and this attempt does not count.

    ``seconds`` is a number or a ``timedelta``, from 0 to a hundred years; ``reason`` is for people. A wait takes at least 0.1 s. So
    a step waits as long as another side asks for, however often it does: only the end of the workflow, its deadline or a
    cancellation ends that. The pauses after failed attempts do not grow by it. In a step without ``retries_allowed``, and
    elsewhere, it is an error like any other. Raised from another error it keeps that as its cause.

    Raises `InvalidArgumentError` when it is made of something else.

    Example:
        ```python
        answers = [(429, {"retry-after": "0.2"}), (200, {})]

        @DBOS.step(retries_allowed=True)
        async def post() -> int:
            status, headers = answers.pop(0)
            if status == 429:
                raise RetryAfter(float(headers["retry-after"]), "too many requests")
            return status

        @DBOS.workflow()
        async def notify() -> int:
            return await post()

        assert await notify() == 200
        ```
    """

    __module__ = "dbos_async.errors"

    def __init__(self, seconds: float | timedelta, reason: str = "") -> None:
        self.seconds: float = _seconds_of_retry(seconds)
        if not isinstance(reason, str):
            raise InvalidArgumentError(
                f"The reason of RetryAfter must be a str and is of type {type(reason).__name__}."
            )
        self.reason = reason
        super().__init__(self.seconds, reason)

    def __str__(self) -> str:
        reason = shown(without_stop(self.reason))
        return (
            f"{reason and reason + ': '}try again in {self.seconds:g} seconds, which a step does by itself with "
            "@DBOS.step(retries_allowed=True)."
        )


def _seconds_of_retry(seconds: object) -> float:
    """A number of seconds from 0 to a hundred years. (`_checks.py` needs `errors.py`.)"""
    number = timedelta.total_seconds(seconds) if isinstance(seconds, timedelta) else seconds
    if isinstance(number, int | float) and not isinstance(number, bool) and 0 <= number <= 100 * 365 * 86400:
        return float(number)
    is_short = isinstance(seconds, float | str | timedelta | None) or (isinstance(seconds, int) and abs(seconds) < 1e15)
    given = repr(seconds)[:100] if is_short else f"a {type(seconds).__name__} that is none"
    raise InvalidArgumentError(
        "RetryAfter takes a timedelta or a number of seconds, at least 0 and at most a hundred years, and was given "
        f"{shown(given)}."
    )
