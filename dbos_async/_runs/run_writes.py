"""What a run has written so far, of which its next writes must know."""

from __future__ import annotations

import asyncio
from typing import Any


class RunWrites:
    """What a run has written so far."""

    __slots__ = ("rewinding", "seq", "stream_ends", "unsettled", "writers")

    def __init__(self) -> None:
        self.seq = 0
        self.rewinding: dict[str, asyncio.Lock] = {}
        """For each stream: at most one statement at a time takes back."""
        self.writers: dict[str, list[Any]] = {}
        """For each stream: the open writers of the body of the workflow."""
        self.unsettled: dict[tuple[str, str], Any] = {}
        """Abandoned stream writers that have a batch under way, by the paths of their steps and by their streams."""
        self.stream_ends: dict[str, int] = {}
        """The highest known offset of each stream: a write looks for the end of its stream from there on."""

    def reached(self, key: str, offset: int) -> None:
        """Remember that a stream has this offset."""
        self.stream_ends[key] = max(offset, self.stream_ends.get(key, -1))
