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
from dbos_async._workflows.retry_on import RetryOn, check_retry_on


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
    retry_on: RetryOn | None,
    max_interval_seconds: float | None,
    jitter: bool,
    max_concurrent: int | None,
) -> tuple[str | None, RetryPolicy, int | None]:
    """Return the name, the retries and the limit of attempts at once that `DBOS.step` was given."""
    attempts = check_int(max_attempts, 1, "max_attempts")
    pauses = (
        check_duration(interval_seconds, "interval_seconds", most=MAX_WAIT_SECONDS),
        check_number(backoff_rate, "backoff_rate"),
    )
    retryable, has_jitter = check_retry_on(retry_on), check_flag(jitter, "jitter")
    most_seconds = check_seconds(max_interval_seconds, "max_interval_seconds")
    if not check_flag(retries_allowed, "retries_allowed"):
        has_attempts = attempts > 1 and type(max_attempts) is not _Default
        has_pauses = pauses != DEFAULT_PAUSES or max_interval_seconds is not None or has_jitter
        if has_attempts or has_pauses or retry_on is not None:
            warnings.warn(
                "Without retries_allowed=True a step is tried once, whatever its max_attempts, retry_on, interval_seconds, "
                "backoff_rate, max_interval_seconds and jitter: add retries_allowed=True, or leave them out.",
                stacklevel=3,
            )
        attempts = 1
    policy = RetryPolicy(
        retries_allowed, attempts, *pauses, check_seconds(timeout_seconds), retryable,
        MAX_WAIT_SECONDS if most_seconds is None else most_seconds, has_jitter,
    )  # fmt: skip
    most = None if max_concurrent is None else check_int(max_concurrent, 1, "max_concurrent")
    return check_optional_key(name, "name"), policy, most
