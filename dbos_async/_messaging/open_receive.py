"""A receive whose step a sender of another process may complete: its row says so while it waits.

Only the receive of a workflow with one task is open in this way. So nothing else of the run can be recorded meanwhile, and the step
needs no place in the order of results. If another task calls a verb all the same, the receive is closed before.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING
from uuid import UUID

from dbos_async._database.statement import Statement

if TYPE_CHECKING:
    from dbos_async._runs.step import Step


class OpenReceive:
    """One such receive, from its first poll until its task goes on."""

    __slots__ = ("_close", "_closing", "_over", "step")

    def __init__(self, step: Step, close: Statement) -> None:
        self.step = step
        self._close = close
        self._closing: asyncio.Task[UUID | None] | None = None
        self._over = asyncio.Event()

    def end(self) -> None:
        """Its task goes on: with a message, without one, or because it was cancelled."""
        self._over.set()
        if self.step.run.open_receive is self:
            self.step.run.open_receive = None

    async def close(self) -> UUID | None:
        """Return when no sender of another process can complete the step any more. The message that it has, if one has."""
        if self._closing is None:
            loop = asyncio.get_running_loop()
            self._closing = loop.create_task(self._execute(), context=contextvars.Context())
        return await asyncio.shield(self._closing)

    async def give_way(self) -> None:
        """Return when another task of the run may act: the receive has its message by then, or gets it by a poll."""
        if await self.close() is not None:
            self.step.run.wake_waits()
            await self._over.wait()

    async def _execute(self) -> UUID | None:
        run = self.step.run
        await run.database.batches.flush(run.partition)  # its row may be just coming
        row = run.workflow_id, *self.step.id
        answer = await run.database.execute(self.step.call(self._close, [row]))
        message_id: UUID | None = answer[0]["message_id"]
        return message_id
