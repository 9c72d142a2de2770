"""Times at which something is due that this process has delayed: then it looks at once, and not within a second.

Without this file all happens a little later, nothing else.
"""

from __future__ import annotations

import asyncio
import contextvars
from heapq import heappop, heappush
from typing import Final

from dbos_async._database.change_keys import DUE_KEY
from dbos_async._database.wakeups import Wakeups

MAX_TIMES: Final = 10_000
"""Further times are not remembered."""

SLACK_SECONDS: Final = 0.001
"""The clock of the event loop may be ahead of that of the database by so much at the end of a delay."""


class Alarm:
    """Wakes those who look for what is due."""

    def __init__(self, wakeups: Wakeups) -> None:
        self._wakeups = wakeups
        self._times: list[float] = []
        self._timer: asyncio.TimerHandle | None = None

    def ring_in(self, seconds: float) -> None:
        """Wake them when this time has passed."""
        if len(self._times) < MAX_TIMES:
            heappush(self._times, self._wakeups.loop.time() + seconds + SLACK_SECONDS)
            self._set()

    def close(self) -> None:
        """Wake nobody any more."""
        self._times.clear()
        self._set()

    def _set(self) -> None:
        if self._timer is not None:
            if self._times and self._timer.when() <= self._times[0]:
                return
            self._timer.cancel()
            self._timer = None
        if self._times:
            self._timer = self._wakeups.loop.call_at(self._times[0], self._ring, context=contextvars.Context())

    def _ring(self) -> None:
        self._timer = None
        now = self._wakeups.loop.time()
        while self._times and self._times[0] <= now + SLACK_SECONDS:
            heappop(self._times)
        self._wakeups.wake(DUE_KEY)
        self._set()
