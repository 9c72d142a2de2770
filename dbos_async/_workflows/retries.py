"""How often a step is tried, how long the pauses are, and how long one attempt may take."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from anyio import move_on_after, sleep

from dbos_async._checks import MAX_WAIT_SECONDS
from dbos_async._logs import text_of
from dbos_async._runs.running_step import Tries
from dbos_async._runs.step import Step
from dbos_async._runs.turns import Turns
from dbos_async._workflows.retry_on import Retryable, is_retryable, wait_asked_for
from dbos_async.errors import RetryAfter, StepTimeoutError, SystemExitError

log = logging.getLogger("dbos_async")

MAX_PROBLEM: Final = 500
"""How much of the text of an error the list of steps shows."""

LONG_PAUSE_SECONDS: Final = 5.0
"""During a longer pause the run takes no slot of its executor."""

LEAST_WAIT_SECONDS: Final = 0.1
"""A `RetryAfter` waits at least so long: a service that says 0 again and again is not called in a busy loop."""

_random: Final = random.SystemRandom()  # else a seed of the program, or a fork, gives many processes the same pauses


class _Again(NamedTuple):
    """The step is tried again."""

    because: Exception
    wait_seconds: float
    """How long the attempt has asked to wait at least."""
    counts: bool
    """Whether the attempt counts as one."""


class RetryPolicy(NamedTuple):
    """The options of ``@DBOS.step(…)`` that are about its attempts."""

    are_allowed: bool = False
    max_attempts: int = 1
    interval_seconds: float = 1.0
    backoff_rate: float = 2.0
    timeout_seconds: float | None = None
    retryable: Retryable = Retryable()
    max_interval_seconds: float = MAX_WAIT_SECONDS
    jitter: bool = False


async def attempts(
    policy: RetryPolicy, turns: Turns | None, call: Callable[[], Awaitable[Any]], step: Step, name: str
) -> Any:
    """Call until an attempt returns, or fails and is not repeated. Each attempt takes a turn, if they are limited."""
    attempt, interval = 1, policy.interval_seconds
    while True:
        try:
            if turns is None:
                return await _attempt(policy, call, step, name)
            async with turns.take(lambda: _waiting_for_turn(step)):
                return await _attempt(policy, call, step, name)
        except Exception as error:
            again = await _decide(policy, error, step, name, attempt)
            if again is None:
                if attempt > 1:
                    error.add_note(f"The step {name!r} was tried {attempt} times.")
                raise
            problem = _text_of(again.because)
        pause = again.wait_seconds
        if again.counts:
            pause = max(pause, _length_of(policy, interval))
            text = "Step %r of workflow %r failed in attempt %d of %d and is tried again in %g s: %s"
            log.warning(text, name, step.run.workflow_id, attempt, policy.max_attempts, round(pause, 3), problem)
            attempt += 1
            interval = min(interval * policy.backoff_rate, MAX_WAIT_SECONDS)  # which the clocks can still count
        else:
            log.info("Step %r of workflow %r waits for %g s: %s", name, step.run.workflow_id, pause, problem)
        step.tries = tries = Tries(attempt, time.monotonic() + pause, problem[:MAX_PROBLEM])
        with _idle(step, takes_slot=pause <= LONG_PAUSE_SECONDS):
            await sleep(pause)
        step.tries = tries._replace(next_at=None)


def _length_of(policy: RetryPolicy, interval: float) -> float:
    """How long a pause is. Jitter makes it a random time between half of it and all of it."""
    pause = min(interval, policy.max_interval_seconds)
    return pause * _random.uniform(0.5, 1.0) if policy.jitter else pause


async def _decide(policy: RetryPolicy, error: Exception, step: Step, name: str, attempt: int) -> _Again | None:
    """Whether the step is tried again after this error. A predicate that raises ends it by that error."""
    if not policy.are_allowed or _ends_the_loop(error):
        return None
    seconds, is_all = wait_asked_for(error)
    if is_all:
        return _Again(error, max(seconds, LEAST_WAIT_SECONDS), counts=False)
    try:
        is_worth_it = await is_retryable(policy.retryable, error, step, name)
    except RetryAfter as asked:
        return _Again(asked, max(asked.seconds, LEAST_WAIT_SECONDS), counts=False)
    return _Again(error, seconds, counts=True) if is_worth_it and attempt < policy.max_attempts else None


async def _attempt(policy: RetryPolicy, call: Callable[[], Awaitable[Any]], step: Step, name: str) -> Any:
    if step.run.host.closing:  # a shutdown has come in a pause, or before this turn
        with _idle(step):
            await step.run.check_may_act("step", is_begun=False)
    if policy.timeout_seconds is None:
        return await call()
    late: BaseException | None = None
    with move_on_after(policy.timeout_seconds) as scope:
        try:
            value = await call()
            if not scope.cancel_called:
                return value
        except Exception as error:
            if not scope.cancel_called:
                raise
            late = error
    # The time is over, whatever the step made of its cancellation.
    raise StepTimeoutError(name, policy.timeout_seconds) from late


@contextmanager
def _idle(step: Step, *, takes_slot: bool = False) -> Generator[None]:
    """No attempt runs: a shutdown does not wait for this step."""
    run = step.run
    run.end_step()
    if not takes_slot:
        run.begin_waiting()
    try:
        yield
    finally:
        if not takes_slot:
            run.end_waiting()
        run.begin_step()


@contextmanager
def _waiting_for_turn(step: Step) -> Generator[None]:
    before = step.tries
    step.tries = Tries(step.attempts, None, "" if before is None else before.last_error, waits=True)
    try:
        with _idle(step):
            yield
    finally:
        step.tries = before


def _text_of(error: Exception) -> str:
    """An error as the log and the list of steps show it."""
    if not isinstance(error, RetryAfter):
        return f"{type(error).__name__}: {text_of(error)}"
    reason, cause = error.reason, error.__cause__
    if not reason and isinstance(cause, Exception):
        reason = f"{type(cause).__name__}: {text_of(cause)}"
    return f"RetryAfter: {reason or f'{error.seconds:g} s'}"


def _ends_the_loop(error: Exception) -> bool:
    """Whether this comes from a task of the step that has ended the event loop: another attempt would end it again."""
    task = asyncio.current_task()
    return isinstance(error, SystemExitError) and task is not None and task.cancelling() > 0
