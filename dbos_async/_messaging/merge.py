"""Reading several streams together. Each is read page by page, in turn, so that none waits for another that has much to tell."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Any, Final

from dbos_async._checks import check_instance, check_loop, check_seconds
from dbos_async._database.change_keys import end_key, stream_key
from dbos_async._database.database import Database
from dbos_async._messaging.boundaries import (
    StreamName,
    decode_boundary,
    decode_entries,
    deferred,
    raise_end,
    read_recorded,
    where_it_is,
    with_offsets,
)
from dbos_async._messaging.live_merge import merged_pages
from dbos_async._messaging.read_stream import FOLLOW_ANY
from dbos_async._messaging.stream_pages import StreamPlace
from dbos_async._runs.context import WorkflowContext, calling_context
from dbos_async._runs.own_ids import are_same
from dbos_async._runs.step import Step
from dbos_async._runs.waiting import wait
from dbos_async._serialization.values import decode_value, encode_value
from dbos_async.errors import InvalidValueError
from dbos_async.waits import StreamOf, StreamValue

VERB: Final = "read_streams"


def read_streams(
    database: Database, streams: Sequence[StreamOf[Any]], timeout_seconds: float | None
) -> AsyncGenerator[StreamValue[Any], None]:
    """Yield the values of all these streams as they come, until all have ended."""
    for each in streams:
        check_instance(each, StreamOf, "A stream")
    return _values(database, streams, check_seconds(timeout_seconds))


async def _values(
    database: Database, streams: Sequence[StreamOf[Any]], seconds: float | None
) -> AsyncGenerator[StreamValue[Any], None]:
    check_loop(
        database.loop, "These streams are read in another event loop: call read_streams in the loop that reads them."
    )
    context = calling_context(database)
    parts = (
        _recorded_parts(database, streams, seconds)
        if isinstance(context, WorkflowContext)
        else _live_parts(database, streams, seconds, retry_forever=context is not None)
    )
    async with aclosing(parts):
        async for which, found in parts:
            workflow_id, (key, _) = streams[which].workflow_id, streams[which].name_and_type
            for offset, value in found:
                yield StreamValue(workflow_id, key, offset, value)


Part = tuple[int, list[tuple[int, Any]]]
"""The number of a stream, and values with their offsets."""


async def _live_parts(
    database: Database, streams: Sequence[StreamOf[Any]], seconds: float | None, *, retry_forever: bool
) -> AsyncGenerator[Part, None]:
    places = [(each.workflow_id, each.name_and_type[0], each.offset) for each in streams]
    async with aclosing(merged_pages(database, places, seconds, retry_forever=retry_forever)) as pages:
        async for which, page in pages:
            if not page.entries:
                continue
            key, declared = streams[which].name_and_type
            values, invalid = decode_entries(page.entries, key, declared)
            yield which, with_offsets(page, values)
            if invalid is not None:
                raise invalid


async def _recorded_parts(
    database: Database, streams: Sequence[StreamOf[Any]], seconds: float | None
) -> AsyncGenerator[Part, None]:
    names = [(each.workflow_id, each.name_and_type[0]) for each in streams]
    places = [StreamPlace(each.offset) for each in streams]
    step_key = encode_value([[key, workflow_id] for workflow_id, key in names])
    turns = list(range(len(streams)))  # who was read last is asked last
    while turns:
        context = calling_context(database)
        assert isinstance(context, WorkflowContext)
        step = Step(context, VERB, step_key)
        step.is_deferred = True
        step.matcher = matcher = _Matcher(names)
        asked = encode_value([[which, *names[which], places[which].offset] for which in turns])
        keys = list(dict.fromkeys(_keys(names[which] for which in turns)))
        result = await wait(step, FOLLOW_ANY, (*step.columns, step_key, asked, seconds), keys)
        async with deferred(step):
            boundary = await decode_boundary(step, result)
            told = boundary.get("stream")
            which = turns[0] if told is None else told
            if which not in turns:
                await step.park_undecodable(InvalidValueError("The record", f"stream {which} is not read any more"))
            declared = streams[which].name_and_type[1]
            pages, invalid = await read_recorded(
                database, step, boundary, matcher.recorded[which], declared, places[which]
            )
        for page, values in pages:
            yield which, with_offsets(page, values)
        if invalid is not None:
            raise invalid
        raise_end(boundary, names[which], places[which].offset, seconds)
        turns.remove(which)
        if boundary["end"] is None:
            turns.append(which)


def _keys(names: Iterator[StreamName]) -> Iterator[bytes]:
    for workflow_id, key in names:
        yield stream_key(workflow_id, key)
        yield end_key(workflow_id)


class _Matcher:
    """Compares the key of a step that reads several streams, and knows which streams the recorded values are in."""

    __slots__ = ("_asked", "recorded")

    def __init__(self, names: Sequence[StreamName]) -> None:
        self._asked = self.recorded = names

    async def is_same(self, step: Step, recorded: str, ids: Sequence[str]) -> bool:
        """Whether a step that reads these streams has recorded that key."""
        try:
            pairs: list[tuple[str, str]] = decode_value(recorded, list[tuple[str, str]])
        except InvalidValueError:
            return False
        names = [(workflow_id, key) for key, workflow_id in pairs]
        if not are_same(_flat(names), _flat(self._asked), ids):
            return False
        self.recorded = [where_it_is(was, asked, ids) for was, asked in zip(names, self._asked, strict=True)]
        return True


def _flat(names: Sequence[StreamName]) -> list[str]:
    return [part for name in names for part in name]
