"""What a workflow records of reading streams: boundaries, and no copies. A replay reads the values behind them again."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from dbos_async._database.database import Database
from dbos_async._messaging.live import READ
from dbos_async._messaging.stream_pages import MAX_VALUES, Page, StreamPlace
from dbos_async._runs.own_ids import are_same
from dbos_async._runs.step import Step
from dbos_async._runs.step_result import StepResult
from dbos_async._serialization.exceptions import decode_error, encode_error
from dbos_async._serialization.values import decode_value, encode_value
from dbos_async.errors import (
    InvalidStreamValueError,
    InvalidValueError,
    StreamTimeoutError,
    StreamTrimmedError,
    WorkflowNotFoundError,
)

StreamName = tuple[str, str]
"""The id of a workflow, and the key of one of its streams."""


class Boundary(TypedDict):
    """What a step records of reading a stream, with the error of a value that could not be decoded.

    ``stream`` is the number of the stream among those that are read together, ``None`` when no value came in time. ``count`` says
    how far the reader came, over values and over what was taken back. ``first`` is where a stream begins that was trimmed.
    """

    stream: NotRequired[Annotated[int, Field(ge=0, lt=2**31)] | None]
    offset: Annotated[int, Field(ge=0, lt=2**31)]
    count: Annotated[int, Field(ge=0, lt=2**31)]
    end: Literal["unknown", "closed", "timeout", "invalid", "trimmed"] | None
    first: NotRequired[Annotated[int, Field(ge=0, lt=2**31)] | None]
    error: NotRequired[Any]


@asynccontextmanager
async def deferred(step: Step) -> AsyncGenerator[None]:
    """The step's result may be used after this block, which has something left to do with it."""
    try:
        yield
        await step.release()
    except asyncio.CancelledError:
        await step.wait_for_cancellation()
        raise
    except BaseException:
        step.void()
        raise


async def decode_boundary(step: Step, result: StepResult) -> Boundary:
    """The boundary that the step has recorded."""
    try:
        boundary: Boundary = decode_value(result.value() or "null", Boundary)
    except InvalidValueError as unreadable:
        await step.park_undecodable(unreadable)
    return boundary


async def read_recorded(
    database: Database, step: Step, boundary: Boundary, stream: StreamName, declared: Any, place: StreamPlace
) -> tuple[list[tuple[Page, list[Any]]], InvalidStreamValueError | StreamTrimmedError | None]:
    """The pages that a step has recorded to be read, with their values up to the first that cannot be read, and its error.

    The place moves behind them.
    """
    if not boundary["count"]:
        return [], None
    place.offset, stop = boundary["offset"], boundary["offset"] + boundary["count"]
    pages: list[tuple[Page, list[Any]]] = []
    while place.offset < stop:
        row = *stream, place.offset, MAX_VALUES, stop
        records = await database.call(READ, [row], partition=stream[0], retry_forever=True)
        if records[-1]["offset"] is None:
            raise WorkflowNotFoundError(stream[0])
        try:
            page = place.read(*stream, records)
        except StreamTrimmedError as trimmed:
            await _record_trimmed(step, boundary, trimmed)
            return pages, trimmed
        page = page._replace(entries=[entry for entry in page.entries if entry[0] < stop])
        page_values, invalid = decode_entries(page.entries, stream[1], declared)
        pages.append((page, page_values))
        if invalid is not None:
            count = invalid.offset - boundary["offset"]
            reason = json.loads(encode_error(invalid))
            shorter = boundary | {"count": count, "end": "invalid", "error": reason}
            await step.record_rejection(encode_value(shorter), invalid)
            return pages, invalid
    place.offset = stop
    return pages, None


async def _record_trimmed(step: Step, boundary: Boundary, trimmed: StreamTrimmedError) -> None:
    """Record that values were trimmed before this run could read them. Values that an earlier run has read are missing now."""
    history = step.run.history
    if history is not None and not history.is_used_up:
        last = boundary["offset"] + boundary["count"] - 1
        await step.park_changed(
            f"the values from offset {boundary['offset']} to {last}",
            f"the same, of which those below offset {trimmed.first} were trimmed since",
        )
    shorter = boundary | {"count": trimmed.offset - boundary["offset"], "end": "trimmed", "first": trimmed.first}
    await step.record_rejection(encode_value(shorter), trimmed)


def raise_end(boundary: Boundary, stream: StreamName, offset: int, seconds: float | None) -> None:
    """Raise if reading the stream has ended otherwise than with the stream."""
    match boundary["end"]:
        case "invalid":
            raise decode_error(encode_value(boundary.get("error")))
        case "trimmed":
            raise StreamTrimmedError(*stream, offset, boundary.get("first") or 0)
        case "unknown":
            raise WorkflowNotFoundError(stream[0])
        case "timeout":
            raise StreamTimeoutError(*stream, offset, seconds or 0.0)
        case _:
            pass


def decode_entries(
    entries: list[tuple[int, str]], key: str, declared: Any
) -> tuple[list[Any], InvalidStreamValueError | None]:
    """The values of a page up to the first that cannot be decoded, and the error of that one."""
    found: list[Any] = []
    for offset, text in entries:
        error = functools.partial(InvalidStreamValueError, offset=offset)
        try:
            found.append(decode_value(text, declared, what=f"Value {offset} of stream {key!r}", error=error))
        except InvalidStreamValueError as invalid:
            return found, invalid
    return found, None


def with_offsets(page: Page, values: list[Any]) -> list[tuple[int, Any]]:
    """The values of a page that could be decoded, with their offsets."""
    return [(offset, value) for (offset, _), value in zip(page.entries, values, strict=False)]


class StreamMatcher:
    """Compares the key of a step that reads a stream, and knows which stream the recorded values are in."""

    __slots__ = ("_asked", "recorded")

    def __init__(self, stream: StreamName) -> None:
        self._asked = self.recorded = stream

    async def is_same(self, step: Step, recorded: str, ids: Sequence[str]) -> bool:
        """Whether a step that reads this stream has recorded that key."""
        words = recorded.split(" of ")
        for count in range(1, len(words)):
            stream = " of ".join(words[count:]), " of ".join(words[:count])
            if are_same(stream, self._asked, ids):
                self.recorded = where_it_is(stream, self._asked, ids)
                return True
        return False


def where_it_is(recorded: StreamName, asked: StreamName, ids: Sequence[str]) -> StreamName:
    """Which stream the values are in that a step has recorded to be read. A fork has its own copy of one of the original."""
    return asked if recorded[0] in ids else recorded
