"""Receives that were abandoned while their call was on its way to the database: nobody hears what they took.

``asyncio.timeout`` around a ``recv`` cancels it at any moment. A message that it has taken by then goes back to its place in
the queue, and its step is what it is when a wait is cancelled: begun, and not ended. The next receive of the run waits
for that, so the order stays. When the whole run is stopped nothing goes back: the replay returns what was taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import UUID

from dbos_async._batch import Answer

if TYPE_CHECKING:
    from dbos_async._context import Run


class Abandonable:
    """The calls of one receive. ``put_back`` makes the call that undoes a take."""

    def __init__(self, run: Run, put_back: Callable[[UUID], asyncio.Future[Answer]]) -> None:
        self._run = run
        self._put_back = put_back
        self._taken: UUID | None = None
        self._abandoned = False

    def answered(self, answer: Answer) -> None:
        """Hear what a call has taken, whether or not its caller is still there."""
        if answer[0]["outcome"] in ("done", "recorded"):
            self._taken = answer[0]["message_id"]
        if self._abandoned:
            self._undo()

    def abandon(self) -> None:
        """The caller has left."""
        self._abandoned = True
        if self._run.abandoned is None:
            self._run.abandoned = set()
        self._run.abandoned.add(self)
        self._undo()

    def _undo(self) -> None:
        if self._taken is None or self._run.stopped is not None or self._run.over:
            return
        call = self._put_back(self._taken)
        if self._run.returning is None:
            self._run.returning = set()
        self._run.returning.add(call)
        call.add_done_callback(self._undone)

    def _undone(self, call: asyncio.Future[Answer]) -> None:
        if self._run.returning is not None:
            self._run.returning.discard(call)
        if not call.cancelled():
            call.exception()  # The database was closed: then the run has been stopped, too.


async def settled(run: Run) -> None:
    """Return when nothing that this run has abandoned is on its way any more."""
    while run.abandoned or run.returning:
        if run.abandoned:
            on_their_way = set(run.abandoned)
            await run.database.batches.land(run.workflow_id)
            run.abandoned -= on_their_way
        if run.returning:
            await asyncio.wait(set(run.returning))
