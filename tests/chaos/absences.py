"""When an executor could not reach the database, or was gone: the only reasons for which others may take its work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf

TOO_LONG_SECONDS = 9.0
"""An executor that the database hears nothing of for so long may be reaped: its lease is 15 s, and there is the way to and fro."""

SHORT_SECONDS = 1.0
"""One that has lost its connection may be reaped after two seconds, unless it comes back."""

BEFORE_SECONDS = 30.0
"""So long before it is seen, the reason of a reaping may have begun."""


@dataclass
class Absence:
    """Something that happened to one executor, by the clock of this machine."""

    executor: str
    kind: str
    """``gone``: its process ended. ``lost``: some of its connections. ``silent``: the database heard nothing of it."""
    began: float
    ended: float = inf


class Absences:
    """Everything that excuses."""

    def __init__(self) -> None:
        self._all: list[Absence] = []

    def note(self, *absences: Absence) -> None:
        """Keep these."""
        self._all += absences

    def gone(self, executor: str) -> None:
        """Its process is about to end."""
        self.note(Absence(executor, "gone", time.time(), time.time()))

    def lost(self, *executors: str) -> None:
        """They lose connections now."""
        self.note(*(Absence(executor, "lost", time.time(), time.time()) for executor in executors))

    @contextmanager
    def silent(self, executor: str) -> Iterator[None]:
        """The database hears nothing of it for as long as this block lasts."""
        absence = Absence(executor, "silent", time.time())
        self.note(absence)
        try:
            yield
        finally:
            absence.ended = time.time()

    def has_gone(self, executor: str, began: float, seen: float) -> bool:
        """Whether its process ended in that time."""
        return any(
            absence.kind == "gone" and absence.executor == executor and began - 0.5 <= absence.began <= seen + 0.5
            for absence in self._all
        )

    def excuse(self, executor: str, began: float, seen: float) -> bool:
        """Whether others may have taken, not later than ``seen``, what this executor had begun at ``began``."""
        if self.has_gone(executor, began, seen):
            return True
        mine = [absence for absence in self._all if absence.executor == executor and absence.began <= seen + 0.5]
        since = began - BEFORE_SECONDS
        losses = [absence.began for absence in mine if absence.kind == "lost" and absence.began >= since]
        for start, end in _joined([a for a in mine if a.kind == "silent" and a.ended >= since]):
            if end - start >= TOO_LONG_SECONDS:
                return True
            if end - start >= SHORT_SECONDS and any(start - 4 <= loss <= end + 4 for loss in losses):
                return True
        return False


def _joined(silences: list[Absence]) -> Iterator[tuple[float, float]]:
    """Silences that follow each other within three seconds are one."""
    start, end = -inf, -inf
    for absence in sorted(silences, key=lambda a: a.began):
        if absence.began - end > 3:
            if end > start:
                yield start, end
            start = absence.began
        end = max(end, min(absence.ended, time.time()))
    if end > start:
        yield start, end
