"""What an event stream of the web tells: the values of a stream or the versions of an event, from its client's place to the end."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Final

from sse_starlette import ServerSentEvent
from starlette.exceptions import HTTPException
from starlette.requests import Request

from dbos_async._database.database import Database
from dbos_async._messaging.live import live_pages
from dbos_async._messaging.stream_pages import Page, StreamPlace
from dbos_async._messaging.watch import PARKED, live_versions
from dbos_async._serialization.values import encode_value
from dbos_async.errors import LaunchError, StreamTrimmedError, WorkflowNotFoundError
from dbos_async.waits import MAX_VERSION

LAST_OFFSET: Final = 2**31 - 2


class Followed(ABC):
    """Something that a client follows, and where in it the client is."""

    def __init__(self, database: Database, workflow_id: str, key: str) -> None:
        self._database, self._workflow_id, self._key = database, workflow_id, key

    @abstractmethod
    async def first(self) -> Page | None:
        """What there is now; ``None`` for a client that was told of the end and asks again.

        It is found before the response begins, while that can still have a status of its own.
        """

    @abstractmethod
    def pages(self, *, retry_forever: bool) -> AsyncGenerator[Page, None]:
        """What there is behind the client, and then what comes."""

    @abstractmethod
    def pass_by(self, page: Page) -> None:
        """The client is told of this page."""

    @property
    @abstractmethod
    def end_id(self) -> str:
        """The id of the end: a client that sends it was told of the end."""


class FollowedStream(Followed):
    """A stream: an id is the offset of an entry, and the end has the offset behind the last entry."""

    def __init__(self, database: Database, workflow_id: str, key: str, request: Request) -> None:
        super().__init__(database, workflow_id, key)
        last = request.headers.get("last-event-id")
        if last:
            self._offset = _offset(last, "Last-Event-ID") + 1
        else:
            self._offset = _offset(request.query_params.get("offset", "0"), "offset")
        self._has_seen = bool(last)
        self._place = StreamPlace(self._offset, takes_rewinds=True)

    async def first(self) -> Page | None:
        """The entries that are there; see `Followed.first`."""
        if self._has_seen:
            # Only the end of a stream has the offset behind the last entry: begin with what the client has seen last.
            seen = StreamPlace(self._offset - 1)
            polls = live_pages(self._database, self._workflow_id, self._key, seen, None, retry_forever=False)
            with suppress(StreamTrimmedError):  # then there was a value, so it was not the end
                async with aclosing(polls) as pages:
                    page = await anext(pages)
                if seen.offset < self._offset and page.end not in (None, "CANCELLED"):
                    return None
        async with aclosing(self.pages(retry_forever=False)) as pages:
            return await anext(pages)

    def pages(self, *, retry_forever: bool) -> AsyncGenerator[Page, None]:
        """The entries from the offset on; see `Followed.pages`."""
        return live_pages(self._database, self._workflow_id, self._key, self._place, None, retry_forever=retry_forever)

    def pass_by(self, page: Page) -> None:
        """See `Followed.pass_by`."""

    @property
    def end_id(self) -> str:
        """See `Followed.end_id`."""
        return str(self._place.offset)


class FollowedEvent(Followed):
    """An event: an id is a version, and that of the end is the last version with ``.end`` behind it."""

    def __init__(self, database: Database, workflow_id: str, key: str, request: Request) -> None:
        super().__init__(database, workflow_id, key)
        last = request.headers.get("last-event-id")
        self._was_told_of_end = bool(last) and str(last).endswith(".end")
        self._version = (
            _version(last.removesuffix(".end"), "Last-Event-ID")
            if last
            else _version(request.query_params.get("after", "0"), "after")
        )

    async def first(self) -> Page | None:
        """The latest version; see `Followed.first`."""
        async with aclosing(self.pages(retry_forever=False)) as pages:
            page = await anext(pages)
        if self._was_told_of_end and not page.entries and page.end not in (None, "CANCELLED"):
            return None
        return page

    async def pages(self, *, retry_forever: bool) -> AsyncGenerator[Page, None]:
        """Later versions than that of the client; see `Followed.pages`."""
        polls = live_versions(
            self._database, self._workflow_id, self._key, self._version, None, retry_forever=retry_forever
        )
        async with aclosing(polls):
            async for found in polls:
                if found.status is None:
                    raise WorkflowNotFoundError(self._workflow_id)
                entries = [] if found.text is None else [(found.version, found.text)]
                yield Page(
                    entries, found.status if found.ended else None, found.status if found.status in PARKED else None
                )

    def pass_by(self, page: Page) -> None:
        """See `Followed.pass_by`."""
        if page.entries:
            self._version = page.entries[-1][0]

    @property
    def end_id(self) -> str:
        """See `Followed.end_id`."""
        return f"{self._version}.end"


def _offset(text: str, what: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) > LAST_OFFSET:
        raise HTTPException(422, f"{what} must be a whole number from 0 to {LAST_OFFSET}.")
    return int(text)


def _version(text: str, what: str) -> int:
    if not re.fullmatch("[0-9]{1,19}", text) or int(text) > MAX_VERSION:
        raise HTTPException(422, f"{what} must be a version: a whole number from 0 to {MAX_VERSION}.")
    return int(text)


async def body(followed: Followed, head: bytes, first: Page) -> AsyncGenerator[bytes, None]:
    """Send all that a poll found at once. A slow client delays nobody but itself."""
    yield head + events(followed, first, None)
    if first.end is not None:
        return
    parked = first.parked
    del first  # a response that waits for long keeps nothing of what it has sent
    try:
        async with aclosing(followed.pages(retry_forever=True)) as pages:
            async for page in pages:
                if not page.is_empty or page.end is not None or page.parked not in (None, parked):
                    yield events(followed, page, parked)
                parked = page.parked
                del page
    except WorkflowNotFoundError:
        yield _end("DELETED", followed)
    except StreamTrimmedError as trimmed:  # the client was too slow
        yield _event(encode_value({"status": "TRIMMED", "first": trimmed.first}), event="failed", id=None)
    except LaunchError:
        return  # the client or the DBOS that reads was closed: the browser connects again


def events(followed: Followed, page: Page, parked: str | None) -> bytes:
    """The events of a page, after one whose workflow was ``parked``."""
    followed.pass_by(page)
    found = [_event(value, id=str(number)) for number, value in page.entries]
    for rewound in reversed(page.rewinds):
        told = _event(encode_value({"offset": rewound.offset}), event="rewind", id=str(rewound.at))
        found.insert(rewound.entries_before, told)
    if page.parked not in (None, parked):
        found.append(_event(encode_value({"status": page.parked}), event="parked", id=None))
    if page.end is not None:
        found.append(_end(page.end, followed))
    return b"".join(found)


def _end(status: str, followed: Followed) -> bytes:
    event = "end" if status in ("CLOSED", "SUCCESS") else "failed"
    # A cancelled workflow may be resumed and go on, so its end takes no id.
    number = None if status == "CANCELLED" else followed.end_id
    return _event(encode_value({"status": status}), event=event, id=number)


def _event(data: str, *, id: str | None, event: str | None = None) -> bytes:
    return ServerSentEvent(data, event=event, id=id, sep="\n").encode()
