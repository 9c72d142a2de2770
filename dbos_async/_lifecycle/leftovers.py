"""Gives back what this executor owns and does not run, so that an executor claims it anew.

Such workflows are left by a start or a claim whose answer was lost, by an outcome that could not be stored, and by runs that were
stopped since other executors had taken this one for dead.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any, Final

import asyncpg

from dbos_async._database.change_keys import UNOWNED_KEY
from dbos_async._database.sql import load
from dbos_async._executor.executor import Executor
from dbos_async._logs import counted
from dbos_async._serialization.values import encode_value

log = logging.getLogger("dbos_async")

LOOK_EVERY_SECONDS: Final = 15.0

LOOK_AGAIN_SECONDS: Final = 6.0
"""A workflow is given back if it is still owned and not run after this time: its start or its claim may just be answered."""

CHECK_EVERY_SECONDS: Final = 1.0

with load(__name__) as sql:
    OWNED: Final = sql.statement("OWNED", parallelism=1)
    GIVE_BACK: Final = sql.statement("GIVE_BACK", parallelism=1)
    LET_GO: Final = sql.statement("LET_GO", parallelism=1)

Owned = set[tuple[str, int]]
"""Workflows by their ids, with their attempts."""


class Leftovers:
    """Looks for workflows that this executor owns and does not run."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._database = executor.database
        self._seen: Owned = set()
        """What the last look has found."""
        self._losses = 0
        """How many answers had been lost at the last look."""
        self._can_begin_anew = asyncio.Event()

    @property
    def begins_anew(self) -> bool:
        """Whether everything is being given back."""
        return self._can_begin_anew.is_set()

    def begin_anew(self) -> None:
        """The lease is renewed: give everything back, and go on as an executor that has just been launched."""
        self._can_begin_anew.set()

    async def let_go(self, connection: Any) -> None:
        """Let all runs begin anew from what is stored, on a server that may lack what they have done."""
        executor = self._executor
        sql = self._database.postgres.names(LET_GO.sql.one_row)
        (row,) = await asyncpg.Connection.fetch(connection, sql, 0, executor.id)
        if row["workflows"]:
            log.warning(
                "The database has failed over to a standby for which no commit had waited: %s of this executor go on from what is "
                "stored there.",
                counted(row["workflows"], "workflow"),
            )
        executor.stop_runs("the database has failed over, and may lack what the run has done")
        self._database.wakeups.wake(UNOWNED_KEY)

    async def keep_giving_back(self) -> None:
        """Look again and again, until cancelled."""
        loop = self._executor.loop
        look_at = loop.time() + LOOK_EVERY_SECONDS
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(CHECK_EVERY_SECONDS):
                    await self._can_begin_anew.wait()
            if self._can_begin_anew.is_set():
                await self._begin_anew()
            elif self._executor.suspended is None:
                if self._database.batches.losses != self._losses:
                    self._losses = self._database.batches.losses
                    look_at = min(look_at, loop.time())
                if loop.time() >= look_at:
                    await self._look()
                    look_at = loop.time() + (LOOK_AGAIN_SECONDS if self._seen else LOOK_EVERY_SECONDS)

    async def _look(self) -> None:
        owned = await self._owned(list(self._executor.runs))
        owned = {each for each in owned if each[0] not in self._executor.runs}
        left = owned & self._seen
        self._seen = owned - left
        if left:
            await self._give_back(left)
            log.info("This executor has given back %s that it owned and did not run.", counted(len(left), "workflow"))

    async def _begin_anew(self) -> None:
        await self._give_back(await self._owned([]))
        self._can_begin_anew.clear()
        self._executor.go_on()

    async def _owned(self, running: list[str]) -> Owned:
        row = self._executor.id, encode_value(running)
        records = await self._database.call(OWNED, [row], partition="", retry_forever=True)
        return {(workflow_id, attempt) for _, workflow_id, attempt in records}

    async def _give_back(self, workflows: Owned) -> None:
        rows = [(workflow_id, attempt, self._executor.id, UNOWNED_KEY) for workflow_id, attempt in sorted(workflows)]
        if rows:
            await self._database.call(GIVE_BACK, rows, partition="", retry_forever=True, wakes=[UNOWNED_KEY])
