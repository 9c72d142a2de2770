"""Calls that were set aside: the server refuses them, or they wait for a lock that another transaction holds.

Each is repeated on its own, with growing pauses, so that no other call waits for it. The calls of the same statement and partition
that come meanwhile follow it here, since they probably meet the same lock. Those that have failed take turns within their
partition, the partitions take turns, and so do calls that were not tried yet.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
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

MIN_GAP_SECONDS: Final = 0.05
"""The pause between two attempts of failed calls of one partition."""


@dataclass(slots=True, eq=False)
class SetAside:
    """One call that was set aside."""

    call: Call
    since: float
    failures: int = 0
    reason: str = ""
    """Why the last attempt failed."""
    is_locked: bool = False
    """Whether that was a lock."""

    @property
    def is_patient(self) -> bool:
        """Whether the next attempt waits for a lock as long as other calls do."""
        return self.failures % PATIENT_EVERY == PATIENT_EVERY - 1


Partition = tuple[Statement, str | int]


class Aside:
    """The calls of one process that were set aside. ``attempt`` tries one of them: why it must be repeated, ``None`` if not."""

    def __init__(self, loop: asyncio.AbstractEventLoop, attempt: Callable[[SetAside], Awaitable[str | None]]) -> None:
        self._loop, self._attempt = loop, attempt
        self._all: dict[int, SetAside] = {}
        """Every call here, by its id, also while it is tried."""
        self._new: deque[SetAside] = deque()
        """Those that were not tried on their own yet."""
        self._failed: dict[Partition, deque[SetAside]] = {}
        """The others, by their partitions."""
        self._due: list[tuple[float, int, Partition]] = []
        """When a failed call of each partition is tried again: a heap. A partition has at most one attempt at a time."""
        self._count = itertools.count()
        self.partitions: Counter[Partition] = Counter()
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
        one = self._all[id(call)] = SetAside(call, self._loop.time(), 1 if reason else 0, reason)
        if reason:
            self._put_back(one)
        else:
            self._new.append(one)
        self._begin_due()

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

    def _put_back(self, one: SetAside) -> None:
        """Let a call that has failed wait for its turn."""
        partition = one.call.statement, one.call.partition
        queue = self._failed.get(partition)
        if queue is None:
            queue = self._failed[partition] = deque()
            self._set_due(partition, backoff_seconds(one.failures))
        queue.append(one)

    def _set_due(self, partition: Partition, seconds: float) -> None:
        heapq.heappush(self._due, (self._loop.time() + seconds, next(self._count), partition))

    def _begin_due(self) -> None:
        """Try the calls that are due, as far as connections may be taken; set the timer for the next one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while len(self._attempts) < MAX_ATTEMPTS_AT_A_TIME and not self._is_closed:
            due_at = max(self._due[0][0], self._pause_until) if self._due else None
            is_due = due_at is not None and due_at <= self._loop.time()
            if self._new and not (is_due and self._was_new):
                self._was_new = True
                self._begin(self._new.popleft(), None)
            elif is_due:
                self._was_new = False
                _, _, partition = heapq.heappop(self._due)
                self._begin(self._failed[partition].popleft(), partition)
            else:
                if due_at is not None:
                    self._timer = self._loop.call_at(due_at, self._begin_due, context=contextvars.Context())
                return

    def _begin(self, one: SetAside, partition: Partition | None) -> None:
        name = f"dbos_async repeats {one.call.statement.name}"
        task = self._loop.create_task(self._try(one, partition), name=name, context=contextvars.Context())
        self._attempts.add(task)
        task.add_done_callback(self._on_attempt_over)

    def _on_attempt_over(self, task: asyncio.Task[None]) -> None:
        self._attempts.discard(task)
        self._begin_due()

    async def _try(self, one: SetAside, partition: Partition | None) -> None:
        """Try a call: a new one, or the one whose turn it is in its partition."""
        reason = await self._attempt(one)
        one.failures, one.reason = one.failures + 1, reason or ""
        if reason is None:
            self._failures_in_a_row, self._pause_until = 0, 0.0
            self._forget(one)
        elif not one.is_locked:
            self._failures_in_a_row += 1
            if self._failures_in_a_row > MAX_FAILURES_IN_A_ROW:
                self._pause_until = self._loop.time() + PAUSE_SECONDS
        if partition is None:
            if reason is not None:
                self._put_back(one)
            return
        queue = self._failed[partition]
        if reason is not None:
            queue.append(one)
        if not queue:
            del self._failed[partition]
        elif reason is None:
            self._set_due(partition, 0.0)
        else:
            self._set_due(partition, max(backoff_seconds(one.failures) / len(queue), MIN_GAP_SECONDS))

    def _forget(self, one: SetAside) -> None:
        del self._all[id(one.call)]
        key = one.call.statement, one.call.partition
        self.partitions[key] -= 1
        if not self.partitions[key]:
            del self.partitions[key]
