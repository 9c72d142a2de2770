"""The recorded steps that a later run of a workflow replays, read in pages, branch by branch.

A branch reads its next page only when its replay has used up the last one, so memory does not grow with the history.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from uuid import UUID

from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._runs.recorded_order import RecordedOrder
from dbos_async._serialization.values import decode_value

with load(__name__) as sql:
    PAGE: Final = sql.statement("PAGE")


class Recorded(NamedTuple):
    """A recorded step; ``completed`` is false for a wait that has begun and not ended."""

    number: int
    verb: str
    key: str
    output: str | None
    error: str | None
    message_id: UUID | None
    completed: bool
    place: int | None
    asked_after: int | None


class _Branch:
    __slots__ = ("more", "page", "read_to")

    def __init__(self) -> None:
        self.page: deque[Recorded] = deque()
        self.read_to = 0
        self.more = True


class History:
    """The recorded steps of one workflow. Each branch asks for its steps in the order of their numbers."""

    def __init__(self, database: Database, workflow_id: str, on_order: Callable[[RecordedOrder], None]) -> None:
        self.reading: int = 0
        """How many tasks wait for a page."""
        self.is_used_up: bool = False
        """Whether the run has begun a step of its own, so that what is recorded now may be that."""
        self.own_ids: list[str] | None = None
        """The ids of the workflow and of those that it is a fork of, once a key was compared relative to them."""
        self._database = database
        self._workflow_id = workflow_id
        self._branches: dict[str, _Branch] = {}
        self._ends: str = "{}"
        """The last recorded step of each branch, when the run began, as JSON: few workflows ask for it."""
        self._on_order = on_order
        self._order: RecordedOrder | None = None
        self._left: set[tuple[str, int]] = set()
        self._opening: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Read how far earlier runs came, and the first page of the main task, before the function of the workflow begins."""
        self._branches[""] = main = _Branch()
        self._ends = (await self._read_on("", main, 0))["ends"]

    @property
    def is_behind(self) -> bool:
        """Whether the run has asked for all steps that were recorded when it began."""
        ends = decode_value(self._ends, dict[str, int])
        return all(self._is_behind(branch, end) for branch, end in ends.items())

    def _is_behind(self, branch: str, end: int) -> bool:
        steps = self._branches.get(branch)
        return (branch, end) in self._left or (steps is not None and not steps.page and steps.read_to >= end)

    async def find(self, branch: str, number: int, *, again: bool = False) -> Recorded | None:
        """The recorded step of this number, ``None`` if it is not recorded; ``again``: it was recorded after the last page."""
        steps = self._branches.get(branch)
        if steps is None:
            steps = self._branches[branch] = _Branch()
        steps.more = steps.more or again
        while True:
            while steps.page:
                recorded = steps.page[0]
                if recorded.number > number:
                    return None
                steps.page.popleft()
                if recorded.number == number:
                    return recorded
            if not steps.more:
                return None
            await self._read_on(branch, steps, max(steps.read_to, number - 1))

    def take_at_hand(self, branch: str, number: int, verb: str, key: str) -> Recorded | None:
        """The recorded step of this number, if it was read already, has a result, and is this very step."""
        steps = self._branches.get(branch)
        if steps is None or not steps.page:
            return None
        recorded = steps.page[0]
        if recorded.number != number or recorded.verb != verb or recorded.key != key or not recorded.completed:
            return None
        return steps.page.popleft()

    def leave(self, branch: str, number: int) -> None:
        """The step was asked for, and cancelled before its record was found: no replay waits for it."""
        self._left.add((branch, number))
        if self._order is not None and self._order.knows(branch, number):
            self._order.leave(branch, number)

    async def is_last(self, branch: str, number: int) -> bool:
        """Whether no later step of the branch is recorded; for the step that was asked for last."""
        steps = self._branches.get(branch)
        if steps is not None and not steps.page and steps.more:
            await self._read_on(branch, steps, max(steps.read_to, number))
        return steps is None or not steps.page

    async def name(self, branch: str, number: int) -> str:
        """How people name the recorded step."""
        row = self._workflow_id, branch, number - 1
        records = await self._database.call(PAGE, [row], partition=self._workflow_id, retry_forever=True)
        path = f"{branch}.{number}" if branch else str(number)
        return f"{named(records[0]['verb'] or 'a step', records[0]['key'])} ({path})"

    async def _read_on(self, branch: str, steps: _Branch, after: int) -> Any:
        self.reading += 1
        try:
            row = self._workflow_id, branch, after
            records = await self._database.call(PAGE, [row], partition=self._workflow_id, retry_forever=True)
            if records[0]["has_places"] and not self.is_used_up:
                await self._open_order()
        finally:
            self.reading -= 1
        steps.more = bool(records[-1]["more"])
        for _, number, *recorded, _, _, _ in records:
            if number is not None:
                steps.page.append(Recorded(number, *recorded))
                steps.read_to = number
        return records[0]

    async def _open_order(self) -> None:
        if self._opening is None:
            context = contextvars.Context()  # this goes on if the task that asks first is cancelled
            self._opening = asyncio.get_running_loop().create_task(self._read_order(), context=context)
            self._opening.add_done_callback(note_error)
        await asyncio.shield(self._opening)

    async def _read_order(self) -> None:
        self._order = order = RecordedOrder(self._database, self._workflow_id, self._left)
        await order.read_on()
        self._on_order(order)


def note_error(task: asyncio.Task[Any]) -> None:
    """The error of this task is no surprise: DBOS was closed, and all that wait for the task hear of it themselves."""
    if not task.cancelled():
        task.exception()


def named(verb: str, key: str) -> str:
    """How people name a verb and what it was called for."""
    return f"{verb} {key!r}" if key else verb
