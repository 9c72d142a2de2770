"""The one place where a workflow waits: a step polls its statement after every change, until it has a result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from dbos_async._database.calls import Call, Observer, Row
from dbos_async._database.statement import Statement
from dbos_async._database.wakeups import Subscription
from dbos_async._runs.step import Step
from dbos_async._runs.step_result import StepResult
from dbos_async.errors import WorkflowEndedError

if TYPE_CHECKING:
    from dbos_async._telemetry.acts import Block, Receipt


class Shortcut(Protocol):
    """A way to a result that saves polls. Without one a wait has the same result, only later."""

    def delivered(self, subscription: Subscription) -> StepResult | None:
        """The result that came with a local update, if there is one."""

    def postpone(self, subscription: Subscription) -> bool:
        """Whether this turn need not poll, since the result may be just coming; the shortcut has set when the next turn is."""
        ...

    def waits(self, subscription: Subscription) -> None:
        """A poll has found nothing, and the wait begins or goes on."""

    def found(self, subscription: Subscription, result: StepResult) -> None:
        """A poll has found the result."""


async def wait(
    step: Step,
    statement: Statement,
    row: Row | Callable[[], Row],
    keys: Sequence[bytes],
    *,
    observer: Observer | None = None,
    shortcut: Shortcut | None = None,
    on_cancel: Callable[[], None] | None = None,
    first: Call | Callable[[], Call] | None = None,
    receipt: Receipt | Block | None = None,
) -> StepResult:
    """Replay the step, or poll the statement after every change behind the keys until the step has a result.

    The first poll assumes that the step is new, later polls assume that it waits, and a call that is repeated after its result
    was lost assumes neither. A ``row`` that may change is made anew for each poll. ``on_cancel`` is called when the wait is
    cancelled, before its task goes on. ``first`` is the call that begins the wait if it is more than a poll, or makes it.
    ``receipt`` is what telemetry is told of a wait that is no replay.
    """
    run = step.run
    try:
        inside = run.inside(step.verb, step.task)
        with inside:
            result = await step.replay()
            if result is not None:
                return result
            if step.waited:
                statement, first = statement.sql_when_waiting or statement, None
            with run.database.changes(*keys) as changes:
                inside.changes = changes
                result = await _poll(step, statement, row, changes, observer, shortcut, first, receipt)
        if receipt is not None:
            receipt.found()
        return result
    except (asyncio.CancelledError, WorkflowEndedError) as error:
        if on_cancel is not None:
            on_cancel()
        if isinstance(error, asyncio.CancelledError):
            await step.wait_for_cancellation()
        raise


async def _poll(
    step: Step,
    statement: Statement,
    row: Row | Callable[[], Row],
    changes: Subscription,
    observer: Observer | None,
    shortcut: Shortcut | None,
    first: Call | Callable[[], Call] | None,
    receipt: Receipt | Block | None,
) -> StepResult:
    is_waiting = False
    try:
        async for subscription in changes:
            if receipt is not None:
                receipt.turn(waited=is_waiting)
            if shortcut is not None and (result := shortcut.delivered(subscription)) is not None:
                await step.release()
                return result
            if step.run.end_request is not None and step.run.end_request.reaches(step):
                ended: StepResult | None = await step.run.end_request.end(step)
                if ended is not None:
                    return ended
                subscription.wake()
                continue
            if shortcut is not None and shortcut.postpone(subscription):
                continue
            if first is None:
                call = step.call(statement, (row() if callable(row) else row,), observer=observer)
            else:
                call, first = first() if callable(first) else first, None
            result, seconds_left = await step.attempt(call)
            if result is not None:
                if shortcut is not None:
                    shortcut.found(subscription, result)
                return result
            statement = statement.sql_when_waiting or statement
            subscription.poll_within(seconds_left)
            if shortcut is not None:
                shortcut.waits(subscription)
            if not is_waiting:  # from now on the run takes no slot
                is_waiting = True
                step.run.begin_waiting()
    finally:
        if is_waiting:
            step.run.end_waiting()
    raise AssertionError("The changes of a subscription do not end.")
