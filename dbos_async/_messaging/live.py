"""Reading a stream while it grows: page after page, from any offset on, until the stream has ended."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

from dbos_async._database.calls import Result
from dbos_async._database.change_keys import end_key, stream_key
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._database.wakeups import now
from dbos_async._messaging.stream_pages import MAX_VALUES, Page, StreamPlace
from dbos_async.errors import StreamTimeoutError

with load(__name__) as sql:
    READ: Final = sql.statement("READ")


async def live_pages(
    database: Database, workflow_id: str, key: str, place: StreamPlace, seconds: float | None, *, retry_forever: bool
) -> AsyncGenerator[Page, None]:
    """Yield the page of each poll until the stream has ended. The first page comes at once, even if it is empty.

    Values come as updates, from this process or in notifications. Large values, and updates that came too fast, are read. The
    place moves with the pages.
    """
    waited_since, may_lag = now(), database.standby is not None
    keys = stream_key(workflow_id, key), end_key(workflow_id)
    with database.changes(*keys, takes_updates=True) as changes:
        async for subscription in changes:
            updates = subscription.take_updates()
            page = None if subscription.changed else place.update(updates)
            more = True
            while more:
                more = False
                if page is None:
                    row = workflow_id, key, place.offset, MAX_VALUES, None
                    records = await database.read(
                        READ,
                        [row],
                        partition=workflow_id,
                        retry_forever=retry_forever,
                        is_enough=_tells_something,
                        may_lag=may_lag,
                    )
                    page = place.read(workflow_id, key, records)
                    more = page.more
                    if may_lag and not more and page.end is None:
                        # The primary says what the standby did not have yet. From now on changes are waited for.
                        may_lag, more = False, True
                yield page
                if page.end is not None:
                    return
                if not page.is_empty:
                    waited_since = now()
                page = None  # the wait for more may be long, and the page large
            if seconds is not None:
                left = waited_since + seconds - now()
                if left <= 0:
                    raise StreamTimeoutError(workflow_id, key, place.offset, seconds)
                subscription.poll_within(left)


def _tells_something(records: Result) -> bool:
    """Whether a poll has found a row, or the end of the workflow."""
    return records[0]["status"] is not None and (records[0]["offset"] is not None or records[0]["ended"])
