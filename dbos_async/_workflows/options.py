"""The options of ``@DBOS.workflow(…)`` and ``@DBOS.step(…)``, checked where they are written."""

from __future__ import annotations

import warnings
from typing import Final

from dbos_async._checks import (
    MAX_INT,
    MAX_WAIT_SECONDS,
    check_duration,
    check_flag,
    check_int,
    check_number,
    check_optional_key,
    check_seconds,
)
from dbos_async._workflows.retries import RetryPolicy


class _Default(int):
    """The default of an option, which differs from the same number when a program gives that."""


DEFAULT_ATTEMPTS: Final = _Default(3)
DEFAULT_PAUSES: Final = (1.0, 2.0)


def check_recovery_attempts(number: int | None) -> int:
    """Return how many executors in a row may die under a workflow. ``None`` means any number."""
    return MAX_INT if number is None else check_int(number, 0, "max_recovery_attempts")


def step_options(
    name: str | None,
    retries_allowed: bool,
    max_attempts: int,
    interval_seconds: float,
    backoff_rate: float,
    timeout_seconds: float | None,
) -> tuple[str | None, RetryPolicy]:
    """Return the name and the retries of a step that `DBOS.step` was given."""
    attempts = check_int(max_attempts, 1, "max_attempts")
    pauses = (
        check_duration(interval_seconds, "interval_seconds", most=MAX_WAIT_SECONDS),
        check_number(backoff_rate, "backoff_rate"),
    )
    if not check_flag(retries_allowed, "retries_allowed"):
        if (attempts > 1 and type(max_attempts) is not _Default) or pauses != DEFAULT_PAUSES:
            warnings.warn(
                "Without retries_allowed=True a step is tried once, whatever its max_attempts, interval_seconds and backoff_rate: "
                "add retries_allowed=True, or leave them out.",
                stacklevel=3,
            )
        attempts = 1
    return check_optional_key(name, "name"), RetryPolicy(attempts, *pauses, check_seconds(timeout_seconds))
