"""The time limit of calls outside of workflows: wherever such a call is, it fails once it has waited long enough."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterable
from math import inf
from typing import Final

from dbos_async._database.calls import Call
from dbos_async._database.loop_watch import LoopWatch
from dbos_async._database.names import Names
from dbos_async.errors import ConfigurationError, DatabaseUnavailableError

SWEEP_EVERY_SECONDS: Final = 0.25

GRACE_SECONDS: Final = 1.0
"""A call that was sent so short a time before its limit is given the time to hear what became of it."""

STILL_AT_WORK: Final = "it is still at work"


class TimeLimits:
    """Fails the calls that are late. ``pending`` gives all calls without a result, each with the time at which it was
    sent and the reason why it has none."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        loop_watch: LoopWatch,
        seconds: float,
        pending: Callable[[], Iterable[tuple[Call, float, str]]],
        names: Names,
    ) -> None:
        self._loop, self._loop_watch, self._seconds, self._pending = loop, loop_watch, seconds, pending
        self._names = names
        self._timer: asyncio.TimerHandle | None = None
        self.end_if_forbidden: bool = False
        """Whether calls that the role has no right for fail at once, and wait for nobody who grants it."""

    def begin(self, call: Call) -> None:
        """The call begins to wait."""
        call.give_up_at = self._loop.time() + self._seconds
        if self._timer is None:
            self._set_timer(call.give_up_at)

    def close(self) -> None:
        """Look no longer."""
        if self._timer is not None:
            self._timer.cancel()

    def fail_late(self, calls: Iterable[Call], reason: str) -> None:
        """Fail those of these calls that are late. None of them is at the server now."""
        now = self._loop.time()
        for call in calls:
            if call.give_up_at <= now:
                self._fail(call, reason, may_have_committed=call.was_sent)

    def fail_forbidden(self, calls: Iterable[Call], reason: str) -> None:
        """Fail those of these calls that have a time limit, since the role may not do what they do."""
        for call in calls:
            if call.give_up_at < inf:
                call.fail(
                    ConfigurationError(
                        f"This role may not do that ({reason}): grant it the rights on the schema {self._names.schema} "
                        f"('dbos-async migrate <url>{self._names.options} --grant <role>'), or connect as another role."
                    )
                )

    def _sweep(self) -> None:
        """Fail the calls that have waited long enough, and come back for the next one."""
        self._timer = None
        now = self._loop.time()
        if self._loop_watch.was_blocked():
            return self._set_timer(now + SWEEP_EVERY_SECONDS)  # the results may be here, and not read yet
        next_at = inf
        for call, sent_at, reason in list(self._pending()):
            give_up_at = max(call.give_up_at, sent_at + GRACE_SECONDS)
            if give_up_at > now:
                next_at = min(next_at, give_up_at)
            else:
                self._fail(call, reason, may_have_committed=call.was_sent or sent_at > -inf)
        if next_at < inf:
            self._set_timer(max(next_at, now + SWEEP_EVERY_SECONDS))

    def _fail(self, call: Call, reason: str, *, may_have_committed: bool) -> None:
        call.fail(DatabaseUnavailableError(self._seconds, may_have_committed, reason or STILL_AT_WORK))

    def _set_timer(self, at: float) -> None:
        self._timer = self._loop.call_at(at, self._sweep, context=contextvars.Context())
