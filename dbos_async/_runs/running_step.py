"""Steps under way of which nothing is recorded yet: steps of users, and waits for results. The list of steps shows them."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol, Self


class Tries(NamedTuple):
    """How far a step is that failed and is tried again."""

    attempt: int
    """The attempt that runs now, or is the next."""
    next_at: float | None
    """When it begins, by the monotonic clock; ``None`` when it has begun."""
    last_error: str
    """The text of the error of the attempt before, empty if there is none."""
    waits: bool = False
    """Whether it waits for its turn, since not more attempts of its step may run at once."""


class UnderWay(Protocol):
    """What a step tells of itself while it is under way."""

    branch: str
    number: int
    verb: str
    key: str
    began: float
    """When it began, by the monotonic clock."""
    tries: Tries | None


def fields_of(step: UnderWay, attempt: int) -> list[Any]:
    """What is told of a step under way, as JSON. Times are seconds from now. ``attempt`` is that of the run."""
    now, tries = time.monotonic(), step.tries
    next_in = None if tries is None or tries.next_at is None else round(tries.next_at - now, 3)
    tried = 1 if step.verb == "step" and tries is None else None if tries is None or tries.waits else tries.attempt
    last_error = None if tries is None else tries.last_error or None
    return [
        attempt, step.branch, step.number, step.verb, step.key, round(now - step.began, 3), tried, next_in, last_error,
    ]  # fmt: skip


class RunningStep(NamedTuple):
    """One of these steps, as it was told."""

    branch: str
    number: int
    verb: str
    key: str
    started_at: datetime
    tried: int | None
    next_at: datetime | None
    last_error: str | None

    @classmethod
    def of(cls, fields: list[Any], at: datetime) -> Self:
        """The step that was told of with these fields at that time."""
        _, branch, number, verb, key, age, tried, next_in, last_error = fields
        next_at = None if next_in is None else at + timedelta(seconds=next_in)
        return cls(branch, number, verb, key, at - timedelta(seconds=age), tried, next_at, last_error)

    @property
    def place(self) -> tuple[str, int]:
        """The branch, and the number in it."""
        return self.branch, self.number

    @property
    def path(self) -> str:
        """The number as people write it."""
        return f"{self.branch}.{self.number}" if self.branch else str(self.number)
