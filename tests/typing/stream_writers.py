"""What a type checker sees of stream writers and of what their readers are told, as `surface.py` has it for the others."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, assert_type

from dbos_async import DBOS, DBOSClient, Rewind, StreamValue, StreamWriter
from tests.typing.surface import LINES, PRICE, PROGRESS, Progress


async def writing(dbos: DBOS, client: DBOSClient, progress: Progress) -> None:
    async with DBOS.stream_writer(PROGRESS, on_retry="continue", max_values=5, max_bytes=100, max_seconds=0.1) as out:
        assert_type(out, StreamWriter[Progress])
        assert_type(out.written, tuple[Progress, ...])
        assert_type(await out.write(progress), None)
        assert_type(await out.flush(), None)
        await out.write("half")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no Progress
    assert_type(dbos.stream_writer(LINES), StreamWriter[str | None])
    assert_type(dbos.stream_writer("plain"), StreamWriter[Any])
    DBOS.stream_writer(PRICE)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # an event
    DBOS.stream_writer(LINES, on_retry="never")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # no such way
    client.stream_writer(LINES)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]  # in workflows


async def writing_many(dbos: DBOS, client: DBOSClient, progress: Progress) -> None:
    assert_type(await DBOS.write_stream_many(PROGRESS, [progress, progress]), None)
    await dbos.write_stream_many(LINES, ("a", None))
    await dbos.write_stream_many("plain", [1, "a"])
    await DBOS.write_stream_many(PROGRESS, ["half"])  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]  # no Progress
    await DBOS.write_stream_many(PRICE, [1])  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # an event
    client.write_stream_many(LINES, [])  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]  # in workflows


async def reading(dbos: DBOS, client: DBOSClient) -> None:
    async for entry in DBOS.read_stream_entries("w", PROGRESS, offset=3, timeout_seconds=5):
        match entry:
            case Rewind(offset):
                assert_type(offset, int)
            case StreamValue():
                assert_type(entry.value, Progress)
                assert_type(entry.offset, int)
    assert_type(dbos.read_stream_entries("w", LINES), AsyncGenerator[StreamValue[str | None] | Rewind, None])
    assert_type(client.read_stream_entries("w", "plain"), AsyncGenerator[StreamValue[Any] | Rewind, None])
    DBOS.read_stream_entries("w", PRICE)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # an event
    await DBOS.read_stream_entries("w", LINES)  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]  # async for, not await
