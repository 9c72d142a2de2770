"""How often a step is tried, how long the pauses are, and how long one attempt may take."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import anyio

from dbos_async._checks import MAX_WAIT_SECONDS
from dbos_async._logs import text_of
from dbos_async._runs.running_step import Tries
from dbos_async._runs.step import Step
from dbos_async.errors import InvalidValueError, StepTimeoutError, SystemExitError

log = logging.getLogger("dbos_async")

MAX_PROBLEM: Final = 500
"""How much of the text of an error the list of steps shows."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The options of ``@DBOS.step(…)`` that are about its attempts."""

    max_attempts: int
    interval_seconds: float
    backoff_rate: float
    timeout_seconds: float | None

    async def attempts(self, call: Callable[[], Awaitable[Any]], step: Step, name: str) -> Any:
        """Call until an attempt returns, or the last one fails."""
        pause = self.interval_seconds
        for attempt in range(1, self.max_attempts + 1):
            try:
                return await self._in_time(call, name)
            except Exception as error:
                if attempt == self.max_attempts or isinstance(error, InvalidValueError) or _ends_the_loop(error):
                    if attempt > 1:
                        error.add_note(f"The step {name!r} was tried {attempt} times.")
                    raise
                problem = f"{type(error).__name__}: {text_of(error)}"
                text = "Step %r of workflow %r failed in attempt %d of %d and is tried again in %g s: %s"
                log.warning(text, name, step.run.workflow_id, attempt, self.max_attempts, pause, problem)
            step.tries = Tries(attempt + 1, time.monotonic() + pause, problem[:MAX_PROBLEM])
            await anyio.sleep(pause)
            step.tries = step.tries._replace(next_at=None)
            pause = min(pause * self.backoff_rate, MAX_WAIT_SECONDS)  # which the clocks can still count
        raise AssertionError("The last attempt returns or raises.")

    async def _in_time(self, call: Callable[[], Awaitable[Any]], name: str) -> Any:
        if self.timeout_seconds is None:
            return await call()
        late: BaseException | None = None
        with anyio.move_on_after(self.timeout_seconds) as scope:
            try:
                value = await call()
                if not scope.cancel_called:
                    return value
            except Exception as error:
                if not scope.cancel_called:
                    raise
                late = error
        # The time is over, whatever the step made of its cancellation.
        raise StepTimeoutError(name, self.timeout_seconds) from late


def _ends_the_loop(error: Exception) -> bool:
    """Whether this comes from a task of the step that has ended the event loop: another attempt would end it again."""
    task = asyncio.current_task()
    return isinstance(error, SystemExitError) and task is not None and task.cancelling() > 0
