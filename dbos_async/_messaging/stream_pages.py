"""The pages of a stream: what a reader at some offset is told of the rows that it finds there.

A row that takes others back has no value. Reading from the begin never meets what was taken back. A reader that has passed the
offset to which such a row goes back is told of it (`Rewind`), or, if it reads values only, skips the copies of values that it has
had already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from dbos_async._database.calls import Result
from dbos_async._database.news import StreamNews
from dbos_async._runs.run import RUNS_OF_ONE
from dbos_async.errors import StreamTrimmedError, WorkflowNotFoundError

MAX_VALUES: Final = 500
"""A page ends with the row that brings it to so many values."""


class Rewound(NamedTuple):
    """A row that takes back: its own offset, the offset to which it goes back, and how many entries come before it on the page."""

    at: int
    offset: int
    entries_before: int


class Page(NamedTuple):
    """What one poll of a stream found: offsets with the JSON of their values, and how the stream ended.

    ``end`` is CLOSED, or the status that its workflow ended with, or ``None`` while it goes on. ``parked`` is the status of a
    workflow that is parked. ``more`` says that the page is full, and there may be more behind it.
    """

    entries: list[tuple[int, str]]
    end: str | None
    parked: str | None = None
    more: bool = False
    rewinds: tuple[Rewound, ...] = ()
    """What a reader of entries is told besides."""

    @property
    def is_empty(self) -> bool:
        """Whether it tells nothing but how the stream ended."""
        return not self.entries and not self.rewinds


class StreamPlace:
    """Where a reader stands in a stream: the offset of the row that comes next, and what it has had of those before."""

    __slots__ = ("_had_below", "_life", "_passed", "offset", "takes_rewinds")

    def __init__(self, offset: int, *, takes_rewinds: bool = False) -> None:
        self.offset = offset
        self._life = -1
        """What tells the workflow from others that had its id before and were deleted; -1 before the first poll."""
        self.takes_rewinds = takes_rewinds
        self._passed = offset
        """Behind the last value that the reader has passed, where that value was written first."""
        self._had_below = 0
        """The same, when the reader passed the last row that takes back: it had all values that were written first below."""

    def read(self, workflow_id: str, key: str, records: Result) -> Page:
        """The page that a poll has found. The place moves behind it."""
        last, first = records[-1], records[0]["first"]
        if last["status"] is None:
            raise WorkflowNotFoundError(workflow_id)
        self._life = last["attempt"] // RUNS_OF_ONE
        if first is not None:
            raise StreamTrimmedError(workflow_id, key, self.offset, first)
        more = last["more"] and not last["closes"]
        end = "CLOSED" if last["closes"] else last["status"] if last["ended"] and not more else None
        entries, rewinds = self._entries(records)
        return Page(entries, end, last["status"] if last["parked"] else None, more, rewinds)

    def _entries(self, records: Result) -> tuple[list[tuple[int, str]], tuple[Rewound, ...]]:
        entries: list[tuple[int, str]] = []
        rewinds: tuple[Rewound, ...] = ()
        begin = self.offset
        for record in records:
            offset, batch = record["offset"], record["batch"]
            if offset is None or record["closes"]:
                break
            if batch is not None:
                found = [*enumerate(batch, offset)]
                if offset < self.offset:
                    del found[: self.offset - offset]
                self.offset = offset + len(batch)
            elif record["rewinds_to"] is None:
                found = [(offset, record["value"])]
                self.offset = offset + 1
            else:
                found = []
                self.offset = offset + 1
                self._had_below = max(self._had_below, self._passed)
                if self.takes_rewinds and record["rewinds_to"] < begin:
                    rewinds = *rewinds, Rewound(offset, record["rewinds_to"], len(entries))
                continue
            moved = 0 if record["copy_of"] is None else record["copy_of"] - offset
            self._passed = self.offset + moved
            if moved and not self.takes_rewinds:
                found = [one for one in found if one[0] + moved >= self._had_below]
            entries += found
        return entries, rewinds

    def update(self, updates: Sequence[Any]) -> Page | None:
        """The page of these updates; ``None`` when there is more to read than they tell. The place moves behind the page.

        That is so when rows are missing, because another process writes, too, or takes back, when the workflow has ended, and when
        the updates are of an earlier workflow of the same id.
        """
        entries: list[tuple[int, str]] = []
        offset, end = self.offset, None
        for update in updates:
            if not isinstance(update, StreamNews) or update.attempt // RUNS_OF_ONE != self._life:
                return None
            first, values = update.offset, update.values
            if first > offset:
                return None
            if values is None:
                if first == offset:
                    end = "CLOSED"
                    break
            elif first + len(values) > offset:
                entries.extend(enumerate(values[offset - first :], offset))
                offset = first + len(values)
        self.offset = offset
        if entries:
            self._passed = offset
        return Page(entries, end)
