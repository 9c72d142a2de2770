"""The buffer of a stream writer in a step: a new attempt takes back what earlier ones have written, or goes on from it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from dbos_async._database.calls import Call
from dbos_async._database.change_keys import stream_key
from dbos_async._database.database import Database
from dbos_async._messaging.stream_buffer import VERB, Buffer, Limits, LostError, writes_of
from dbos_async._messaging.streams import (
    REWIND,
    WRITTEN,
    Written,
    append_call,
    call_of_stream,
    encode_batch,
    stream_end,
)
from dbos_async._runs.context import StepContext, check_live
from dbos_async._runs.run import Run
from dbos_async.errors import WrongPlaceError


class StepBuffer(Buffer):
    """The buffer of a writer in a step."""

    def __init__(self, database: Database, context: StepContext, key: str, limits: Limits, on_retry: str) -> None:
        super().__init__(database, context.run, key, limits)
        self._context = context
        self.rewinds: bool = on_retry == "rewind"
        self._skips = on_retry == "skip"

    async def begin(self) -> Sequence[str]:
        """Take the place of the writer of this stream; returns what counts of what earlier ones have written."""
        context, key = self._context, self._key
        writers = context.writers = {} if context.writers is None else context.writers
        before = writers.get(key)
        if before is not None and not before.is_over:
            raise WrongPlaceError(
                f"A step has one writer of a stream at a time, and that of stream {key!r} is open: write with that one."
            )
        writers[key] = self
        try:
            await _settled(self._run, context.path, key)
            if before is not None:  # this attempt goes on
                self.rewinds, self.count = before.rewinds, before.count
                self._stored = self.count
            if before is not None or self.rewinds:
                return ()
            row = self._run.workflow_id, key, context.path
            records = await self._database.call(WRITTEN, [row], partition=self._run.partition, retry_forever=True)
        except BaseException:
            self.abandon()
            if before is not None:
                writers[key] = before  # it knows what this attempt has done
            raise
        found = [text for record in records for text in record["batch"] or ()]
        self.count = self._stored = 0 if self._skips else records[-1]["count"] or 0
        return found

    async def add(self, text: str) -> None:
        await self._check("write")
        while self._is_full:
            self._send_in_time()
            await self._wait("write")
        self._put(text)
        self._send_in_time()

    async def flush(self) -> None:
        await self._check("flush")
        target = self.count + len(self._texts)
        self._barriers += 1
        try:
            while self._stored < target:
                self._send_in_time()
                await self._wait("flush")
        finally:
            self._barriers -= 1

    async def finish(self) -> None:
        """The end of the block, or of the step. An attempt without values takes back what earlier ones have written, too."""
        if self.is_over:
            if self._failure is not None or not (self.rewinds or self._is_sending):
                return
            self.is_over = False  # its block was cancelled, and the step went on and succeeds
        try:
            await self.flush()
            if self.rewinds:
                self._start_sending()
                while self._is_sending:
                    await self._wait("flush")
        finally:
            self.abandon()

    def abandon(self) -> None:
        super().abandon()
        if self._is_sending:
            writes_of(self._run).unsettled[self._context.path, self._key] = self

    async def _check(self, verb: str) -> None:
        check_live(self._context, verb)
        if self._run.stopped is not None:
            await self._run.halt(self._run.stopped)
        if isinstance(self._failure, LostError):
            await self._run.stop_as_lost()
        if self._failure is not None:
            raise self._failure

    async def _wait(self, verb: str) -> None:
        with self._run.inside(verb):
            await self._next_turn()
        await self._check(verb)

    async def _store(self, texts: list[str], first: int) -> None:
        if not self.rewinds:
            if texts:
                await super()._store(texts, first)
            return
        # Rewinds of one stream follow each other: each takes back, and copies, what is there.
        async with _rewinding(self._run, self._key):
            await super()._store(texts, first)
        self.rewinds = False

    def _call(self, texts: list[str], first: int) -> Call:
        run, path, key = self._run, self._context.path, self._key
        batch = encode_batch(texts)
        if not self.rewinds:
            return append_call(run, self._context, path, VERB, key, texts, batch, first)
        digest, seq = stream_key(run.workflow_id, key), run.next_write_seq()
        row = run.workflow_id, run.attempt, path, key, batch, seq, stream_end(run, key), digest
        return call_of_stream(run, self._context, REWIND, row, Written(run, key, texts, len(batch), digest))


async def _settled(run: Run, path: str, key: str) -> None:
    """Return when nothing is under way any more of what an abandoned writer of this step has sent to the stream."""
    unsettled = writes_of(run).unsettled
    buffer: StepBuffer | None = unsettled.get((path, key))
    if buffer is not None:
        await buffer.settle()
        unsettled.pop((path, key), None)


def _rewinding(run: Run, key: str) -> asyncio.Lock:
    return writes_of(run).rewinding.setdefault(key, asyncio.Lock())
