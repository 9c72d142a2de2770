"""After which errors a step is tried again: ``retry_on=`` of ``@DBOS.step(…)``, and `RetryAfter`."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection
from typing import Any, NamedTuple

from dbos_async._checks import excerpt
from dbos_async._runs import exits
from dbos_async._runs.context import StepContext, current
from dbos_async._runs.step import Step
from dbos_async.errors import InvalidArgumentError, InvalidValueError, RetryAfter

Predicate = Callable[[Exception], bool | Awaitable[bool]]
RetryOn = type[Exception] | Collection[type[Exception]] | Predicate


class Retryable(NamedTuple):
    """The errors after which a step is tried again; without either all but those of values, which would be invalid again."""

    kinds: tuple[type[Exception], ...] | None = None
    """The exceptions of these types, and the groups that have no others."""
    predicate: Callable[[Exception], Any] | None = None
    """Those for which a function of the user answers True."""


async def is_retryable(which: Retryable, error: Exception, step: Step, name: str) -> bool:
    """Whether the step of this name is tried again after this error. What a predicate raises ends the step."""
    if which.predicate is not None:
        return await _ask(which.predicate, error, step, f"The retry_on of the step {name!r}")
    if which.kinds is None:
        return not isinstance(error, InvalidValueError)
    if isinstance(error, which.kinds):
        return True
    return isinstance(error, ExceptionGroup) and error.split((*which.kinds, RetryAfter))[1] is None


async def _ask(predicate: Callable[[Exception], Any], error: Exception, step: Step, what: str) -> bool:
    body = StepContext(step.run, step.path, attempt=step.attempts)  # a verb that it calls is a part of the step
    token = current.set(body)
    try:
        answer = predicate(error)
        if inspect.isawaitable(answer):
            answer = await answer
    except SystemExit as exit_:
        raise exits.as_error(exit_, what) from error
    except Exception as raised:
        if raised is not error:
            raised.__cause__ = raised.__cause__ or error
            if not isinstance(raised, RetryAfter):
                raised.add_note(f"{what} raised this.")
        raise
    finally:
        body.abandon_writers()
        body.over = True
        current.reset(token)
    if isinstance(answer, bool):
        return answer
    raise InvalidArgumentError(f"{what} must answer True or False and has answered {excerpt(answer)}.") from error


def check_retry_on(value: object) -> Retryable:
    """Return what ``retry_on`` says: an exception type, several of them, or a function. ``None`` says the default."""
    if value is None:
        return Retryable()
    if isinstance(value, type) or (isinstance(value, Collection) and not isinstance(value, str | bytes | bytearray)):
        kinds = (value,) if isinstance(value, type) else tuple(value)
        for kind in kinds:
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                raise InvalidArgumentError(
                    f"retry_on must have types of exceptions, derived from Exception, and has {excerpt(kind)}."
                )
        return Retryable(kinds)
    if not callable(value):
        raise InvalidArgumentError(
            "retry_on must be a type of exceptions, several of them, or a function that answers True or False for one, and is "
            f"{excerpt(value)}."
        )
    return Retryable(predicate=value)


def wait_asked_for(error: Exception) -> tuple[float, bool]:
    """For how many seconds an error asks to wait at least, and whether it asks for nothing else.

    A group asks for the longest time of its members.
    """
    if isinstance(error, RetryAfter):
        return error.seconds, True
    if isinstance(error, ExceptionGroup):
        asked, others = error.split(RetryAfter)
        if asked is not None:
            return max(wait_asked_for(each)[0] for each in asked.exceptions), others is None
    return 0.0, False
