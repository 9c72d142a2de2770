"""Claiming: an executor takes PENDING workflows that no executor owns, as long as it has free slots."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Sequence
from typing import Final

from dbos_async._database.calls import Call, Observer, Result
from dbos_async._database.change_keys import UNOWNED_KEY
from dbos_async._database.sql import load
from dbos_async._executor.executor import Executor
from dbos_async._runs.run import RUNS_OF_ONE, Run
from dbos_async._serialization.values import encode_value

MAX_CLAIMED = 100
"""How many workflows one statement claims at most."""

MANY_NAMES = 100
"""An executor that knows more names first asks which of them workflows wait under: a claim looks for each name."""

NAMES_AT_A_TIME = 1000

CLAIM_PAUSE_SECONDS = 0.01
"""The pause before the next claim while there is more to claim."""

WAKE_AFTER_SECONDS = 2.0, 10.0
"""After taking a workflow over from another executor, its waiting calls query the database once more."""

with load(__name__) as sql:
    CLAIM: Final = sql.statement("CLAIM", parallelism=1)
    WAITING_NAMES: Final = sql.statement("WAITING_NAMES", parallelism=1)


class Claiming(Observer):
    """Claims workflows for one executor and begins their runs."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._database = executor.database
        self._has_more = False
        """Set when workflows may be left that were not claimed for want of a slot."""
        self._wake_timers: set[asyncio.TimerHandle] = set()
        executor.slots.on_slot_freed = self._on_slot_freed

    async def keep_claiming(self) -> None:
        """Claim whenever there is something to claim and a slot is free, until cancelled."""
        with self._database.changes(UNOWNED_KEY) as changes:
            async for subscription in changes:
                if await self._claim():
                    subscription.poll_within(CLAIM_PAUSE_SECONDS)

    def close(self) -> None:
        """Cancel the timers, when the executor shuts down."""
        for timer in self._wake_timers:
            timer.cancel()
        self._wake_timers.clear()

    async def _claim(self) -> bool:
        """Take workflows that no executor owns, as many as slots are free. True when there may be more."""
        executor = self._executor
        names = await self._names()
        most = min(executor.free_slots, MAX_CLAIMED)
        self._has_more = most <= 0
        if executor.closing or executor.suspended is not None or most <= 0 or not names:
            return False
        row = executor.id, encode_value(names), executor.application_version, most
        executor.reserved_slots += most
        try:
            answer = await self._database.call(CLAIM, [row], partition="", retry_forever=True, observer=self)
        finally:
            executor.reserved_slots -= most
        self._has_more = answer[0]["more"]
        return self._has_more

    async def _names(self) -> list[str]:
        """The names to claim: all that this executor knows, or those of them under which workflows wait."""
        known = self._executor.workflows
        if len(known) <= MANY_NAMES or self._executor.free_slots <= 0:
            return list(known)
        found: list[str] = []
        page: list[str] | None = None
        while page is None or len(page) == NAMES_AT_A_TIME:
            row = page[-1] if page else "", NAMES_AT_A_TIME
            answer = await self._database.call(WAITING_NAMES, [row], partition="", retry_forever=True)
            page = [name for _, name in answer]
            found += [name for name in page if name in known]
        return found

    def on_result(self, call: Call, result: Result) -> None:
        """Begin the claimed runs."""
        executor = self._executor
        taken_over: list[Run] = []
        for _, _, workflow_id, name, text, attempt, *rest in result:
            if workflow_id is not None:
                run = executor.begin(workflow_id, name, text, attempt, *rest)
                if run is not None and attempt % RUNS_OF_ONE > 1:
                    taken_over.append(run)
        for seconds in WAKE_AFTER_SECONDS if taken_over else ():
            self._wake_later(taken_over, seconds)

    def _wake_later(self, runs: Sequence[Run], seconds: float) -> None:
        """Let the waits of these runs query the database once more.

        Who sent a message at the moment of the claim has told the former owner of it, or nobody if that was his own process.
        """

        def wake() -> None:
            self._wake_timers.discard(timer)
            for run in runs:
                run.wake_waits()

        timer = self._executor.loop.call_later(seconds, wake, context=contextvars.Context())
        self._wake_timers.add(timer)

    def _on_slot_freed(self) -> None:
        if self._has_more and self._executor.free_slots > 0:
            self._database.wakeups.wake(UNOWNED_KEY)
