"""The buffer of a stream writer in the body of a workflow: the writer is a step, and so is each barrier.

What is sent between two barriers is no step, since its moment depends on time. A replay writes the same values again, and those
that are stored already are left out, by their numbers.
"""

from __future__ import annotations

import asyncio
import json
from typing import Final

from dbos_async._database.calls import Call
from dbos_async._database.database import Database
from dbos_async._messaging.stream_buffer import VERB, Buffer, Limits, bytes_of, writes_of
from dbos_async._messaging.streams import append_call, encode_batch
from dbos_async._runs.context import StepContext, WorkflowContext, calling_context
from dbos_async._runs.run import Run
from dbos_async._runs.step import Step
from dbos_async.errors import WrongPlaceError

FLUSH: Final = "flush_stream"


class WorkflowBuffer(Buffer):
    """The buffer of a writer in the body of a workflow: a writer that is full waits for a barrier, which is a step."""

    def __init__(self, database: Database, run: Run, key: str, limits: Limits, path: str) -> None:
        super().__init__(database, run, key, limits)
        self._path = path
        self._unconfirmed: list[str] = []
        """The values since the last barrier."""
        self._unconfirmed_size = 0
        self._confirmed = 0
        self._turn = asyncio.Lock()
        """One barrier at a time."""

    @classmethod
    async def open(cls, database: Database, context: WorkflowContext, key: str, limits: Limits) -> WorkflowBuffer:
        """Record that the writer begins. Its values bear the path of this step."""
        step = Step(context, VERB, key)

        async def nothing() -> tuple[str | None, str | None]:
            return None, None

        (await step.run_once(nothing)).value()
        buffer = cls(database, context.run, key, limits, step.path)
        writes_of(context.run).writers.setdefault(key, []).append(buffer)
        return buffer

    @property
    def outlasts_cancelling(self) -> bool:
        """A replay writes the same values before the same cancellation, so they must be stored in the first run, too."""
        return self._run.stopped is None

    async def add(self, text: str) -> None:
        self._context()
        await self._run.check_may_act("write", is_begun=False)
        self._put(text)
        self._unconfirmed.append(text)
        self._unconfirmed_size += bytes_of(text)
        # Which value is followed by a barrier must not depend on what was sent in the meantime.
        if len(self._unconfirmed) >= self._limits.values or self._unconfirmed_size >= self._limits.bytes:
            await self.flush()
        else:
            self._send_in_time()

    async def flush(self) -> None:
        self._context()
        async with self._turn:
            if self._unconfirmed:
                await self._confirm()
        self._send_in_time()

    async def _confirm(self) -> None:
        """Store all values since the last barrier, as a step."""
        step = Step(self._context(), FLUSH, self._key)
        texts, size, first = self._unconfirmed, self._unconfirmed_size, self._confirmed
        count = first + len(texts)
        output = json.dumps({"writer": self._path, "written": count})
        self._stop_timer()
        self._unconfirmed, self._unconfirmed_size, self._confirmed = [], 0, count
        # What is under way is among these values. The statement leaves it out.
        self._texts, self._size, self.count = [], 0, count
        batch = encode_batch(texts)
        call = append_call(self._run, step, self._path, FLUSH, self._key, texts, batch, first, output)
        try:
            (await step.perform(call)).value()
        except asyncio.CancelledError:
            # The next barrier stores them, or leaves them out if they were committed all the same.
            self._unconfirmed, self._confirmed = texts + self._unconfirmed, first
            self._unconfirmed_size += size
            raise
        self._failure = None

    def abandon(self) -> None:
        super().abandon()
        writers = writes_of(self._run).writers
        if self in writers.get(self._key, ()):
            writers[self._key].remove(self)
            if not writers[self._key]:
                del writers[self._key]

    async def finish(self) -> None:
        if self.is_over:
            return
        try:
            await self.flush()
        finally:
            self.abandon()

    def _start_sending(self) -> None:
        self._stop_timer()
        if not self._turn.locked():  # else what waits now follows the barrier
            super()._start_sending()

    async def _store(self, texts: list[str], first: int) -> None:
        if texts:  # a barrier that began in between has taken them over
            await super()._store(texts, first)

    def _context(self) -> WorkflowContext:
        context = calling_context(self._database)
        if isinstance(context, WorkflowContext) and context.run is self._run:
            return context
        raise WrongPlaceError(
            "A stream writer of a workflow is used in the body of that workflow, and not in its steps."
        )

    def _call(self, texts: list[str], first: int) -> Call:
        inside = StepContext(self._run, self._path)
        return append_call(self._run, inside, self._path, VERB, self._key, texts, encode_batch(texts), first)
