"""What a page shows that reads the entries of a stream, and what it must show at any moment.

The values of these tests are ``[who, attempt, n]``: the n-th value of a writer, as one attempt of its step says it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from dbos_async import Rewind, StreamValue

Said = tuple[str, str, int]

ONCE = "once"
"""The writer is the body of a workflow: each value once, in order. Otherwise it is a step, with this ``on_retry``."""


class Shown:
    """The values that a page shows; ``modes`` says of each writer how it writes."""

    def __init__(self, modes: Mapping[str, str]) -> None:
        self._modes = modes
        self.values: list[tuple[int, Said]] = []
        self.rewinds = 0

    def take(self, entry: StreamValue[Any] | Rewind) -> None:
        """Show one more entry."""
        if isinstance(entry, Rewind):
            self.rewinds += 1
            while self.values and self.values[-1][0] >= entry.offset:
                self.values.pop()
            return
        assert not self.values or entry.offset > self.values[-1][0], "in the order of the offsets"
        who, attempt, n = entry.value
        self.values.append((entry.offset, (who, attempt, n)))
        self.check(who)

    def of(self, who: str) -> list[tuple[str, int]]:
        """What stands of this writer."""
        return [(attempt, n) for _, (name, attempt, n) in self.values if name == who]

    def check(self, who: str) -> None:
        """What stands of this writer is a prefix of what it may say."""
        check_prefix(self._modes[who], self.of(who))

    def check_all(self) -> None:
        """The same of every writer."""
        for who in self._modes:
            self.check(who)


def check_prefix(mode: str, said: list[tuple[str, int]]) -> None:
    """These values, of one writer, are a prefix of what it may say."""
    if mode == "append":
        by_attempt: dict[str, list[int]] = {}
        for attempt, n in said:
            by_attempt.setdefault(attempt, []).append(n)
        assert all(each == list(range(len(each))) for each in by_attempt.values()), said
        return
    assert [n for _, n in said] == list(range(len(said))), f"{mode}: {said}"
    if mode == "rewind":
        assert len({attempt for attempt, _ in said}) <= 1, f"one attempt: {said}"


async def follow(entries: AsyncGenerator[StreamValue[Any] | Rewind, None], shown: Shown) -> None:
    """Show entries until the stream has ended."""
    async with aclosing(entries) as each:
        async for entry in each:
            shown.take(entry)
            if isinstance(entry, Rewind):
                shown.check_all()


async def followed_values(values: AsyncGenerator[Any, None], pause_seconds: float = 0.0) -> list[Said]:
    """The values that a reader was given which knows values only."""
    found: list[Said] = []
    async with aclosing(values) as each:
        async for who, attempt, n in each:
            found.append((who, attempt, n))
            if pause_seconds:
                await asyncio.sleep(pause_seconds)
    return found


def check_followed(found: list[Said], modes: Mapping[str, str]) -> None:
    """A reader of values has seen each value of a writer once, and of one that takes back every attempt from its begin."""
    for who, mode in modes.items():
        said = [(attempt, n) for name, attempt, n in found if name == who]
        if mode != "rewind":
            check_prefix(mode, said)
            continue
        attempts: dict[str, list[int]] = {}
        for attempt, n in said:
            attempts.setdefault(attempt, []).append(n)
            assert attempt == list(attempts)[-1], f"no attempt speaks again: {said}"
        assert all(each == list(range(each[0], each[0] + len(each))) for each in attempts.values()), said


ROWS = """
    select "offset", coalesce(count, 1) as count, value is null and batch is null as is_empty, closes, rewinds_to,
           taken_back_by, copy_of, cardinality(batch) as length, count as batch_count
    from dbos_async.stream_entries where workflow_id = $1 and key = $2 order by "offset"
"""


async def check_rows(connection: Any, workflow_id: str, key: str) -> None:
    """The offsets have no gap, and what is taken back is taken back by a row behind it that goes back so far."""
    rows = await connection.fetch(ROWS, workflow_id, key)
    expected, by_offset = 0, {row["offset"]: row for row in rows}
    for row in rows:
        assert row["offset"] == expected, f"a gap or a double before {row}"
        expected += row["count"]
        assert row["length"] == row["batch_count"], "a batch has as many values as it says"
        assert row["is_empty"] == (row["closes"] or row["rewinds_to"] is not None)
        by = row["taken_back_by"]
        if by is not None:
            assert by_offset[by]["rewinds_to"] is not None
            assert by_offset[by]["rewinds_to"] <= row["offset"] < by
    assert not rows or rows[-1]["taken_back_by"] is None, "the last row stands"
    for row in rows:
        if row["rewinds_to"] is not None:
            between = [each for each in rows if row["rewinds_to"] <= each["offset"] < row["offset"]]
            assert all(each["taken_back_by"] is not None for each in between)
