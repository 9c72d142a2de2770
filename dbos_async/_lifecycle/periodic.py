"""Work that recurs as long as DBOS is launched: what is due at a time, and a report of workflows that nobody can run.

Due are the deadlines of workflows, delayed starts and delayed messages. One statement a second looks for all of them.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Sequence
from typing import Final

from dbos_async._database.calls import Call, Observer, Result, Row
from dbos_async._database.change_keys import DUE_KEY, UNOWNED_KEY, end_key
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._database.statement import Statement
from dbos_async._database.wakeups import Wakeups
from dbos_async._executor.executor import Executor
from dbos_async._logs import counted
from dbos_async._serialization.values import encode_value

log = logging.getLogger("dbos_async")

LOOK_EVERY_SECONDS = 1.0
REPORT_EVERY_SECONDS = 60.0
MAX_DUE: Final = 500
"""How many things of one kind are done at a time."""

with load(__name__) as sql:
    UNCLAIMABLE: Final = sql.statement("UNCLAIMABLE", parallelism=1)
    DUE: Final = sql.statement("DUE", parallelism=1)
    CANCEL_DUE: Final = sql.statement("CANCEL_DUE", parallelism=1)
    BEGIN_DUE: Final = sql.statement("BEGIN_DUE", parallelism=1)
    MOVE_DUE: Final = sql.statement("MOVE_DUE", parallelism=1)


class _Cancelling(Observer):
    """Stops the runs of this process whose workflows are cancelled."""

    __slots__ = ("_executor",)

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def on_result(self, call: Call, result: Result) -> None:
        for _, workflow_id, attempt, cleans_up in result:
            why = "its time to clean up is over" if cleans_up else "its deadline has passed"
            log.warning("Workflow %r is cancelled: %s.", workflow_id, why)
            self._executor.stop_cancelled(workflow_id, attempt)


class _Moving(Observer):
    """Wakes the receivers of this process, which does not hear its own notifications."""

    __slots__ = ("_wakeups",)

    def __init__(self, wakeups: Wakeups) -> None:
        self._wakeups = wakeups

    def on_result(self, call: Call, result: Result) -> None:
        for _, digest in result:
            self._wakeups.wake(digest)


class Due:
    """Does what is due, for all executors: whichever comes first does it."""

    def __init__(self, executor: Executor) -> None:
        self._database = executor.database
        self._cancelling, self._waking = _Cancelling(executor), _Moving(executor.database.wakeups)
        self._moving: dict[str, Call] = {}
        """The moves under way, by their destinations. One that meets a lock is repeated, and the others go on."""

    async def keep_doing(self) -> None:
        """Look every second and whenever this process knows of something, until cancelled."""
        with self._database.changes(DUE_KEY) as changes:
            async for subscription in changes:
                # What others lock at this moment is left for the next time.
                subscription.poll_within(0 if await self._look() else LOOK_EVERY_SECONDS)

    async def _look(self) -> bool:
        """Do what is due now. True if there was something, since there may be more."""
        row = MAX_DUE, encode_value(list(self._moving)) if self._moving else None
        due: dict[str, list[str]] = {"cancel": [], "start": [], "move": []}
        for _, what, of in await self._call(DUE, [row]):
            due[what].append(of)
        done = False
        if due["cancel"]:
            rows = [(workflow_id, end_key(workflow_id)) for workflow_id in due["cancel"]]
            wakes = [key for _, key in rows]
            done |= bool(await self._call(CANCEL_DUE, rows, wakes=wakes, observer=self._cancelling))
        if due["start"]:
            rows = [(workflow_id, UNOWNED_KEY) for workflow_id in due["start"]]
            done |= bool(await self._call(BEGIN_DUE, rows, wakes=[UNOWNED_KEY]))
        if due["move"]:
            done |= await self._move(due["move"])
        return done

    async def _move(self, destinations: list[str]) -> bool:
        """Move the messages of these destinations. True if some were moved."""
        for destination_id in destinations:
            # A partition of its own: if this call meets a lock, none of another destination has to follow it.
            row = destination_id, max(MAX_DUE // len(destinations), 1)
            call = self._database.call(
                MOVE_DUE, [row], partition=destination_id, retry_forever=True, observer=self._waking
            )
            self._moving[destination_id] = call
            call.add_done_callback(functools.partial(self._moved, destination_id))
        done, _ = await asyncio.wait(list(self._moving.values()), timeout=LOOK_EVERY_SECONDS)
        return any(len(call.result()) > 0 for call in done)

    def _moved(self, destination_id: str, call: asyncio.Future[Result]) -> None:
        del self._moving[destination_id]
        if not call.cancelled():
            call.exception()  # marks it as retrieved: the service may have begun again meanwhile

    def _call(
        self, statement: Statement, rows: Sequence[Row], wakes: Sequence[bytes] = (), observer: Observer | None = None
    ) -> Call:
        return self._database.call(statement, rows, partition="", retry_forever=True, wakes=wakes, observer=observer)


async def keep_reporting_unclaimable(database: Database) -> None:
    """Log once a minute which workflows no live executor can run, until cancelled."""
    with database.changes() as changes:
        async for subscription in changes:
            for _, name, version, count in await database.call(UNCLAIMABLE, [()], partition="", retry_forever=True):
                log.warning(
                    "No live executor can run %s named %r%s: see list_workflows(unclaimable=True).",
                    counted(count, "workflow"), name, f" of version {version!r}" if version else "",
                )  # fmt: skip
            subscription.poll_within(REPORT_EVERY_SECONDS)
