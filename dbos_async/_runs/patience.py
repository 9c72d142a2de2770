"""How long a replay that stands still is waited for."""

from __future__ import annotations

from typing import Final

from dbos_async._runs.run import Run

LOOK_EVERY_SECONDS: Final = 1.0

WARN_AFTER_SECONDS: Final = 1
"""After so many seconds at a stand the log says what a replay waits for."""

PARK_AFTER_SECONDS: Final = 10
"""After so many seconds at a stand the workflow is parked."""

PARK_BLINDLY_AFTER_SECONDS: Final = 3600
"""The same for a cancellation, where the event loop hides the timers that may bring it."""


class Patience:
    """Counts the seconds for which a replay stands still.

    A second does not count in which a call waits for the database or this process was frozen, nor before those timers of the
    workflow are over that were pending when the replay came to a stand.
    """

    __slots__ = ("_looked_at", "_run", "_timers_end", "seconds")

    def __init__(self, run: Run) -> None:
        self._run = run
        self.begin()

    def begin(self) -> None:
        """The replay has moved: count from now on."""
        self.seconds = 0
        self._looked_at = self._run.gate.loop.time()
        self._timers_end = self._run.gate.view.last_timer(self._run) or 0.0

    def look(self) -> int:
        """Look again after `LOOK_EVERY_SECONDS`; the seconds at a stand."""
        now, before = self._run.gate.loop.time(), self._looked_at
        self._looked_at = now
        is_on_time = now - before < 2 * LOOK_EVERY_SECONDS
        is_slow = self._run.database.batches.is_slow(LOOK_EVERY_SECONDS / 2)
        if is_on_time and now >= self._timers_end and not is_slow:
            self.seconds += 1
        return self.seconds
