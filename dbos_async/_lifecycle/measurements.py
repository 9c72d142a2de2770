"""What a launched DBOS tells when metrics are scraped.

The thread that scrapes reads what is at hand. What needs a query, it takes from the answer to the last one and asks for the next:
one query of each kind a scrape, and no scrape waits for the database.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Self

from dbos_async._database.database import Database
from dbos_async._executor.executor import Executor
from dbos_async._lifecycle.lease_thread import LeaseThread
from dbos_async._operations.counts import MessageCount, WorkflowCount, count_messages, count_workflows
from dbos_async._telemetry import names
from dbos_async._workflows.status import workflow_filter

if TYPE_CHECKING:
    from dbos_async._telemetry.instruments import Instruments, Measurement
    from dbos_async._telemetry.telemetry import Telemetry

log = logging.getLogger("dbos_async")

NONE: Final[Mapping[str, str]] = {}

ALL: Final = workflow_filter()

REST: Final = 20
"""After a count comes a pause of so many times its length: on a large database the numbers are older instead."""


class Measurements:
    """The state of one executor, and the counts of the whole database."""

    def __init__(
        self, telemetry: Telemetry, instruments: Instruments, database: Database, executor: Executor, lease: LeaseThread
    ) -> None:
        self._telemetry, self._instruments = telemetry, instruments
        self._database, self._executor, self._lease = database, executor, lease
        self._loop = executor.loop
        self._is_asked = asyncio.Event()
        self._messages: Sequence[MessageCount] = ()
        self._workflows: Sequence[WorkflowCount] = ()
        self._counting = self._loop.create_task(
            self._keep_counting(), name="dbos_async counts", context=contextvars.Context()
        )
        instruments.measured.append(self)

    @classmethod
    def begin(cls, database: Database, executor: Executor, lease: LeaseThread) -> Self | None:
        """Tell from now on, if metrics are on."""
        telemetry = database.telemetry
        if telemetry is None or telemetry.instruments is None:
            return None
        return cls(telemetry, telemetry.instruments, database, executor, lease)

    async def end(self) -> None:
        """Tell no longer."""
        self._instruments.measured.remove(self)
        self._instruments.blocked_before += self._database.postgres.loop_watch.blocked_seconds
        self._counting.cancel()
        await asyncio.wait([self._counting])

    async def _keep_counting(self) -> None:
        while True:
            began = self._loop.time()
            try:
                messages = await count_messages(self._database)
                self._workflows = await count_workflows(self._database, ALL)
                self._messages = messages
            except (
                Exception
            ) as error:  # the numbers stay as they are; health and the log say what is wrong with the database
                log.debug("Messages and workflows could not be counted: %s", error)
            await asyncio.sleep(REST * (self._loop.time() - began))
            await self._is_asked.wait()
            self._is_asked.clear()

    def _count_again(self) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._is_asked.set)

    def runs(self) -> Iterable[Measurement]:
        waiting = self._executor.slots.waiting
        running = max(len(self._executor.runs) - waiting, 0)
        return [(running, {names.STATE: "running"}), (waiting, {names.STATE: "waiting"})]

    def listener_connected(self) -> Iterable[Measurement]:
        listener = self._database.listener
        return [(int(listener is not None and listener.is_listening), NONE)]

    def lease_seconds_left(self) -> Iterable[Measurement]:
        return [(self._lease.seconds_left, NONE)]

    def connections(self) -> Iterable[Measurement]:
        used, idle = self._database.postgres.usage
        return [(used, {names.STATE: "used"}), (idle, {names.STATE: "idle"})]

    def loop_blocked(self) -> Iterable[Measurement]:
        return [(self._instruments.blocked_before + self._database.postgres.loop_watch.blocked_seconds, NONE)]

    def messages_waiting(self) -> Iterable[Measurement]:
        self._count_again()
        return self._by_topic({each.topic: each.waiting for each in self._messages})

    def messages_oldest_age(self) -> Iterable[Measurement]:
        now, oldest = datetime.now(UTC), {each.topic: each.oldest_at for each in self._messages}
        ages: dict[str, float] = {}
        for topic, at in oldest.items():
            label = self._label(topic)
            age = 0.0 if at is None else max((now - at).total_seconds(), 0.0)
            ages[label] = max(ages.get(label, 0.0), age)
        return [(age, _topic(label)) for label, age in ages.items()]

    def messages_rejected(self) -> Iterable[Measurement]:
        return self._by_topic({each.topic: each.rejected for each in self._messages})

    def workflows(self) -> Iterable[Measurement]:
        counts: Counter[tuple[str, str, bool]] = Counter()
        for each in self._workflows:
            name = self._telemetry.workflow_names.of(each.name)
            counts[name, each.status, False] += each.count - each.unclaimable
            if each.unclaimable:
                counts[name, each.status, True] += each.unclaimable
        return [
            (count, {names.WORKFLOW_NAME: name, names.STATUS: status, names.UNCLAIMABLE: unclaimable})
            for (name, status, unclaimable), count in counts.items()
        ]

    def _by_topic(self, found: Mapping[str | None, int]) -> Iterable[Measurement]:
        counts: Counter[str] = Counter()
        for topic, count in found.items():
            counts[self._label(topic)] += count
        return [(count, _topic(label)) for label, count in counts.items()]

    def _label(self, topic: str | None) -> str:
        return self._instruments.topics.of(topic) if topic else ""


def _topic(label: str) -> Mapping[str, str]:
    return {names.TOPIC: label} if label else NONE
