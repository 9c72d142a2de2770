"""Reading several streams while they grow, by one subscription: a page of each that has something to tell, again and again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from dbos_async._database.change_keys import end_key, stream_key
from dbos_async._database.database import Database
from dbos_async._database.news import EndNews, StreamNews
from dbos_async._database.wakeups import now
from dbos_async._messaging.live import READ
from dbos_async._messaging.stream_pages import MAX_VALUES, Page, StreamPlace
from dbos_async.errors import StreamTimeoutError

Place = tuple[str, str, int]
"""The id of a workflow, the key of one of its streams, and the offset to read from."""

MAX_AT_ONCE = 16
"""Of so many streams a page is in memory at a time."""


async def merged_pages(
    database: Database, places: Sequence[Place], seconds: float | None, *, retry_forever: bool
) -> AsyncGenerator[tuple[int, Page], None]:
    """Yield the pages of these streams, each with the number of its stream, until all have ended.

    No stream has its next page before every other that has something to tell had its turn.
    """
    if not places:
        return
    merge = _Merge(database, places, retry_forever=retry_forever)
    with database.changes(*merge.keys(), takes_updates=True) as changes:
        async for subscription in changes:
            updates = subscription.take_updates()
            due: list[int] = []
            for which in list(merge.places):
                page = None if subscription.changed else merge.page_of(which, updates)
                if page is None:
                    due.append(which)
                elif page.entries or page.end is not None:
                    yield which, page
                    merge.passed(which, page)
            while due:
                now_due, due = due, []
                for first in range(0, len(now_due), MAX_AT_ONCE):
                    for which, page in await merge.poll(now_due[first : first + MAX_AT_ONCE]):
                        yield which, page
                        merge.passed(which, page)
                        if page.more:
                            due.append(which)
            del updates
            if not merge.places:
                return
            if seconds is not None:
                left = merge.waited_since + seconds - now()
                if left <= 0:
                    raise merge.timeout(seconds)
                subscription.poll_within(left)


class _Merge:
    """The reading of each stream that has not ended."""

    def __init__(self, database: Database, places: Sequence[Place], *, retry_forever: bool) -> None:
        self._database, self._retry_forever = database, retry_forever
        self._streams = [(workflow_id, key) for workflow_id, key, _ in places]
        self._digests = [stream_key(*stream) for stream in self._streams]
        self._ends = [end_key(workflow_id) for workflow_id, _ in self._streams]
        self.places: dict[int, StreamPlace] = {
            which: StreamPlace(offset) for which, (_, _, offset) in enumerate(places)
        }
        self.waited_since: float = now()

    def keys(self) -> list[bytes]:
        """What changes when there may be something to read, each key once."""
        return list(dict.fromkeys([*self._digests, *self._ends]))

    def page_of(self, which: int, updates: list[StreamNews | EndNews]) -> Page | None:
        """What these updates tell of a stream; ``None`` when there is more to read."""
        keys = self._digests[which], self._ends[which]
        return self.places[which].update([update for update in updates if update.key in keys])

    async def poll(self, due: Sequence[int]) -> list[tuple[int, Page]]:
        """A page of each of these streams."""
        most = MAX_VALUES // len(due)
        calls = [
            self._database.call(
                READ, [(*self._streams[which], self.places[which].offset, most, None)],
                partition=self._streams[which][0], retry_forever=self._retry_forever,
            )
            for which in due
        ]  # fmt: skip
        found = await asyncio.gather(*calls)
        return [
            (which, self.places[which].read(*self._streams[which], records))
            for which, records in zip(due, found, strict=True)
        ]

    def passed(self, which: int, page: Page) -> None:
        """The reader has taken this page."""
        if page.entries:
            self.waited_since = now()
        if page.end is not None:
            del self.places[which]

    def timeout(self, seconds: float) -> StreamTimeoutError:
        """No value came in time to any stream that has not ended; the error names the first of them."""
        which, place = next(iter(self.places.items()))
        return StreamTimeoutError(*self._streams[which], place.offset, seconds)
