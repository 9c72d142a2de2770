"""Leases: how executors show that they are alive, and what happens to the workflows of those that are not.

A launched executor renews its lease, by the clock of the database. It also holds an advisory lock on its listening connection:
when the process is killed, the server releases that lock within moments. A released lock is only a hint, so the executor has
two seconds to reconnect and renew. An executor whose lease has expired loses its workflows, and live executors claim them.
"""

from __future__ import annotations

import logging
from typing import Final

import asyncpg

from dbos_async._database.sql import load
from dbos_async._database.wakeups import UNOWNED_KEY
from dbos_async._executor.claiming import Claiming
from dbos_async._executor.executor import Executor
from dbos_async._serialization.values import encode_value

log = logging.getLogger("dbos_async")

LEASE_SECONDS = 15.0
RENEW_EVERY_SECONDS = 1.0

LOCK_LIVENESS = "select pg_advisory_lock_shared(hashtextextended('dbos_async executor ' || $1, 0))"

with load(__name__) as sql:
    RENEW: Final = sql.statement("RENEW", parallelism=1)
    REAP: Final = sql.statement("REAP", parallelism=1)
    GIVE_BACK: Final = sql.statement("GIVE_BACK", parallelism=1)


class Leases:
    """Renews the lease of one executor, and frees the workflows of executors whose lease has expired."""

    def __init__(self, executor: Executor, claiming: Claiming) -> None:
        self._database = executor.database
        self._executor = executor
        self._claiming = claiming

    async def lock_liveness(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """Take the lock that shows that this executor's connection is open."""
        await connection.execute(LOCK_LIVENESS, self._executor.id)

    async def register(self) -> None:
        """Become an executor, and free the workflows of an earlier launch under the same ``executor_id`` if that is gone."""
        await self.renew()
        await self.reap()

    async def renew(self) -> bool:
        """Extend the lease, and clear the mark of a lost connection. True when the database did not know this executor."""
        executor = self._executor
        names = encode_value(list(executor.workflows))
        row = executor.id, executor.executor_id, executor.application_version, names, LEASE_SECONDS
        answer = await self._database.call(RENEW, [row], partition="", retry_forever=True)
        return bool(answer[0]["is_new"])

    async def reap(self) -> None:
        """Remove expired executors and free their workflows."""
        row = self._executor.id, self._executor.executor_id, LEASE_SECONDS, UNOWNED_KEY
        answer = await self._database.call(REAP, [row], partition="", retry_forever=True, wakes=[UNOWNED_KEY])
        _, executors, workflows = answer[0]
        if workflows:
            log.info("%d executors have expired; other executors take over their %d workflows.", executors, workflows)

    async def give_back(self) -> None:
        """Free the workflows that ran here, so that other executors claim them at once."""
        async with self._database.postgres.acquire() as connection:
            await connection.fetch(GIVE_BACK.sql.one_row, 0, self._executor.id, UNOWNED_KEY)

    async def keep_lease(self) -> None:
        """Renew the lease and reap expired executors, until cancelled."""
        with self._database.changes() as changes:
            async for subscription in changes:
                if await self.renew():
                    log.warning(
                        "This executor was silent for so long that its lease expired: its workflows may run elsewhere."
                    )
                    for run in list(self._executor.runs.values()):
                        self._executor.check_ownership_soon(run)
                await self.reap()
                await self._claiming.reclaim_if_due()
                subscription.poll_within(RENEW_EVERY_SECONDS)
