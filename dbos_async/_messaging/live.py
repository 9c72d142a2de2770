"""A stream as it grows: page after page of what is written, from any offset on, until it has ended."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import NamedTuple

from dbos_async._database.database import Database
from dbos_async._database.statement import Statement
from dbos_async._database.wakeups import end_key, now, stream_key
from dbos_async.errors import StreamTimeoutError, WorkflowNotFoundError

MAX_VALUES = 500

READ = Statement(
    "READ",
    """
    -- One page: at most "most" values or 1 MiB. A row without an offset says only how the workflow stands.
    select c.n, w.status, coalesce(w.status in ('SUCCESS', 'ERROR', 'CANCELLED'), false) as ended,
           e."offset", e.value, e.closes,
           coalesce(e.fetched = c.most or e.weight > 1048576, false) as more
    from unnest($1::int[], $2::text[], $3::text[], $4::int[], $5::int[]) as c(n, workflow_id, key, start, most)
    left join lateral (select status from dbos_async.workflows where id = c.workflow_id limit 1) as w on true
    left join lateral (
        select p.*
        from (
            select t.*, count(*) over () as fetched, sum(t.bytes) over (order by t."offset") as weight
            from (
                select "offset", value, closes, coalesce(pg_column_size(value), 0)::bigint as bytes
                from dbos_async.stream_entries
                where workflow_id = c.workflow_id and key_digest = dbos_async.digest(c.key) and "offset" >= c.start
                order by "offset" limit c.most
            ) as t
        ) as p
        where p.weight - p.bytes < 1048576
    ) as e on true
    order by c.n, e."offset"
    """,
)


class Page(NamedTuple):
    """What one look at a stream found: offsets with the JSON of their values, and how the stream ended.

    ``end`` is CLOSED, or the status that its workflow ended with, or ``None`` while it goes on.
    """

    entries: list[tuple[int, str]]
    end: str | None


async def live_pages(
    database: Database, workflow_id: str, key: str, offset: int, seconds: float | None, *, retry_forever: bool
) -> AsyncGenerator[Page, None]:
    """Yield what each look at the stream finds, the first one at once and be it nothing, until the stream has ended.

    What is written in this process comes as news; whatever else there is, and whatever came too fast, is read.
    """
    waited_since = now()
    keys = stream_key(workflow_id, key), end_key(workflow_id)
    with database.changes(*keys, takes_updates=True) as changes:
        async for subscription in changes:
            news = subscription.take_updates()
            page = None if subscription.changed else _told(news, offset)
            more = True
            while more:
                more = False
                if page is None:
                    page, more = await _look(database, workflow_id, key, offset, retry_forever=retry_forever)
                yield page
                if page.end is not None:
                    return
                if page.entries:
                    offset = page.entries[-1][0] + 1
                    waited_since = now()
                page = None  # It may be large, and the wait for more may be long.
            if seconds is not None:
                left = waited_since + seconds - now()
                if left <= 0:
                    raise StreamTimeoutError(workflow_id, key, offset, seconds)
                subscription.poll_within(left)


async def _look(
    database: Database, workflow_id: str, key: str, offset: int, *, retry_forever: bool
) -> tuple[Page, bool]:
    """The page that begins at this offset, and whether there is more behind it."""
    row = workflow_id, key, offset, MAX_VALUES
    answer = await database.call(READ, [row], partition=workflow_id, retry_forever=retry_forever)
    last = answer[-1]
    if last["status"] is None:
        raise WorkflowNotFoundError(workflow_id)
    more = last["more"] and not last["closes"]
    end = "CLOSED" if last["closes"] else last["status"] if last["ended"] and not more else None
    return Page([(record["offset"], record["value"]) for record in answer if record["closes"] is False], end), more


def _told(news: list[tuple[int, str | None]], offset: int) -> Page | None:
    """The page of what was told from this offset on; ``None`` when that is not all, since somebody else writes, too."""
    entries: list[tuple[int, str]] = []
    for place, value in news:
        if place > offset:
            return None
        if place == offset:
            if value is None:
                return Page(entries, "CLOSED")
            entries.append((place, value))
            offset += 1
    return Page(entries, None)
