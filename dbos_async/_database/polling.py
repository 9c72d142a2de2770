"""In the place of the listener, where there is no LISTEN: one statement asks for all that this process waits for, again and again.

While the answers bring changes it asks every 20 ms, and less and less often when they bring none, up to every 500 ms. It takes a
connection of the pool like any call, and needs no session. What this process itself commits wakes its waiters at once, as ever.

No change is lost. A waiter is in the rota before it polls by itself. If a later answer has a version that is not known yet, the
waiter is woken and polls again. If the version is known, an earlier answer had it, and the waiter was woken then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from math import inf
from typing import Final

import anyio
import asyncpg

from dbos_async._database.change_keys import name_keys
from dbos_async._database.connections import Postgres
from dbos_async._database.outages import CONNECT_ERRORS, Meaning, backoff_seconds, meaning_of
from dbos_async._database.probe import terminated_after
from dbos_async._database.sql import load
from dbos_async._database.urls import reason_of
from dbos_async._database.wakeups import Wakeups
from dbos_async._database.watched import FRESH_LOOKS, MOST, Rota, RunWatch, Watched

log = logging.getLogger("dbos_async")

BUSY_SECONDS = 0.02
BUSY_BELOW_SECONDS = 0.1
QUIET_SECONDS = 0.5
SLOWER: Final = 1.5
"""After an answer without a change the next poll comes so many times later."""

EARLY_SECONDS: Final = 0.1
"""What is due so soon comes along with what is due now."""

BUSY_REST: Final = 3.0
QUIET_REST: Final = 30.0
"""After a poll comes a pause of so many times its length: a process that waits for very much asks less often instead."""

MAX_ROUND_SECONDS: Final = 2.0
"""But each wait is asked for so often, also where a poll took long because the machine had other work."""

SLOW_SECONDS: Final = 0.1
COMPARE_AGAIN_SECONDS: Final = 60.0
"""A look at all queues that took so long is not repeated before this time has passed: a transaction that is open for long keeps
the entries of messages that were received in the index."""

ASK_EVERY_SECONDS: Final = 5.0
"""So often it asks also when nobody waits, and so detects a server that vanished without closing its connections."""

ANSWER_WITHIN_SECONDS = 5.0

LOG_EVERY_SECONDS: Final = 60.0

with load(__name__) as sql:
    POLL: Final = sql.statement("POLL", parallelism=1)


class Polling:
    """Polls until cancelled. It is used like a `Listener`."""

    complaint: Final = "The polls for changes have no answer"
    """What health says before the reason."""

    def __init__(self, postgres: Postgres, wakeups: Wakeups, owner: Callable[[], str | None]) -> None:
        self._postgres = postgres
        self._wakeups = wakeups
        self._owner = owner
        """The executor of this process, if there is one."""
        self._loop = asyncio.get_running_loop()
        self._waits, self._runs = Rota(), RunWatch()
        self._is_due = asyncio.Event()
        """Set when the next poll may be due earlier than it was."""
        self._interval = QUIET_SECONDS
        self._asks_each = False
        """Whether the next poll asks for the waits one by one, since something has changed that may concern one of them."""
        self._fresh_at = self._old_at = self._compare_at = self._ask_at = 0.0
        self.connected: anyio.Event = anyio.Event()
        """Set after the first answer, also if that is that somebody has locked a table."""
        self.is_listening: bool = False
        """Whether the last poll was answered."""
        self.last_error: str = "no connection could be made"
        self._log_at = self._warn_at = float("-inf")
        name_keys()

    def begin(self, keys: Sequence[bytes]) -> None:
        """A waiter for these keys has come."""
        if not self._waits.fresh:
            # It polls by itself first.
            self._fresh_at = max(self._fresh_at, self._loop.time() + BUSY_SECONDS)
            self._is_due.set()
        for key in keys:
            self._waits.begin(key)

    def end(self, key: bytes) -> None:
        """The last one has left."""
        self._waits.end(key)

    def begin_run(self, key: bytes, workflow_id: str, attempt: int) -> None:
        """A run has begun."""
        if self._runs.due_at == inf:
            self._is_due.set()
        self._runs.begin(key, workflow_id, attempt)

    def end_run(self, key: bytes) -> None:
        """It is over."""
        self._runs.end(key)

    async def run(self) -> None:
        """Poll until cancelled; while the database is away, with growing pauses."""
        failures = 0
        while True:
            now = self._loop.time()
            waits, runs = self._take_waits(now), self._take_runs(now)
            try:
                if waits or runs or not self.is_listening or now >= self._ask_at:
                    self._tell([*waits, *runs], await self._poll([*waits, *runs]))
                failures = 0
            except Exception as error:
                self._runs.put_back(runs)
                self._waits.forget()
                failures += 1
                self._note_failure(error, failures)
            self._waits.put_back(waits)
            self._rest(self._loop.time() - now)
            if failures:
                await asyncio.sleep(backoff_seconds(failures))
            else:
                if not self.is_listening:
                    self._note_answer()
                await self._pause()

    def _take_waits(self, now: float) -> list[Watched]:
        """Which waits to ask for now."""
        waits = self._waits.take_fresh()
        if now >= self._old_at:
            one_by_one = self._interval < BUSY_BELOW_SECONDS or now < self._compare_at
            waits += self._waits.take_old(max(MOST - len(waits), MOST // 4), one_by_one=one_by_one)
            self._old_at = inf  # `_rest` says when they are due again
        return waits

    def _take_runs(self, now: float) -> list[Watched]:
        """Which runs to ask for now."""
        owner = self._owner()
        return (
            self._runs.take(owner, MOST, now) if owner is not None and now + EARLY_SECONDS >= self._runs.due_at else []
        )

    async def _poll(self, asked: Sequence[Watched]) -> list[asyncpg.Record]:
        kinds, ids = [each.kind for each in asked], [each.id for each in asked]
        names, seen = [each.name for each in asked], [each.seen for each in asked]
        async with self._postgres.acquire() as connection:
            sent_at = self._loop.time()
            try:
                with terminated_after(connection, ANSWER_WITHIN_SECONDS):
                    # unnest pads a short array with nulls: most waits have seen nothing yet.
                    records: list[asyncpg.Record] = await connection.fetch(
                        POLL.sql.batch, (), kinds, ids, names, seen if any(seen) else ()
                    )
            except BaseException:
                if self._loop.time() - sent_at >= ANSWER_WITHIN_SECONDS:
                    # The server vanished without closing this connection, so idle connections to it are dead, too.
                    self._postgres.discard_idle()
                raise
        return records

    def _tell(self, asked: Sequence[Watched], records: Sequence[asyncpg.Record]) -> None:
        """Wake those who wait for what has changed."""
        hurries = False
        for _, index, version in records:
            found = asked[index]
            found.seen = version
            if found.kind == "runs":
                self._runs.note_change()
                continue
            if found.kind == "queues":
                self._asks_each |= self._waits.note_queues()
                continue
            hurries |= found.is_old
            found.looks = FRESH_LOOKS
            if version is not None and not found.is_gone:
                self._wakeups.wake(found.key)
        if hurries:
            self._interval = BUSY_SECONDS
        elif self._old_at == inf:
            self._interval = min(self._interval * SLOWER, QUIET_SECONDS)

    def _rest(self, took: float) -> None:
        """Say when the next polls are due, after one that took so long."""
        now = self._loop.time()
        self._ask_at = now + ASK_EVERY_SECONDS
        self._fresh_at = now + min(max(BUSY_SECONDS, took * BUSY_REST), QUIET_SECONDS)
        if self._old_at == inf:
            if took > SLOW_SECONDS and self._waits.compares:
                self._compare_at = now + COMPARE_AGAIN_SECONDS
            parts = max(self._waits.parts, 1)
            rest = took * (BUSY_REST if self._interval < BUSY_BELOW_SECONDS else QUIET_REST)
            self._old_at = now + max(self._interval / parts, min(rest, MAX_ROUND_SECONDS / parts))
        if self._asks_each or self._interval == BUSY_SECONDS:
            self._asks_each, self._old_at = False, min(self._old_at, self._fresh_at)

    async def _pause(self) -> None:
        """Wait until something is due to be asked for."""
        while True:
            due_at = self._due_at()
            if due_at <= self._loop.time():
                return
            self._is_due.clear()
            timer = self._loop.call_at(due_at, self._is_due.set)
            try:
                await self._is_due.wait()
            finally:
                timer.cancel()

    def _due_at(self) -> float:
        due_at = self._fresh_at if self._waits.fresh else self._ask_at
        if self._waits.has_waits:
            due_at = min(due_at, self._old_at)
        return min(due_at, max(self._runs.due_at, self._fresh_at))

    def _note_answer(self) -> None:
        self.is_listening = True
        self._postgres.outage_log.end()
        self._wakeups.wake_all()
        self.connected.set()

    def _note_failure(self, error: Exception, failures: int) -> None:
        self.is_listening = False
        self.last_error = reason_of(error)
        if meaning_of(error) is Meaning.LOCKED:
            self.connected.set()
        if not isinstance(error, CONNECT_ERRORS):
            if self._loop.time() >= self._log_at:
                self._log_at = self._loop.time() + LOG_EVERY_SECONDS
                log.error("A poll for changes failed, and the next one follows.", exc_info=error)
        elif failures == 1 and self._loop.time() >= self._warn_at and not self._postgres.loop_watch.was_blocked():
            self._warn_at = self._loop.time() + LOG_EVERY_SECONDS
            self._postgres.outage_log.begin()
            text = "A poll for changes lost the database (%s: %s), and is repeated."
            log.warning(text, type(error).__name__, reason_of(error))
