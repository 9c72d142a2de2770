"""Reading a stream while it grows: page after page, from any offset on, until the stream has ended."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._database.wakeups import end_key, now, stream_key
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
    waited_since = now()
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
                    records = await database.call(READ, [row], partition=workflow_id, retry_forever=retry_forever)
                    page = place.read(workflow_id, key, records)
                    more = page.more
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
