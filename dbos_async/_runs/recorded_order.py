"""The order that earlier runs of a workflow have recorded, and how far a replay has followed it.

It is read in pages. A page has steps in the order in which they were asked for, so everything that comes before a place is known
when it is released.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from math import inf
from typing import Any, Final

from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async.errors import LaunchError

with load(__name__) as sql:
    ORDER: Final = sql.statement("ORDER")


class Place:
    """What is released together: the results of the calls of one run that left in one batch."""

    __slots__ = ("arrived", "number", "pending")

    def __init__(self, number: int) -> None:
        self.number = number
        self.pending = 0
        """How many of its calls have neither a result nor are void."""
        self.arrived: list[Any] = []
        """The tickets that wait for the release."""

    @property
    def has_waiters(self) -> bool:
        """Whether anybody who waits here was not cancelled meanwhile."""
        return any(ticket.waiter is not None and not ticket.waiter.done() for ticket in self.arrived)


class RecordedOrder:
    """The places that earlier runs have recorded and this run has not released yet."""

    def __init__(self, database: Database, workflow_id: str, left: AbstractSet[tuple[str, int]] = frozenset()) -> None:
        self.on_page: Callable[[], None] | None = None
        """Told when a further page has come."""
        self.open: dict[int, Place] = {}
        """The recorded places that were read and not released, the first one first."""
        self.last: int = 0
        """The last place that was read."""
        self.sleep: int = 0
        """The step of the main task that was a sleep and not over when a second task called its first verb; 0: there was none."""
        self._database, self._workflow_id, self._left = database, workflow_id, left
        self._steps: dict[tuple[str, int], tuple[int | None, int | None]] = {}
        """The steps that were read and not asked for: their places, ``None`` for a wait that has not ended, and after which place
        they were asked for."""
        self._to_ask: dict[int, int] = {}
        """How many steps were asked for after a place, and are not asked for yet, the first place first."""
        self._read_to: float = -2
        """All steps were read that were asked for after this place or before; -1 stands for the beginning."""
        self._reading: asyncio.Task[None] | None = None

    @property
    def is_left(self) -> bool:
        """Whether places are left to release."""
        return bool(self.open) or self._read_to != inf

    @property
    def is_reading(self) -> bool:
        """Whether a page is on its way."""
        return self._reading is not None

    def knows(self, branch: str, number: int) -> bool:
        """Whether the step is among those that were read and not asked for."""
        return (branch, number) in self._steps

    async def read_on(self) -> None:
        """Read the next page."""
        row = self._workflow_id, self._read_to
        records = await self._database.call(ORDER, [row], partition=self._workflow_id, retry_forever=True)
        for _, branch, number, place, asked_after, _ in records:
            self._add(branch, number, place, asked_after)
        self.open = dict(sorted(self.open.items()))
        self.last = max(self.open, default=self.last)
        self._to_ask = dict(sorted(self._to_ask.items()))
        if records and records[-1]["more"]:
            asked_after = records[-1]["asked_after"]
            self._read_to = -1 if asked_after is None or asked_after < 0 else asked_after
        else:
            self._read_to = inf

    def _add(self, branch: str, number: int, place: int | None, asked_after: int | None) -> None:
        if place is not None:
            if place not in self.open:
                self.open[place] = Place(place)
            self.open[place].pending += 1
        if asked_after is not None:
            if asked_after < 0:
                self.sleep, asked_after = -asked_after, 0
            self._to_ask[asked_after] = self._to_ask.get(asked_after, 0) + 1
        self._steps[branch, number] = place, asked_after
        if (branch, number) in self._left:
            self.leave(branch, number)

    def may_release(self, place: Place) -> bool:
        """Whether all is asked for that was asked for before this place was released."""
        if place.number > self._read_to + 1:
            self._begin_reading()
            return False
        return not place.number or next(iter(self._to_ask), inf) >= place.number

    async def read_until(self, asked_after: int) -> None:
        """Read all that was asked for after this place or before."""
        while asked_after > self._read_to:
            await asyncio.shield(self._begin_reading())

    def _begin_reading(self) -> asyncio.Task[None]:
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._read(), context=contextvars.Context())
        return self._reading

    async def _read(self) -> None:
        with suppress(LaunchError):  # the database was closed, and so the run was stopped
            await self.read_on()
        self._reading = None
        if self.on_page is not None:
            self.on_page()

    def is_due(self, asked_after: int, released: int) -> bool:
        """Whether a step that was asked for after one place is asked for at the same moment by the replay."""
        return max(released, 0) <= max(asked_after, 0) < next(iter(self.open), inf)

    def ask(self, branch: str, number: int) -> Place | None:
        """The replay asks for this step. Its place, if it has one that is not released."""
        place, asked_after = self._steps.pop((branch, number))
        if asked_after is not None:
            self._to_ask[asked_after] -= 1
            if not self._to_ask[asked_after]:
                del self._to_ask[asked_after]
        return None if place is None else self.open[place]

    def leave(self, branch: str, number: int) -> None:
        """The replay has asked for this step and was cancelled there at once, so it will not use the result."""
        place = self.ask(branch, number)
        if place is not None:
            place.pending -= 1

    def expected(self) -> Sequence[tuple[str, int]]:
        """The steps for which the replay waits: those of the first place, or all that was read and not asked for."""
        first = next(iter(self.open), None)
        of_first = sorted(step for step, (place, _) in self._steps.items() if place == first and place is not None)
        return of_first or sorted(self._steps)
