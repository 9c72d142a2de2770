"""Whether the event loop was blocked: what came late then is no fault of the database."""

from __future__ import annotations

import asyncio
import contextvars
import time
from typing import Final

BEAT_SECONDS: Final = 0.25

BLOCKED_SECONDS: Final = 1.0
"""A loop that has had no turn for so long is blocked."""

GRACE_SECONDS: Final = 1.0
"""So long after it was blocked, a loop may still be busy with what came meanwhile."""


class LoopWatch:
    """Notes the time at short intervals. Other threads may read ``beat_at``."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.beat_at: float = time.monotonic()
        """When the loop had its last turn, by the monotonic clock."""
        self.blocked_seconds: float = 0.0
        """For how long it was blocked so far, without blocks of less than a second."""
        self._unblocked_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Watch from now on."""
        self._beat()

    def stop(self) -> None:
        """Watch no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def was_blocked(self, within_seconds: float = GRACE_SECONDS) -> bool:
        """Whether the loop is only just free again, after it, or the whole process, stood still."""
        now = time.monotonic()
        if now - self.beat_at >= BLOCKED_SECONDS and self._timer is not None:
            return True  # it was, and the beat has not had its turn
        return now - self._unblocked_at < within_seconds

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self.beat_at >= BLOCKED_SECONDS:
            self._unblocked_at = now
            self.blocked_seconds += now - self.beat_at
        self.beat_at = now
        self._timer = self._loop.call_later(BEAT_SECONDS, self._beat, context=contextvars.Context())
