"""The reading half of the Durable Streams protocol: what one request asks of a stream, and the answer.

The protocol: https://github.com/durable-streams/durable-streams, PROTOCOL.md. Its offsets are those of the values, as ten digits.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from dbos_async._database.database import Database
from dbos_async._messaging.live import live_pages
from dbos_async._messaging.stream_pages import StreamPlace
from dbos_async._messaging.tail import tail_of
from dbos_async._serialization.values import encode_value
from dbos_async.errors import LaunchError, StreamTimeoutError, WorkflowNotFoundError

MAX_OFFSET: Final = 2**31 - 1
MAX_LENGTH = 2**20
"""A chunk that is longer than so many characters of JSON ends with its page, and the client asks for the next."""

NOW: Final = "now"
LONG_POLL, SSE = "long-poll", "sse"

FIRST_INTERVAL_AT: Final = datetime(2024, 10, 9, tzinfo=UTC).timestamp()
INTERVAL_SECONDS: Final = 20
MAX_JITTER_SECONDS: Final = 3600

CACHEABLE: Final = "max-age=60, stale-while-revalidate=300"
NO_STORE: Final = "no-store"


class Asked(NamedTuple):
    """What the query of a request asks: from which offset (``None`` is "now"), in which live mode, with which cursor."""

    offset: int | None
    live: str | None
    cursor: int | None


class Chunk(NamedTuple):
    """Some values of the stream as JSON, the offset behind them, whether there may be more, and how the stream ended."""

    values: list[str]
    next_offset: int
    more: bool
    end: str | None

    @property
    def is_up_to_date(self) -> bool:
        """Whether there is nothing behind these values yet."""
        return not self.more


def asked(request: Request) -> Asked:
    """What this request asks. Raises a 405 for other methods than GET and HEAD, and a 400 for what cannot be understood."""
    if request.method not in ("GET", "HEAD"):
        raise HTTPException(405, "This stream can only be read.", headers={"Allow": "GET, HEAD"})
    offset, live, cursor = (_one(request, name) for name in ("offset", "live", "cursor"))
    if live not in (None, LONG_POLL, SSE):
        raise _refused(f"live must be {LONG_POLL} or {SSE}.")
    if live is not None and offset is None:
        raise _refused(
            "A live read needs an offset: -1 for the beginning, now, or the Stream-Next-Offset of an answer."
        )
    if cursor is not None and not re.fullmatch("[0-9]{1,40}", cursor):
        raise _refused("cursor must be the Stream-Cursor of an answer.")
    return Asked(_offset(offset), live, None if cursor is None else int(cursor))


def _one(request: Request, name: str) -> str | None:
    found = request.query_params.getlist(name)
    if len(found) > 1:
        raise _refused(f"{name} must be given once.")
    return found[0] if found else None


def _offset(text: str | None) -> int | None:
    if text in (None, "-1"):
        return 0
    if text == NOW:
        return None
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) > MAX_OFFSET:
        raise _refused("offset must be -1, now, or the Stream-Next-Offset of an answer.")
    return int(text)


def _refused(reason: str) -> HTTPException:
    return HTTPException(400, reason, headers={"Cache-Control": NO_STORE, "X-Content-Type-Options": "nosniff"})


def offset_token(offset: int) -> str:
    """The offset as clients know it: these strings sort as the numbers do."""
    return f"{offset:010d}"


def response_cursor(cursor: int | None) -> int:
    """The cursor of an answer: the number of the present interval, or later than the cursor that the client has."""
    present = int(time.time() - FIRST_INTERVAL_AT) // INTERVAL_SECONDS
    if cursor is None or cursor < present:
        return present
    return cursor + -(-random.randint(1, MAX_JITTER_SECONDS) // INTERVAL_SECONDS)


class DurableStream:
    """One request for one stream."""

    def __init__(self, database: Database, workflow_id: str, key: str, request: Request, *, shared: bool) -> None:
        self._database, self._workflow_id, self._key, self._request = database, workflow_id, key, request
        self._shared = shared
        self._asked = asked(request)
        self._cursor = response_cursor(self._asked.cursor)

    @property
    def is_event_stream(self) -> bool:
        """Whether the answer is a stream of server-sent events."""
        return self._asked.live == SSE and self._request.method == "GET"

    async def answer(self, long_poll_seconds: float) -> Response:
        """The answer to every request but one for server-sent events."""
        if self._request.method == "HEAD":
            return await self._at_tail()
        if self._asked.live == LONG_POLL:
            return await self._when_there_is_more(long_poll_seconds)
        if self._asked.offset is None:
            return await self._at_tail()
        return await self._found(await self._first(self._asked.offset))

    async def _at_tail(self) -> Response:
        """Where the stream ends now, with no value."""
        tail = await tail_of(self._database, self._workflow_id, self._key)
        headers = self._headers(Chunk([], tail.offset, more=False, end=tail.end), NO_STORE)
        answer = Response("[]", headers=headers, media_type="application/json")
        if self._request.method == "HEAD":  # a GET has another length
            answer.body = b""
            del answer.headers["content-length"]
        return answer

    async def _when_there_is_more(self, seconds: float) -> Response:
        offset = await self._start()
        chunk = await self._or_left(self._wait_for_more(offset, seconds))
        if chunk is not None and chunk.values:
            return await self._found(chunk)
        end = None if chunk is None else chunk.end
        headers = self._headers(Chunk([], offset, more=False, end=end), NO_STORE)
        return Response(status_code=204, headers=headers)

    async def _found(self, chunk: Chunk) -> Response:
        """The values, or a 304 if the client has them."""
        end = chunk.end
        if chunk.more:  # a page is full, and perhaps nothing is behind it
            tail = await tail_of(self._database, self._workflow_id, self._key)
            end = tail.end
            if tail.offset <= chunk.next_offset:
                chunk = chunk._replace(more=False, end=end)
        headers = self._headers(chunk, self._cache_control(chunk, end))
        body = f"[{','.join(chunk.values)}]".encode()
        if self._asked.offset is not None:
            headers["ETag"] = _etag(self._asked.offset, chunk, body)
            if _matches(headers["ETag"], self._request.headers.get("if-none-match")):
                return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type="application/json")

    def _cache_control(self, chunk: Chunk, end: str | None) -> str:
        """What is shared may be as old as the protocol allows; else only what can never change is used without asking.

        Values of a stream that goes on may be taken back, and a cancelled workflow may be resumed.
        """
        if self._asked.offset is None:
            return NO_STORE
        is_final = end not in (None, "CANCELLED")
        may_be_old = is_final or (self._shared and bool(chunk.values) and end is None)
        return f"{'public' if self._shared else 'private'}, {CACHEABLE if may_be_old else 'no-cache'}"

    def _headers(self, chunk: Chunk, cache_control: str) -> dict[str, str]:
        headers = {"Stream-Next-Offset": offset_token(chunk.next_offset), "Cache-Control": cache_control}
        if chunk.is_up_to_date:
            headers["Stream-Up-To-Date"] = "true"
        if chunk.end is not None:
            headers["Stream-Closed"] = "true"
        if self._asked.live is not None:
            headers["Stream-Cursor"] = str(self._cursor)
        return headers | self._security_headers()

    def _security_headers(self) -> dict[str, str]:
        policy = "cross-origin" if self._shared else "same-origin"
        return {"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": policy}

    # Server-sent events

    @property
    def event_stream_headers(self) -> dict[str, str]:
        """The headers of a stream of server-sent events."""
        return {"Content-Type": "text/event-stream", "Cache-Control": "no-cache, no-store"} | self._security_headers()

    async def first_of_events(self) -> Chunk:
        """What there is now. It is found before the answer begins, while that can still have a status of its own."""
        return await self._first(await self._start())

    async def events(self, first: Chunk, seconds: float) -> AsyncGenerator[bytes, None]:
        """A data event for each chunk, a control event behind it, and the end of the connection after so many seconds."""
        until = asyncio.get_running_loop().time() + seconds
        yield self._told(first)
        if first.end is not None:
            return
        offset, is_up_to_date = first.next_offset, first.is_up_to_date
        del first  # a response that waits for long keeps nothing of what it has sent
        try:
            async with aclosing(self._chunks(offset, None, retry_forever=True)) as chunks:
                while True:
                    async with asyncio.timeout_at(until):
                        chunk = await anext(chunks)
                    if chunk.values or chunk.end is not None or not is_up_to_date:
                        yield self._told(chunk)
                    if chunk.end is not None:
                        return
                    is_up_to_date = chunk.is_up_to_date
                    del chunk
        except (TimeoutError, WorkflowNotFoundError, LaunchError):
            return  # time is over, or the workflow was deleted, or the reader closed: the client asks again

    def _told(self, chunk: Chunk) -> bytes:
        control: dict[str, Any] = {"streamNextOffset": offset_token(chunk.next_offset)}
        if chunk.end is None:
            self._cursor = max(self._cursor, response_cursor(None))
            control["streamCursor"] = str(self._cursor)
        if chunk.is_up_to_date:
            control["upToDate"] = True
        if chunk.end is not None:
            control["streamClosed"] = True
        data = _event("data", f"[{','.join(chunk.values)}]") if chunk.values else b""
        return data + _event("control", encode_value(control))

    # Reading

    async def _start(self) -> int:
        if self._asked.offset is not None:
            return self._asked.offset
        return (await tail_of(self._database, self._workflow_id, self._key)).offset

    async def _first(self, offset: int) -> Chunk:
        """What is there from this offset on, in one chunk if it is not too long.

        The client of npm reads no second one when it is asked for what is there (``live: false``).
        """
        async with aclosing(self._chunks(offset, None, retry_forever=False)) as chunks:
            chunk = await anext(chunks)
            values, length = chunk.values, sum(map(len, chunk.values))
            while chunk.more and length < MAX_LENGTH:
                chunk = await anext(chunks)
                values += chunk.values
                length += sum(map(len, chunk.values))
        return chunk._replace(values=values)

    async def _wait_for_more(self, offset: int, seconds: float) -> Chunk | None:
        """The next chunk that has values or ends; ``None`` when there is none in so many seconds."""
        try:
            async with aclosing(self._chunks(offset, seconds, retry_forever=False)) as chunks:
                async for chunk in chunks:
                    if chunk.values or chunk.end is not None:
                        return chunk
        except StreamTimeoutError:
            pass
        return None

    async def _chunks(self, offset: int, seconds: float | None, *, retry_forever: bool) -> AsyncGenerator[Chunk, None]:
        """Everything from this offset on, and then what comes: the one place that knows the pages of a stream."""
        place = StreamPlace(offset)
        pages = live_pages(self._database, self._workflow_id, self._key, place, seconds, retry_forever=retry_forever)
        async with aclosing(pages):
            async for page in pages:
                yield Chunk([value for _, value in page.entries], place.offset, page.more, page.end)
                del page

    async def _or_left(self, waiting: Coroutine[Any, Any, Chunk | None]) -> Chunk | None:
        """What is waited for; ``None`` as soon as the client has left or the server stops."""
        chunk = asyncio.ensure_future(waiting)
        # Only the library for events knows of uvicorn that it stops.
        stopping = EventSourceResponse._listen_for_exit_signal()  # pyright: ignore[reportPrivateUsage]
        others = [asyncio.ensure_future(_left(self._request)), asyncio.ensure_future(stopping)]
        try:
            await asyncio.wait([chunk, *others], return_when=asyncio.FIRST_COMPLETED)
            return chunk.result() if chunk.done() else None
        finally:
            for task in (chunk, *others):
                task.cancel()
            await asyncio.gather(chunk, *others, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event(name: str, data: str) -> bytes:
    return ServerSentEvent(data, event=name, sep="\n").encode()


def _etag(offset: int, chunk: Chunk, body: bytes) -> str:
    """It differs for other values, since values may be taken back, and says whether the stream ended."""
    digest = blake2b(body, digest_size=8).hexdigest()
    ends = ":c" if chunk.end is not None else ":u" if chunk.is_up_to_date else ""
    return f'"{digest}:{offset}:{chunk.next_offset}{ends}"'


def _matches(etag: str, condition: str | None) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in (condition or "").split(",")]
    return etag in tags or tags == ["*"]
