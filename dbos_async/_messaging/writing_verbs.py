"""The verbs that write several values to a stream: a writer with a buffer, and many values at once. They are on `DBOS` only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar, overload

from dbos_async._database.database import Database
from dbos_async._messaging import streams
from dbos_async._messaging.stream_buffer import Limits
from dbos_async._messaging.stream_writer import OnRetry, StreamWriter
from dbos_async.keys import Stream

R = TypeVar("R")


class WritingVerbs(ABC):
    """Write streams in batches, in the name of the calling workflow."""

    @property
    @abstractmethod
    def _database(self) -> Database:
        """The database that the verbs use; raises when it may not be used from here."""

    @overload
    def stream_writer(
        self,
        key: Stream[R],
        *,
        on_retry: OnRetry = "rewind",
        max_values: int = 1000,
        max_bytes: int = 1048576,
        max_seconds: float = 0.02,
    ) -> StreamWriter[R]: ...
    @overload
    def stream_writer(
        self,
        key: str,
        *,
        on_retry: OnRetry = "rewind",
        max_values: int = 1000,
        max_bytes: int = 1048576,
        max_seconds: float = 0.02,
    ) -> StreamWriter[Any]: ...
    def stream_writer(
        self,
        key: str | Stream[Any],
        *,
        on_retry: OnRetry = "rewind",
        max_values: int = 1000,
        max_bytes: int = 1048576,
        max_seconds: float = 0.02,
    ) -> StreamWriter[Any]:
        """A writer that appends to a stream of the calling workflow in batches (workflows and steps)::

            async with DBOS.stream_writer(TOKENS) as out:
                async for token in model(question):
                    await out.write(token)

        A value waits in the buffer until there are ``max_values`` of them or ``max_bytes``, and at most ``max_seconds``. All that
        was written is committed when `StreamWriter.flush` returns, at the end of the block and at the end of the step. What was
        not sent when the step is cancelled or runs out of time is dropped. A step has one writer of a stream at a time.

        ``on_retry`` says what a new attempt of a step does with what earlier attempts wrote, by a retry or after a crash:

        - ``"rewind"`` takes it back. A reader of `DBOS.read_stream_entries` is told to forget it, and a later reader never sees it.
        - ``"continue"`` lets it stand; `StreamWriter.written` has it, so that a model can be asked to go on from there.
        - ``"skip"`` writes the n-th value of the step once, in whichever attempt it comes first.
        - ``"append"`` writes behind it, as `DBOS.write_stream` does.

        In the body of a workflow each value is written exactly once, whatever ``on_retry`` says.

        Raises `WrongPlaceError` outside workflows, and `InvalidArgumentError` when an argument cannot be used. What
        `StreamWriter.write` and `StreamWriter.flush` raise, the end of the block raises, too.

        Example:
            ```python
            @DBOS.step()
            async def answer() -> str:
                async with DBOS.stream_writer("words") as out:
                    for word in ("durable", "messages"):
                        await out.write(word)
                return "durable messages"

            @DBOS.workflow()
            async def chat() -> str:
                return await answer()

            handle = await DBOS.start_workflow(chat)
            assert [word async for word in DBOS.read_stream(handle.workflow_id, "words")] == ["durable", "messages"]
            ```
        """
        return StreamWriter(self._database, key, on_retry, Limits(max_values, max_bytes, max_seconds))

    @overload
    async def write_stream_many(self, key: Stream[R], values: Sequence[R]) -> None: ...
    @overload
    async def write_stream_many(self, key: str, values: Sequence[Any]) -> None: ...
    async def write_stream_many(self, key: str | Stream[Any], values: Sequence[Any]) -> None:
        """Append several values to a stream of the calling workflow in one commit, or none (workflows and steps).

        A workflow writes them exactly once; a step writes them at least once. At most 10,000 values and ``max_payload_bytes`` of
        JSON are written in one call. Without values nothing happens.

        Raises what `DBOS.write_stream` raises, and `InvalidArgumentError` for more values; then nothing is written.

        Example:
            ```python
            @DBOS.workflow()
            async def report() -> None:
                await DBOS.write_stream_many("lines", ["all", "is", "well"])

            handle = await DBOS.start_workflow(report)
            assert [line async for line in DBOS.read_stream(handle.workflow_id, "lines")] == ["all", "is", "well"]
            ```
        """
        await streams.write_stream_many(self._database, key, values)
