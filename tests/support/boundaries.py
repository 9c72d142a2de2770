"""The boundaries of the steps of a run: the places at which tests put crashes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dbos_async._messaging import ask, events, merge, read_stream, recv, trim, watch
from dbos_async._runs import sleep
from dbos_async._runs.step import Step
from dbos_async._runs.step_result import StepResult
from dbos_async._runs.waiting import wait
from dbos_async._workflows import handle

Proceed = Callable[[], Awaitable[StepResult]]
Around = Callable[[Step, Proceed], Awaitable[StepResult]]

WAITING = (ask, events, handle, merge, read_stream, recv, sleep, trim, watch)
"""The modules whose steps wait. All other steps are executed at once."""


@contextmanager
def around_boundaries(around: Around) -> Iterator[None]:
    """While the block lasts, let every step of this process be executed by ``around``, which proceeds when it likes."""

    def wrapped(function: Callable[..., Awaitable[StepResult]]) -> Any:
        async def call(step: Step, *args: Any, **kwargs: Any) -> StepResult:
            return await around(step, lambda: function(step, *args, **kwargs))

        return call

    perform = Step.perform
    Step.perform = wrapped(perform)  # type: ignore[method-assign]  # a crash must come at exactly this place
    for module in WAITING:
        assert module.wait is wait  # all of them import it
        module.wait = wrapped(wait)  # type: ignore[attr-defined]  # as above
    try:
        yield
    finally:
        Step.perform = perform  # type: ignore[method-assign]  # as above
        for module in WAITING:
            module.wait = wait  # type: ignore[attr-defined]  # as above
