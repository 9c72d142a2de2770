"""Reading a stream: its values, or its entries, which tell of what was taken back, too. A workflow records how far it has read."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from dbos_async._checks import check_int, check_key, check_loop, check_seconds
from dbos_async._database.change_keys import end_key, stream_key
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._messaging.boundaries import (
    StreamMatcher,
    decode_boundary,
    decode_entries,
    deferred,
    raise_end,
    read_recorded,
    with_offsets,
)
from dbos_async._messaging.live import live_pages
from dbos_async._messaging.stream_pages import Page, StreamPlace
from dbos_async._runs.context import WorkflowContext, calling_context
from dbos_async._runs.step import Step
from dbos_async._runs.waiting import wait
from dbos_async.keys import Stream, key_and_type
from dbos_async.waits import Rewind, StreamValue

if TYPE_CHECKING:
    from dbos_async._telemetry.acts import Block

with load(__name__) as sql:
    FOLLOW: Final = sql.statement("FOLLOW")
    FOLLOW_ANY: Final = sql.statement("FOLLOW_ANY")


def read_stream(
    database: Database, workflow_id: str, key: str | Stream[Any], offset: int, timeout_seconds: float | None
) -> AsyncGenerator[Any, None]:
    """Yield the values from ``offset`` on, in order, until the stream has ended."""
    reading = _Reading(database, workflow_id, key, offset, timeout_seconds, "read_stream")
    return reading.values()


def read_stream_entries(
    database: Database, workflow_id: str, key: str | Stream[Any], offset: int, timeout_seconds: float | None
) -> AsyncGenerator[StreamValue[Any] | Rewind, None]:
    """The same with the offsets, and with a `Rewind` when values are taken back that this reader was given."""
    reading = _Reading(database, workflow_id, key, offset, timeout_seconds, "read_stream_entries")
    return reading.entries()


class _Reading:
    """One reader of a stream."""

    def __init__(
        self,
        database: Database,
        workflow_id: str,
        key: str | Stream[Any],
        offset: int,
        timeout_seconds: float | None,
        verb: str,
    ) -> None:
        self._database = database
        self._workflow_id = check_key(workflow_id, "workflow_id")
        self._key, self._declared = key_and_type(key, Stream)
        self._place = StreamPlace(check_int(offset, 0, "offset"), takes_rewinds=verb == "read_stream_entries")
        self._seconds = check_seconds(timeout_seconds)
        self._verb = verb

    async def values(self) -> AsyncGenerator[Any, None]:
        async with aclosing(self._pages()) as pages:
            async for _, page_values in pages:
                for value in page_values:
                    yield value

    async def entries(self) -> AsyncGenerator[StreamValue[Any] | Rewind, None]:
        async with aclosing(self._pages()) as pages:
            async for page, page_values in pages:
                for entry in self._entries(page, page_values):
                    yield entry

    def _entries(self, page: Page, page_values: list[Any]) -> list[StreamValue[Any] | Rewind]:
        found: list[StreamValue[Any] | Rewind] = [
            StreamValue(self._workflow_id, self._key, offset, value)
            for offset, value in with_offsets(page, page_values)
        ]
        for rewound in reversed(page.rewinds):
            if rewound.entries_before <= len(page_values):
                found.insert(rewound.entries_before, Rewind(rewound.offset))
        return found

    async def _pages(self) -> AsyncGenerator[tuple[Page, list[Any]], None]:
        check_loop(
            self._database.loop,
            f"This stream is read in another event loop: call {self._verb} in the loop that reads it.",
        )
        context, telemetry = calling_context(self._database), self._database.telemetry
        run = None if context is None else context.run
        block = None if telemetry is None else telemetry.read_stream(self._workflow_id, self._key, run)
        if isinstance(context, WorkflowContext):
            pages = self._recorded_pages(block)
        else:
            pages = self._live_pages(retry_forever=context is not None)
            if block is not None:
                block.turn(waited=False)
        async with aclosing(pages):
            if block is None:
                async for page in pages:
                    yield page
                return
            with block:
                async for page in pages:
                    block.add(len(page[1]))
                    yield page

    async def _live_pages(self, *, retry_forever: bool) -> AsyncGenerator[tuple[Page, list[Any]], None]:
        polls = live_pages(
            self._database, self._workflow_id, self._key, self._place, self._seconds, retry_forever=retry_forever
        )
        async with aclosing(polls):
            async for page in polls:
                found, invalid = decode_entries(page.entries, self._key, self._declared)
                yield page, found
                if invalid is not None:
                    raise invalid

    async def _recorded_pages(self, block: Block | None) -> AsyncGenerator[tuple[Page, list[Any]], None]:
        stream, place = (self._workflow_id, self._key), self._place
        step_key = f"{self._key} of {self._workflow_id}"
        keys = stream_key(*stream), end_key(self._workflow_id)
        while True:
            context = calling_context(self._database)
            assert isinstance(context, WorkflowContext)
            step = Step(context, self._verb, step_key)
            step.is_deferred = True
            step.matcher = matcher = StreamMatcher(stream)
            row = (*step.columns, self._verb, step_key, *stream, place.offset, self._seconds)
            result = await wait(step, FOLLOW, row, keys, receipt=block)
            async with deferred(step):
                boundary = await decode_boundary(step, result)
                pages, invalid = await read_recorded(
                    self._database, step, boundary, matcher.recorded, self._declared, place
                )
            for page in pages:
                yield page
            if invalid is not None:
                raise invalid
            raise_end(boundary, stream, place.offset, self._seconds)
            if boundary["end"] == "closed":
                return
