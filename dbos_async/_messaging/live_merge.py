"""Reading several streams while they grow, by one subscription: a page of each that has something to tell, again and again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from dbos_async._database.database import Database
from dbos_async._database.wakeups import end_key, now, stream_key
from dbos_async._messaging.live import MAX_VALUES, READ, Page, page_of_records, page_of_updates
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
            for which in list(merge.offsets):
                page = None if subscription.changed else merge.page_of(which, updates)
                if page is None:
                    due.append(which)
                elif page.entries or page.end is not None:
                    yield which, page
                    merge.passed(which, page)
            while due:
                now_due, due = due, []
                for first in range(0, len(now_due), MAX_AT_ONCE):
                    for which, page, more in await merge.poll(now_due[first : first + MAX_AT_ONCE]):
                        yield which, page
                        merge.passed(which, page)
                        if more:
                            due.append(which)
            del updates
            if not merge.offsets:
                return
            if seconds is not None:
                left = merge.waited_since + seconds - now()
                if left <= 0:
                    raise merge.timeout(seconds)
                subscription.poll_within(left)


class _Merge:
    """Where the reading of each stream stands that has not ended."""

    def __init__(self, database: Database, places: Sequence[Place], *, retry_forever: bool) -> None:
        self._database, self._places, self._retry_forever = database, places, retry_forever
        self._digests = [stream_key(workflow_id, key) for workflow_id, key, _ in places]
        self.offsets: dict[int, int] = {which: offset for which, (_, _, offset) in enumerate(places)}
        self.waited_since: float = now()

    def keys(self) -> list[bytes]:
        """What changes when there may be something to read, each key once."""
        return list(dict.fromkeys([*self._digests, *(end_key(workflow_id) for workflow_id, _, _ in self._places)]))

    def page_of(self, which: int, updates: list[tuple[int, str | None, bytes]]) -> Page | None:
        """What these local updates tell of a stream; ``None`` when values are missing."""
        digest = self._digests[which]
        return page_of_updates([update for update in updates if update[2] == digest], self.offsets[which])

    async def poll(self, due: Sequence[int]) -> list[tuple[int, Page, bool]]:
        """A page of each of these streams, and whether there is more behind it."""
        most = MAX_VALUES // len(due)
        calls = [
            self._database.call(
                READ, [(workflow_id, key, self.offsets[which], most)],
                partition=workflow_id, retry_forever=self._retry_forever,
            )
            for which in due
            for workflow_id, key, _ in [self._places[which]]
        ]  # fmt: skip
        found = await asyncio.gather(*calls)
        return [
            (which, *page_of_records(self._places[which][0], records))
            for which, records in zip(due, found, strict=True)
        ]

    def passed(self, which: int, page: Page) -> None:
        """The reader has taken this page."""
        if page.entries:
            self.offsets[which] = page.entries[-1][0] + 1
            self.waited_since = now()
        if page.end is not None:
            del self.offsets[which]

    def timeout(self, seconds: float) -> StreamTimeoutError:
        """No value came in time to any stream that has not ended; the error names the first of them."""
        which, offset = next(iter(self.offsets.items()))
        workflow_id, key, _ = self._places[which]
        return StreamTimeoutError(workflow_id, key, offset, seconds)
