"""Removes the workflows that have ended longer ago than the application keeps them, as `purge` does.

One executor at a time does it, by a row that says so for some seconds: if that executor is gone, another one takes its place.
Between two passes it pauses, the longer the more it has to look at in vain.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from dbos_async._database.sql import load
from dbos_async._database.statement import Statement
from dbos_async._executor.executor import Executor
from dbos_async._logs import counted
from dbos_async._operations.purge import FIND_OLD, PURGE, WRITERS, Old, Walk
from dbos_async._workflows.delete import ENDED

log = logging.getLogger("dbos_async")

HOLD_SECONDS: Final = 30.0
"""So long the others leave the work to the executor that has it, after it has said so last."""

MIN_PAUSE_SECONDS: Final = 1.0
MAX_PAUSE_SECONDS: Final = 3600.0
PAUSES_A_RETENTION: Final = 100
"""The pause between two passes is this part of the retention, within those limits."""

PAUSES_A_LOOK: Final = 20.0
"""The pause takes at least so many times as long as the last pass has looked for old workflows."""

ASK_EVERY_SECONDS: Final = 10.0
"""An executor that has not the turn asks for it so often."""

WARN_EVERY_SECONDS: Final = 60.0

with load(__name__) as sql:
    HOLD: Final = sql.statement("HOLD", parallelism=1)
    PASSED: Final = sql.statement("PASSED", parallelism=1)

STATEMENTS: Final[tuple[Statement, ...]] = (HOLD, PASSED, FIND_OLD, WRITERS, PURGE)


class Retention:
    """Removes what has ended longer ago than so many seconds, for all executors: whichever has the turn."""

    def __init__(self, executor: Executor, seconds: float) -> None:
        self._database = executor.database
        self._executor_id = executor.id
        self._old = Old.of(seconds, ENDED, None)
        self._pause_seconds = min(max(seconds / PAUSES_A_RETENTION, MIN_PAUSE_SECONDS), MAX_PAUSE_SECONDS)
        self._hold_again_at = 0.0
        self._warn_at = 0.0

    async def keep_removing(self) -> None:
        """Make a pass whenever it is time for one and this executor has the turn, until cancelled."""
        while True:
            if await self._hold():
                await self._pass()
            await asyncio.sleep(min(self._pause_seconds, ASK_EVERY_SECONDS))

    async def _pass(self) -> None:
        walk = Walk(self._database, self._old, is_patient=True, may_go_on=self._may_go_on)
        done = await walk.remove()
        if done.count:
            log.info("Retention has removed %s.", counted(done.count, "workflow"))
        now = self._database.loop.time()
        if walk.obstacle is not None and now >= self._warn_at:
            self._warn_at = now + WARN_EVERY_SECONDS
            log.warning("Retention has left %s for now: %s.", counted(done.left, "old workflow"), walk.obstacle)
        row = self._executor_id, walk.looked_seconds
        await self._database.call(PASSED, [row], partition="", retry_forever=True)

    async def _may_go_on(self) -> bool:
        """Whether this executor still has the turn, which it says again in good time."""
        return self._database.loop.time() < self._hold_again_at or await self._hold()

    async def _hold(self) -> bool:
        """Take the turn, or keep it."""
        row = self._executor_id, HOLD_SECONDS, self._pause_seconds, PAUSES_A_LOOK
        began = self._database.loop.time()
        has_it = bool(await self._database.call(HOLD, [row], partition="", retry_forever=True))
        self._hold_again_at = began + HOLD_SECONDS / 3
        return has_it
