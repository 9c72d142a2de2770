"""The verbs that follow what several workflows say: watch an event, read several streams together. `DBOS` and `DBOSClient`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from typing import Any, TypeVar, overload

from dbos_async._database.database import Database
from dbos_async._messaging import merge, read_stream, watch
from dbos_async.keys import Event, Stream
from dbos_async.waits import EventValue, Rewind, StreamOf, StreamValue

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
R = TypeVar("R")


class WatchingVerbs(ABC):
    """Follow events and streams, for callers anywhere."""

    @property
    @abstractmethod
    def _database(self) -> Database:
        """The database that the verbs use; raises when it may not be used from here."""

    @overload
    def watch_event(
        self, workflow_id: str, key: Event[R], *, after: int = 0, timeout_seconds: float | None = None
    ) -> AsyncGenerator[EventValue[R], None]: ...
    @overload
    def watch_event(
        self, workflow_id: str, key: str, *, after: int = 0, timeout_seconds: float | None = None
    ) -> AsyncGenerator[EventValue[Any], None]: ...
    def watch_event(
        self, workflow_id: str, key: str | Event[Any], *, after: int = 0, timeout_seconds: float | None = None
    ) -> AsyncGenerator[EventValue[Any], None]:
        """Yield the current version of an event of a workflow, and then later ones in order, until the workflow has ended.

        Versions that are set faster than they are taken may be skipped. None is older than one that was yielded, and the last is
        never skipped. ``after`` is a version that was seen: only later ones are yielded. A workflow that has not started yet is
        waited for, also for ever; a parked one goes on once somebody has resumed it; one that was deleted has ended. In a
        workflow each version is recorded, so a replay yields the same ones.

        Raises `EventTimeoutError` (a ``TimeoutError``) after ``timeout_seconds`` without a version (``None`` waits forever), and
        `InvalidEventValueError` at a value that does not fit the type of the event: watch on with ``after=error.version``.

        Example:
            ```python
            @DBOS.workflow()
            async def auction() -> None:
                for bid in (100, 150, 200):
                    await DBOS.set_event("bid", bid)

            handle = await DBOS.start_workflow(auction)
            async for bid in DBOS.watch_event(handle.workflow_id, "bid"):
                print(f"{bid.value} cents, version {bid.version} of {bid.set_at}")
            assert bid.value == 200
            ```
        """
        return watch.watch_event(self._database, workflow_id, key, after, timeout_seconds)

    @overload
    def read_stream_entries(
        self, workflow_id: str, key: Stream[R], *, offset: int = 0, timeout_seconds: float | None = None
    ) -> AsyncGenerator[StreamValue[R] | Rewind, None]: ...
    @overload
    def read_stream_entries(
        self, workflow_id: str, key: str, *, offset: int = 0, timeout_seconds: float | None = None
    ) -> AsyncGenerator[StreamValue[Any] | Rewind, None]: ...
    def read_stream_entries(
        self, workflow_id: str, key: str | Stream[Any], *, offset: int = 0, timeout_seconds: float | None = None
    ) -> AsyncGenerator[StreamValue[Any] | Rewind, None]:
        """Yield the entries of a stream: each value with its offset, and a `Rewind` when values are taken back.

        After ``Rewind(offset)`` forget every value from that offset on; what stands of them follows. So what a reader has is at
        any moment the beginning of what one attempt of a step has written with `DBOS.stream_writer`. A reader is told only of
        values that it may have had: of those from ``offset`` on, and of those before it. A later reader never sees what was taken
        back. Offsets are not consecutive then.

        Ends and raises as `DBOS.read_stream` does, and a replay in a workflow yields the same entries.

        Example:
            ```python
            @DBOS.step(retries_allowed=True, interval_seconds=0)
            async def answer() -> None:
                attempts.append(len(attempts) + 1)
                async with DBOS.stream_writer("words") as out:
                    await out.write(f"attempt {attempts[-1]}")
                    await out.flush()
                    if attempts == [1]:
                        raise ConnectionError

            @DBOS.workflow()
            async def chat() -> None:
                await answer()

            attempts: list[int] = []
            handle = await DBOS.start_workflow(chat)
            shown: list[StreamValue[str]] = []
            async for entry in DBOS.read_stream_entries(handle.workflow_id, "words"):
                match entry:
                    case Rewind(offset):
                        shown = [one for one in shown if one.offset < offset]
                    case _:
                        shown.append(entry)
            assert [entry.value for entry in shown] == ["attempt 2"]
            ```
        """
        return read_stream.read_stream_entries(self._database, workflow_id, key, offset, timeout_seconds)

    @overload
    def read_streams(self, /, *, timeout_seconds: float | None = None) -> AsyncGenerator[StreamValue[Any], None]: ...
    @overload
    def read_streams(
        self, a: StreamOf[A], b: StreamOf[B], /, *, timeout_seconds: float | None = None
    ) -> AsyncGenerator[StreamValue[A] | StreamValue[B], None]: ...
    @overload
    def read_streams(
        self, a: StreamOf[A], b: StreamOf[B], c: StreamOf[C], /, *, timeout_seconds: float | None = None
    ) -> AsyncGenerator[StreamValue[A] | StreamValue[B] | StreamValue[C], None]: ...
    @overload
    def read_streams(
        self, a: StreamOf[A], b: StreamOf[B], c: StreamOf[C], d: StreamOf[D], /, *, timeout_seconds: float | None = None
    ) -> AsyncGenerator[StreamValue[A] | StreamValue[B] | StreamValue[C] | StreamValue[D], None]: ...
    @overload
    def read_streams(
        self, *streams: StreamOf[R], timeout_seconds: float | None = None
    ) -> AsyncGenerator[StreamValue[R], None]: ...
    def read_streams(
        self, *streams: StreamOf[Any], timeout_seconds: float | None = None
    ) -> AsyncGenerator[StreamValue[Any], None]:
        """Yield the values of several streams as they are written, each with its stream and offset, until all have ended.

        The values of one stream come in order, each once, from the ``offset`` of its `StreamOf` on. Streams take turns, so none
        waits for another that has much to tell. Without any stream there is nothing to yield. In a workflow the order is
        recorded, so a replay yields the same sequence.

        Raises `WorkflowNotFoundError` when one of the workflows does not exist, `StreamTimeoutError` (a ``TimeoutError``) after
        ``timeout_seconds`` without a value of any (``None`` waits forever; the error names one that goes on), and
        `InvalidStreamValueError` at a value that does not fit the type of its stream.

        Example:
            ```python
            @DBOS.workflow()
            async def counts(end: int) -> None:
                for number in range(end):
                    await DBOS.write_stream("numbers", number)

            first = await DBOS.start_workflow(counts, 2)
            second = await DBOS.start_workflow(counts, 3)
            found = []
            async for part in DBOS.read_streams(
                StreamOf(first.workflow_id, "numbers"), StreamOf(second.workflow_id, "numbers")
            ):
                found.append(part.value)
            assert sorted(found) == [0, 0, 1, 1, 2]
            ```
        """
        return merge.read_streams(self._database, streams, timeout_seconds)
