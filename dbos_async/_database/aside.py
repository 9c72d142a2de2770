"""Calls that were set aside: the server refuses them, or they wait for a lock that another transaction holds.

Each is repeated on its own, with growing pauses, so that no other call waits for it. The calls of the same statement and partition
that come meanwhile follow it here, since they probably meet the same lock. Calls that were not tried yet and calls that are due
again take turns.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from dbos_async._database.calls import Call
from dbos_async._database.outages import backoff_seconds
from dbos_async._database.statement import Statement

MAX_ATTEMPTS_AT_A_TIME: Final = 2
"""How many connections the calls that were set aside may take at a time."""

PATIENT_EVERY: Final = 8
"""Every so many attempts a call waits for a lock as long as other calls do. Otherwise it only looks whether the lock is free."""

SEEN_AFTER_SECONDS: Final = 3.0
"""So long after a call was set aside, its statement counts as refused."""

MAX_FAILURES_IN_A_ROW: Final = 10
"""After so many failures in a row the server probably refuses everything, and is asked less often."""

PAUSE_SECONDS: Final = 0.2


@dataclass(slots=True, order=True)
class SetAside:
    """One call that was set aside."""

    retry_at: float
    since: float = field(compare=False)
    call: Call = field(compare=False)
    failures: int = field(compare=False, default=0)
    reason: str = field(compare=False, default="")
    """Why the last attempt failed."""

    @property
    def is_patient(self) -> bool:
        """Whether the next attempt waits for a lock as long as other calls do."""
        return self.failures % PATIENT_EVERY == PATIENT_EVERY - 1


class Aside:
    """The calls of one process that were set aside. ``attempt`` tries one of them: why it must be repeated, ``None`` if not."""

    def __init__(self, loop: asyncio.AbstractEventLoop, attempt: Callable[[SetAside], Awaitable[str | None]]) -> None:
        self._loop, self._attempt = loop, attempt
        self._all: dict[int, SetAside] = {}
        """Every call here, by its id, also while it is tried."""
        self._new: deque[SetAside] = deque()
        """Those that were not tried on their own yet."""
        self._failed: list[SetAside] = []
        """The others: a heap, with the call that is due next at its top."""
        self.partitions: Counter[tuple[Statement, str | int]] = Counter()
        """How many calls of each partition are here."""
        self._attempts: set[asyncio.Task[None]] = set()
        self._failures_in_a_row = 0
        self._was_new = False
        self._pause_until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def all(self) -> Collection[SetAside]:
        """Every call here."""
        return self._all.values()

    def refusals(self) -> dict[Statement, str]:
        """The statements of calls that have been here for some seconds, and why."""
        since = self._loop.time() - SEEN_AFTER_SECONDS
        return {one.call.statement: one.reason for one in self._all.values() if one.since <= since}

    def has(self, call: Call) -> bool:
        """Whether calls of the same statement and partition are here."""
        return bool(self.partitions) and (call.statement, call.partition) in self.partitions

    def add(self, call: Call, reason: str = "") -> None:
        """Set a call aside, since it has failed for this reason or follows another one."""
        self.partitions[call.statement, call.partition] += 1
        one = self._all[id(call)] = SetAside(0.0, self._loop.time(), call, 1 if reason else 0, reason)
        self._put(one)

    async def close(self, *, within_seconds: float) -> list[Call]:
        """Begin no attempt any more, and end those that take longer; the calls that are left."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._attempts:
            _, late = await asyncio.wait(set(self._attempts), timeout=within_seconds)
            for attempt in late:
                attempt.cancel()
            if late:
                await asyncio.wait(late)
        return [one.call for one in self._all.values()]

    def _put(self, one: SetAside) -> None:
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
        while len(self._attempts) < MAX_ATTEMPTS_AT_A_TIME and not self._is_closed:
            due_at = max(self._failed[0].retry_at, self._pause_until) if self._failed else None
            is_due = due_at is not None and due_at <= self._loop.time()
            if self._new and not (is_due and self._was_new):
                one, self._was_new = self._new.popleft(), True
            elif is_due:
                one, self._was_new = heapq.heappop(self._failed), False
            else:
                if due_at is not None:
                    self._timer = self._loop.call_at(due_at, self._begin_due, context=contextvars.Context())
                return
            name = f"dbos_async repeats {one.call.statement.name}"
            task = self._loop.create_task(self._try(one), name=name, context=contextvars.Context())
            self._attempts.add(task)
            task.add_done_callback(self._on_attempt_over)

    def _on_attempt_over(self, task: asyncio.Task[None]) -> None:
        self._attempts.discard(task)
        self._begin_due()

    async def _try(self, one: SetAside) -> None:
        reason = await self._attempt(one)
        if reason is None:
            self._failures_in_a_row = 0
            self._pause_until = 0.0
            self._forget(one)
            return
        self._failures_in_a_row += 1
        if self._failures_in_a_row > MAX_FAILURES_IN_A_ROW:
            self._pause_until = self._loop.time() + PAUSE_SECONDS
        one.failures += 1
        one.reason = reason
        self._put(one)

    def _forget(self, one: SetAside) -> None:
        del self._all[id(one.call)]
        key = one.call.statement, one.call.partition
        self.partitions[key] -= 1
        if not self.partitions[key]:
            del self.partitions[key]
