"""Reads from a standby: of what is there and does not go away, so that an answer that is a little old is right, too.

A standby answers late, or not at all, and then the primary is asked: a reader asks there, too, before it says that something is not
there, and before it waits, since the notification of a change may come before the standby has the change.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from dbos_async._database.access import Access, TakesStandby
from dbos_async._database.batches import Batches
from dbos_async._database.calls import Result, Row
from dbos_async._database.connections import Postgres
from dbos_async._database.statement import Statement
from dbos_async._database.wakeups import Wakeups
from dbos_async.errors import DatabaseUnavailableError, InvalidValueError

log = logging.getLogger("dbos_async")

ANSWER_WITHIN_SECONDS: Final = 2.0
"""A read that takes longer than this is made at the primary."""

AWAY_SECONDS: Final = 5.0
"""So long a standby that has not answered is left alone."""


class Standby:
    """The connections to the servers of ``read_url``, which are there for reads only."""

    def __init__(self, access: Access, read_url: str) -> None:
        # A statement that replication has cancelled is repeated, like any that met another transaction.
        self._postgres = Postgres(
            replace(access, url=read_url, listen_url=None, read_url=None, takes_standby=TakesStandby.ALWAYS)
        )
        self._batches = Batches(self._postgres, Wakeups(), give_up_after_seconds=ANSWER_WITHIN_SECONDS)
        self._loop = asyncio.get_running_loop()
        self._away_until = float("-inf")
        self._is_told = False

    def start(self) -> None:
        """Connect when something is read."""
        self._postgres.loop_watch.start()

    async def close(self) -> None:
        """Close every connection."""
        await self._batches.close()
        await self._postgres.close()
        self._postgres.loop_watch.stop()

    async def read(
        self, statement: Statement, rows: Sequence[Row], partition: str | int, is_enough: Callable[[Result], bool]
    ) -> Result | None:
        """What the standby answers; ``None`` if that is not enough, or if it does not answer."""
        if self._loop.time() < self._away_until:
            return None
        try:
            result = await self._batches.call(statement, rows, partition=partition)
        except (DatabaseUnavailableError, InvalidValueError) as error:
            self._away_until = self._loop.time() + AWAY_SECONDS
            if not self._is_told:
                self._is_told = True
                log.warning("The standby of read_url does not answer, and the primary is asked: %s", error)
            return None
        if self._is_told:
            self._is_told = False
            log.info("The standby of read_url answers again.")
        return result if is_enough(result) else None
