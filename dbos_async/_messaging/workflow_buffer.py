"""The buffer of a stream writer in the body of a workflow: the writer is a step, and so is each barrier.

What is sent between two barriers is no step, since its moment depends on time. A replay writes the same values again, and those
that are stored already are left out, by their numbers.
"""

from __future__ import annotations

import json
from typing import Final

from dbos_async._database.calls import Call
from dbos_async._database.database import Database
from dbos_async._messaging.stream_buffer import VERB, Buffer, Limits, bytes_of
from dbos_async._messaging.streams import append_call, encode_batch, settle, settling
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

    @classmethod
    async def open(cls, database: Database, context: WorkflowContext, key: str, limits: Limits) -> WorkflowBuffer:
        """Record that the writer begins. Its values bear the path of this step."""
        step = Step(context, VERB, key)

        async def nothing() -> tuple[str | None, str | None]:
            return None, None

        (await step.run_once(nothing)).value()
        return cls(database, context.run, key, limits, step.path)

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
        if not self._unconfirmed:
            return
        step = Step(self._context(), FLUSH, self._key)
        texts, count = self._unconfirmed, self._confirmed + len(self._unconfirmed)
        output = json.dumps({"writer": self._path, "written": count})
        batch = encode_batch(texts)
        self._stop_timer()
        first, self._confirmed = self._confirmed, count
        self._unconfirmed, self._unconfirmed_size = [], 0
        # What is under way is among these values. The statement leaves it out.
        self._texts, self._size, self.count = [], 0, count
        call = append_call(self._run, step, self._path, FLUSH, self._key, texts, batch, first, output)
        (await step.perform(call, after=settling(self._run, self._key))).value()
        self._failure = None
        self._send_in_time()

    async def finish(self) -> None:
        if self.is_over:
            return
        try:
            await self.flush()
        finally:
            self.abandon()

    def _context(self) -> WorkflowContext:
        context = calling_context(self._database)
        if isinstance(context, WorkflowContext) and context.run is self._run:
            return context
        raise WrongPlaceError(
            "A stream writer of a workflow is used in the body of that workflow, and not in its steps."
        )

    async def _store(self, texts: list[str], first: int) -> None:
        await settle(self._run, self._key)
        await super()._store(texts, first)

    def _call(self, texts: list[str], first: int) -> Call:
        inside = StepContext(self._run, self._path)
        return append_call(self._run, inside, self._path, VERB, self._key, texts, encode_batch(texts), first)
