"""A workflow that is cancelled with time to clean up: it is told once, on record, and goes on.

One step carries the request: it ends with ``asyncio.CancelledError``, which is recorded as its outcome. The main task is told by
its own step if it is inside one, or else by the next step of any task: a step of another task cancels the main task as well, as
code of the workflow would. So a replay tells the main task at the same moment, and what it does then is a part of the record, too.
The deadline of the workflow ends the time that it has.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from dbos_async._database.calls import Call, Row
from dbos_async._database.sql import load
from dbos_async._database.statement import Statement

Found = tuple[str | None, str | None]

with load(__name__) as sql:
    END_STEP: Final = sql.statement("END_STEP")

CANCELLED: Final = (
    '{"type":"asyncio.exceptions:CancelledError","message":"The workflow was cancelled, and may clean up."}'
)
"""The recorded error of a step that ended because of the request."""

LOOK_EVERY_SECONDS: Final = 0.5

ASKED: Final = "the workflow was cancelled, and may clean up"


class EndedStep(Protocol):
    """A step that can carry the request."""

    run: Any
    task: asyncio.Task[Any]
    verb: str
    key: str
    began: float
    is_begun: bool
    is_deferred: bool
    is_cancelled: bool

    @property
    def columns(self) -> tuple[str, int, str, int]: ...

    def call(self, statement: Statement, rows: Sequence[Row], /) -> Call: ...

    async def attempt(self, call: Call, /) -> tuple[Any, float | None]: ...


class EndRequest:
    """What a run knows of the request to end its workflow."""

    __slots__ = ("_body", "_carrier", "_timer", "is_told")

    def __init__(self) -> None:
        self.is_told = False
        """Whether the main task knows of the request: what it does now is its clean-up."""
        self._carrier: Any = None
        """The step that is being ended at this moment."""
        self._body: Any = None
        """The same for a step whose body runs."""
        self._timer: asyncio.TimerHandle | None = None

    def look(self, run: Any) -> None:
        """Find a step that carries the request: one that the main task is inside of, or else one that waits, or a body.

        What is found may have an outcome by then, or swallow its cancellation. So this is done again until the main task is told.
        """
        if self._timer is not None:
            self._timer.cancel()
        if self.is_told or run.over or run.stopped is not None:
            return
        self._timer = run.database.loop.call_later(LOOK_EVERY_SECONDS, self.look, run, context=contextvars.Context())
        inside = [mark for mark in run.inside_verbs or () if mark.task is run.main_task] or run.inside_verbs or ()
        waits = [mark.changes for mark in inside if mark.changes is not None]
        for changes in waits:
            changes.wake()
        bodies = sorted(run.step_bodies, key=lambda step: step.task is not run.main_task)
        if bodies and not waits and self._body is None:
            self._body = bodies[0]
            # Not as a task of the run is cancelled by its own code: the cancellation is for the body of this step alone.
            asyncio.Task.cancel(bodies[0].task, ASKED)

    def reaches(self, step: EndedStep) -> bool:
        """Whether this step, which has no outcome and whose body does not run, carries the request."""
        if self.is_told or step.is_begun or self._body is not None or self._carrier not in (None, step):
            return False
        run = step.run
        return step.task is run.main_task or all(mark.task is not run.main_task for mark in run.inside_verbs or ())

    async def end(self, step: EndedStep) -> Any:
        """End the step, unless it has an outcome by now. ``None``: another call was at the same step."""
        self._carrier, step.is_deferred = step, False
        try:
            result, _ = await step.attempt(step.call(END_STEP, [(*step.columns, step.verb, step.key, CANCELLED)]))
            return result
        finally:
            self._carrier = None
            self.look(step.run)

    def is_ending(self, step: object) -> bool:
        """Whether this step is being ended: it is no sleep any more."""
        return step is self._carrier

    def note(self, step: EndedStep) -> None:
        """The task of this step learns that it has this outcome: the moment at which the main task is told."""
        step.is_cancelled = True
        if not self.is_told:
            self.is_told = True
            main = step.run.main_task
            if main is not None and step.task is not main:
                main.cancel(ASKED)

    def ends_body(self, step: EndedStep) -> bool:
        """The body of a step is over. Whether it was cancelled to carry the request: its task is not cancelled any more then."""
        if step is not self._body:
            return False
        self._body = None
        step.task.uncancel()
        return True


def ask_to_end(run: Any) -> None:
    """Tell the run that its workflow was cancelled and may clean up. Once it knows that, nothing changes."""
    if run.end_request is None and not run.over and run.stopped is None:
        run.end_request = EndRequest()
        run.end_request.look(run)


async def run_body(step: EndedStep, find: Callable[[], Awaitable[Found]]) -> Found:
    """The outcome of the body of a step, which may be that it was cancelled on request."""
    run, task = step.run, step.task
    step.began = time.monotonic()
    run.step_bodies[step] = before = task.cancelling()
    try:
        found = await find()
    except asyncio.CancelledError:
        if run.end_request is None or not run.end_request.ends_body(step) or task.cancelling() > before:
            raise
        found = None, CANCELLED
    finally:
        del run.step_bodies[step]
        if run.end_request is not None:
            run.end_request.ends_body(step)
        was_cancelled = task.cancelling() > before and run.end_cancelled_body()
    if was_cancelled:
        raise asyncio.CancelledError  # other tasks may have gone on as after a cancellation
    return found
