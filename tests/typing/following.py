"""What a type checker sees of the verbs that follow messages, events and streams, as `surface.py` has it for the others."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any, assert_type

from dbos_async import DBOS, DBOSClient, Envelope, EventOf, EventValue, StreamOf, StreamValue
from dbos_async._received import Asked
from dbos_async.keys import Question
from tests.typing.surface import LINES, MAYBE, PAID, PRICE, PROGRESS, Paid, Progress


async def loops(dbos: DBOS, client: DBOSClient, question: Question[str, int]) -> None:
    assert_type(DBOS.messages(), AsyncGenerator[Envelope[Any], None])
    assert_type(DBOS.messages("plain", timeout_seconds=5), AsyncGenerator[Envelope[Any], None])
    assert_type(dbos.messages(question), AsyncGenerator[Asked[str, int], None])
    async for envelope in DBOS.messages(PAID):
        assert_type(envelope, Envelope[Paid])
    DBOS.messages(PROGRESS)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # a stream
    DBOS.messages(PAID, 5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]  # given by its name only
    client.messages(PAID)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]  # workflows only


async def watching(dbos: DBOS, client: DBOSClient) -> None:
    async for price in DBOS.watch_event("w", PRICE, after=3, timeout_seconds=5):
        assert_type(price, EventValue[int])
        assert_type(price.value, int)
        assert_type(price.version, int)
        assert_type(price.set_at, datetime)
    assert_type(dbos.watch_event("w", MAYBE), AsyncGenerator[EventValue[int | None], None])
    assert_type(client.watch_event("w", "plain"), AsyncGenerator[EventValue[Any], None])
    assert_type(EventOf("w", PRICE, after=3), EventOf[int])
    assert_type(EventOf("w", "plain"), EventOf[Any])
    DBOS.watch_event("w", PAID)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # a topic
    DBOS.watch_event("w", PRICE, 3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]  # given by its name only
    await client.watch_event("w", PRICE)  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]  # async for, not await


async def merging(dbos: DBOS, client: DBOSClient, ids: list[str]) -> None:
    assert_type(StreamOf("w", PROGRESS, offset=3), StreamOf[Progress])
    assert_type(StreamOf("w", "plain"), StreamOf[Any])
    same = DBOS.read_streams(StreamOf("a", PROGRESS), StreamOf("b", PROGRESS), timeout_seconds=5)
    assert_type(same, AsyncGenerator[StreamValue[Progress], None])
    mixed = dbos.read_streams(StreamOf("a", PROGRESS), StreamOf("b", LINES))
    assert_type(mixed, AsyncGenerator[StreamValue[Progress] | StreamValue[str | None], None])
    async for part in client.read_streams(StreamOf("a", PROGRESS), StreamOf("b", LINES), StreamOf("c", "plain")):
        assert_type(part, StreamValue[Progress] | StreamValue[str | None] | StreamValue[Any])
        assert_type(part.offset, int)
    many = client.read_streams(*(StreamOf(each, PROGRESS) for each in ids))
    assert_type(many, AsyncGenerator[StreamValue[Progress], None])
    assert_type(DBOS.read_streams(), AsyncGenerator[StreamValue[Any], None])
    DBOS.read_streams(PROGRESS)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]  # whose stream?
    StreamOf("w", PRICE)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # an event
    EventOf("w", PROGRESS)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a stream
