"""Leases: who is alive, whose workflows are free to be claimed, and whose time is over.

A launched executor renews its lease by the database's clock. While its listening connection is open it also holds an
advisory lock: when the process is killed, the server lets go of the lock within moments. That is a hint, and the executor has
two seconds to come back and renew. Whoever is found dead loses its workflows; live executors claim them.
"""

from __future__ import annotations

import asyncio
import logging
from math import inf
from typing import Final

import anyio
import asyncpg

from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._database.wakeups import DUE_KEY, UNOWNED_KEY
from dbos_async._executor.executor import Executor
from dbos_async._serialization import values
from dbos_async._workflows import control

log = logging.getLogger("dbos_async")

LEASE_SECONDS = 15.0
RENEW_EVERY_SECONDS = 1.0
CLAIM_PAUSE_SECONDS = 0.01
RECLAIM_AFTER_SECONDS = 6.0
RECLAIM_EVERY_SECONDS = 30.0
TELL_EVERY_SECONDS = 60.0
MAX_DUE = 100

LOCK_LIVENESS = "select pg_advisory_lock_shared(hashtextextended('dbos_async executor ' || $1, 0))"

with load(__name__) as sql:
    RENEW: Final = sql.statement("RENEW", parallelism=1)
    REAP: Final = sql.statement("REAP", parallelism=1)
    UNCLAIMABLE: Final = sql.statement("UNCLAIMABLE", parallelism=1)
    DUE: Final = sql.statement("DUE", parallelism=1)
    GIVE_BACK: Final = sql.statement("GIVE_BACK", parallelism=1)


class Recovery:
    """What an executor does besides running: renew its lease, bury the dead, and claim what nobody owns."""

    def __init__(self, database: Database, executor: Executor) -> None:
        self._database = database
        self._executor = executor

    async def lock_liveness(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """Take the lock that says this executor's connection is open."""
        await connection.execute(LOCK_LIVENESS, self._executor.id)

    async def register(self) -> None:
        """Become an executor, and free the workflows of an earlier launch under the same name if that is gone."""
        await self.renew()
        await self.reap()

    async def renew(self) -> bool:
        """Extend the lease, and take back that the connection was lost. True when this executor was not known (any more)."""
        here = self._executor
        row = here.id, here.executor_id, here.application_version, values.encode(list(here.known)), LEASE_SECONDS
        answer = await self._database.call(RENEW, [row], partition="", retry_forever=True)
        return bool(answer[0]["is_new"])

    async def reap(self) -> None:
        """Free the workflows of executors that are gone."""
        row = self._executor.id, self._executor.executor_id, LEASE_SECONDS, UNOWNED_KEY
        answer = await self._database.call(REAP, [row], partition="", retry_forever=True, wakes=[UNOWNED_KEY])
        _, executors, workflows = answer[0]
        if workflows:
            log.info("%d executors are gone; their %d workflows go on elsewhere.", executors, workflows)

    async def give_back(self) -> None:
        """Leave in good order: the workflows that ran here are free at once."""
        async with self._database.postgres.connection() as connection:
            await connection.fetch(GIVE_BACK.sql.one_row, 0, self._executor.id, UNOWNED_KEY)

    async def keep_lease(self) -> None:
        """Renew and look after the others, until cancelled."""
        losses, reclaim_at = 0, inf
        async for subscription in self._database.changes():
            if await self.renew():
                log.warning(
                    "This executor was silent for so long that it counted as dead: its workflows may run elsewhere."
                )
                for run in list(self._executor.runs.values()):
                    self._executor.check_ownership_soon(run)
            await self.reap()
            if losses != self._database.batches.losses:
                losses, reclaim_at = self._database.batches.losses, anyio.current_time() + RECLAIM_AFTER_SECONDS
            if anyio.current_time() >= reclaim_at:
                # A commit may be held up for longer than its connection lives, so it is not looked for only once.
                reclaim_at = anyio.current_time() + RECLAIM_EVERY_SECONDS
                await self._executor.reclaim()
            subscription.poll_within(RENEW_EVERY_SECONDS)

    async def keep_deadlines(self) -> None:
        """Cancel the workflows whose deadline has come, until cancelled; a run of this process says when that is."""
        async for subscription in self._database.changes(DUE_KEY):
            due = await self._database.call(DUE, [(MAX_DUE,)], partition="", retry_forever=True)
            for _, workflow_id in due:
                log.warning("Workflow %r is cancelled: its time is over.", workflow_id)
            await asyncio.gather(*(control.cancel_if_due(self._database, workflow_id) for _, workflow_id in due))
            subscription.poll_within(0 if len(due) == MAX_DUE else RENEW_EVERY_SECONDS)

    async def keep_telling(self) -> None:
        """Say once a minute which workflows no live executor can run, until cancelled."""
        async for subscription in self._database.changes():
            for _, name, version, count in await self._database.call(
                UNCLAIMABLE, [()], partition="", retry_forever=True
            ):
                log.warning(
                    "%d workflows named %r%s wait for an executor that can run them: see list_workflows(unclaimable=True).",
                    count, name, f" of version {version!r}" if version else "",
                )  # fmt: skip
            subscription.poll_within(TELL_EVERY_SECONDS)

    async def keep_claiming(self) -> None:
        """Claim whenever there is something to claim and room for it, until cancelled."""
        async for subscription in self._database.changes(UNOWNED_KEY):
            if await self._executor.claim():
                subscription.poll_within(CLAIM_PAUSE_SECONDS)
