"""Calls that were set aside: the server refuses them, or they wait for a lock that another transaction holds.

Each is repeated on its own, with growing pauses, so that no other call waits for it. The calls of the same statement and partition
that come meanwhile follow it here, since they probably meet the same lock. Those that were not tried yet go first.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from dbos_async._database.calls import Call
from dbos_async._database.outages import backoff_seconds
from dbos_async._database.statement import Statement

MAX_ATTEMPTS_AT_A_TIME: Final = 2
"""How many connections the calls that were set aside may take at a time."""

MANY_FAILURES: Final = 3

MAX_FAILURES_IN_A_ROW: Final = 10

PAUSE_SECONDS: Final = 0.2
"""The pause after each attempt once so many have failed in a row."""


@dataclass(slots=True, order=True)
class _SetAside:
    retry_at: float
    call: Call = field(compare=False)
    failures: int = field(compare=False)
    reason: str = field(compare=False, default="")
    """Why the last attempt failed."""


class Aside:
    """The calls of one process that were set aside. ``attempt`` tries one of them; the reason why it must be repeated."""

    def __init__(self, loop: asyncio.AbstractEventLoop, attempt: Callable[[Call], Awaitable[str | None]]) -> None:
        self._loop, self._attempt = loop, attempt
        self._new: deque[_SetAside] = deque()
        """Calls that were not tried on their own yet."""
        self._failed: list[_SetAside] = []
        """The others: a heap, with the call that is due next at its top."""
        self.partitions: Counter[tuple[Statement, str | int]] = Counter()
        """How many calls of each partition are here."""
        self._attempts: set[asyncio.Task[None]] = set()
        self._failures_in_a_row = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def calls(self) -> Iterator[Call]:
        """The calls that wait for their next attempt."""
        return (each.call for each in (*self._new, *self._failed))

    def refusals(self) -> dict[Statement, str]:
        """The statements of calls that have failed several times, and why."""
        return {one.call.statement: one.reason for one in self._failed if one.failures >= MANY_FAILURES}

    def has(self, call: Call) -> bool:
        """Whether calls of the same statement and partition are here."""
        return bool(self.partitions) and (call.statement, call.partition) in self.partitions

    def add(self, call: Call, reason: str = "") -> None:
        """Set a call aside, since it has failed for this reason or follows another one."""
        self.partitions[call.statement, call.partition] += 1
        self._put(_SetAside(0.0, call, 1 if reason else 0, reason))

    async def close(self, *, within_seconds: float) -> list[Call]:
        """Begin no attempt any more, and end those that take longer; the calls that are left."""
        left = list(self.calls)
        self._new.clear()
        self._failed.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._attempts:
            _, late = await asyncio.wait(set(self._attempts), timeout=within_seconds)
            for attempt in late:
                attempt.cancel()
            if late:
                await asyncio.wait(late)
        return left

    def _put(self, one: _SetAside) -> None:
        if one.failures:
            one.retry_at = self._loop.time() + backoff_seconds(one.failures)
            heapq.heappush(self._failed, one)
        else:
            self._new.append(one)
        self._begin_due()

    def _begin_due(self) -> None:
        """Try the calls that are due, as far as connections may be taken; set the timer for the next one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while len(self._attempts) < MAX_ATTEMPTS_AT_A_TIME:
            if self._new:
                one = self._new.popleft()
            elif not self._failed:
                return
            elif self._failed[0].retry_at > self._loop.time():
                retry_at = self._failed[0].retry_at
                self._timer = self._loop.call_at(retry_at, self._begin_due, context=contextvars.Context())
                return
            else:
                one = heapq.heappop(self._failed)
            name = f"dbos_async repeats {one.call.statement.name}"
            task = self._loop.create_task(self._try(one), name=name, context=contextvars.Context())
            self._attempts.add(task)
            task.add_done_callback(self._on_attempt_over)

    def _on_attempt_over(self, task: asyncio.Task[None]) -> None:
        self._attempts.discard(task)
        self._begin_due()

    async def _try(self, one: _SetAside) -> None:
        is_over = True
        try:
            reason = await self._attempt(one.call)
            is_over = reason is None
            one.reason = reason or ""
            self._failures_in_a_row = 0 if is_over else self._failures_in_a_row + 1
            if self._failures_in_a_row > MAX_FAILURES_IN_A_ROW:
                await asyncio.sleep(PAUSE_SECONDS)  # the server refuses everything: ask it less often
        finally:
            if is_over:
                self._forget(one.call)
            else:
                one.failures += 1
                self._put(one)

    def _forget(self, call: Call) -> None:
        key = call.statement, call.partition
        self.partitions[key] -= 1
        if not self.partitions[key]:
            del self.partitions[key]
