"""Reading a stream while it grows: page after page, from any offset on, until the stream has ended."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final, NamedTuple

from dbos_async._database.calls import Result
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._database.wakeups import end_key, now, stream_key
from dbos_async.errors import StreamTimeoutError, WorkflowNotFoundError

MAX_VALUES = 500

with load(__name__) as sql:
    READ: Final = sql.statement("READ")


class Page(NamedTuple):
    """What one poll of a stream found: offsets with the JSON of their values, and how the stream ended.

    ``end`` is CLOSED, or the status that its workflow ended with, or ``None`` while it goes on. ``parked`` is the status of a
    workflow that is parked. ``more`` says that the page is full, and there may be more behind it.
    """

    entries: list[tuple[int, str]]
    end: str | None
    parked: str | None = None
    more: bool = False


async def live_pages(
    database: Database, workflow_id: str, key: str, offset: int, seconds: float | None, *, retry_forever: bool
) -> AsyncGenerator[Page, None]:
    """Yield the page of each poll until the stream has ended. The first page comes at once, even if it is empty.

    Values that this process writes come as local updates. All other values, and updates that came too fast, are read.
    """
    waited_since = now()
    keys = stream_key(workflow_id, key), end_key(workflow_id)
    with database.changes(*keys, takes_updates=True) as changes:
        async for subscription in changes:
            updates = subscription.take_updates()
            page = None if subscription.changed else page_of_updates(updates, offset)
            more = True
            while more:
                more = False
                if page is None:
                    page, more = await _poll(database, workflow_id, key, offset, retry_forever=retry_forever)
                yield page
                if page.end is not None:
                    return
                if page.entries:
                    offset = page.entries[-1][0] + 1
                    waited_since = now()
                page = None  # the wait for more may be long, and the page large
            if seconds is not None:
                left = waited_since + seconds - now()
                if left <= 0:
                    raise StreamTimeoutError(workflow_id, key, offset, seconds)
                subscription.poll_within(left)


async def _poll(
    database: Database, workflow_id: str, key: str, offset: int, *, retry_forever: bool
) -> tuple[Page, bool]:
    """The page that begins at this offset, and whether there is more behind it."""
    row = workflow_id, key, offset, MAX_VALUES
    records = await database.call(READ, [row], partition=workflow_id, retry_forever=retry_forever)
    return page_of_records(workflow_id, records)


def page_of_records(workflow_id: str, records: Result) -> tuple[Page, bool]:
    """The page that a poll has found, and whether there is more behind it."""
    last = records[-1]
    if last["status"] is None:
        raise WorkflowNotFoundError(workflow_id)
    more = last["more"] and not last["closes"]
    end = "CLOSED" if last["closes"] else last["status"] if last["ended"] and not more else None
    entries = [(record["offset"], record["value"]) for record in records if record["closes"] is False]
    return Page(entries, end, last["status"] if last["parked"] else None, more), more


def page_of_updates(updates: list[tuple[int, str | None, bytes]], offset: int) -> Page | None:
    """The page from this offset on; ``None`` when values are missing, because another process writes, too.

    An update is an offset, the JSON of a value (``None`` closes the stream) and the digest of the stream.
    """
    entries: list[tuple[int, str]] = []
    for written_at, value, _ in updates:
        if written_at > offset:
            return None
        if written_at == offset:
            if value is None:
                return Page(entries, "CLOSED")
            entries.append((offset, value))
            offset += 1
    return Page(entries, None)
