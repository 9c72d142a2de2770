"""Leases: how executors show that they are alive, and what happens to the workflows of those that are not.

A launched executor renews its lease, by the clock of the database. It also holds an advisory lock on its listening connection:
when the process is killed, the server releases that lock within moments. A released lock is only a hint, so the executor has
two seconds to reconnect and renew. An executor whose lease has expired loses its workflows, and live executors claim them.
"""

from __future__ import annotations

import logging

import asyncpg

from dbos_async._database.statement import Statement
from dbos_async._database.wakeups import UNOWNED_KEY
from dbos_async._executor.claiming import Claiming
from dbos_async._executor.executor import Executor
from dbos_async._serialization.values import encode_value

log = logging.getLogger("dbos_async")

LEASE_SECONDS = 15.0
RENEW_EVERY_SECONDS = 1.0

LOCK_LIVENESS = "select pg_advisory_lock_shared(hashtextextended('dbos_async executor ' || $1, 0))"

RENEW = Statement(
    "RENEW",
    """
    with seen as (
        insert into dbos_async.servers (incarnation) select dbos_async.incarnation()
        where not exists (select 1 from dbos_async.servers where incarnation = dbos_async.incarnation())
        on conflict do nothing
    )
    insert into dbos_async.executors as e (id, executor_id, application_version, workflow_names, lease_until)
    select ($2::text[])[1], ($3::text[])[1], ($4::text[])[1],
           array(select json_array_elements_text(($5::json[])[1])),
           clock_timestamp() + make_interval(secs => ($6::float8[])[1])
    on conflict (id) do update
        set lease_until = excluded.lease_until, lost_at = null, workflow_names = excluded.workflow_names
    returning ($1::int[])[1] as n, e.xmax = 0 as is_new
    """,
    parallelism=1,
)

REAP = Statement(
    "REAP",
    """
    -- Find the dead, free their workflows, and tell everybody. After a restart or a promotion of the server nobody has a lock
    -- and every lease may have run out: then nobody counts as dead before one whole lease, but those who had come back since.
    with others as materialized (
        select e.id, e.lost_at,
               e.lease_until < clock_timestamp() and server.is_settled as expired,
               e.executor_id = ($3::text[])[1] as replaced,
               (server.is_settled or e.lease_until - server.lease > server.seen_at) and not exists (
                   select 1 from pg_locks as l
                   where l.locktype = 'advisory' and l.objsubid = 1 and l.granted
                     and l.database = (select d.oid from pg_database as d where d.datname = current_database())
                     and l.classid::bigint << 32 | l.objid::bigint
                         = hashtextextended('dbos_async executor ' || e.id, 0)) as unlocked
        from dbos_async.executors as e, (
            select seen_at, lease, seen_at + lease < clock_timestamp() as is_settled
            from dbos_async.servers, make_interval(secs => ($4::float8[])[1]) as lease
            where incarnation = dbos_async.incarnation()
        ) as server
        where e.id <> ($2::text[])[1]
    ),
    noticed as (
        update dbos_async.executors set lost_at = clock_timestamp()
        where id = any (array(select id from others where unlocked and lost_at is null)) and lost_at is null
    ),
    dead as materialized (
        select e.id from dbos_async.executors as e
        where e.id = any (array(
            select id from others
            where expired or (unlocked and (replaced or lost_at + interval '2 seconds' < clock_timestamp()))))
          and (e.lost_at is not null or e.lease_until < clock_timestamp()
               or e.executor_id = ($3::text[])[1])
        for update skip locked
    ),
    buried as (
        delete from dbos_async.executors where id = any (array(select id from dead))
    ),
    freed as (
        update dbos_async.workflows as w
        set owner = null,
            recoveries = case when exists (
                select 1 from dbos_async.steps as s where s.workflow_id = w.id
                  and s.completed_at > w.claimed_at and s.completed_at <= clock_timestamp())
                then 1 else w.recoveries + 1 end
        where w.status = 'PENDING' and w.owner = any (array(select id from dead))
        returning w.id
    ),
    announced as (
        select dbos_async.announce(($5::bytea[])[1]) where exists (select 1 from freed)
    )
    select ($1::int[])[1] as n, (select count(*) from dead) as executors, (select count(*) from freed) as workflows
    from (select 1) as one left join announced on true
    """,
    parallelism=1,
)

GIVE_BACK = Statement(
    "GIVE_BACK",
    """
    with gone as (
        delete from dbos_async.executors where id = ($2::text[])[1]
    ),
    freed as (
        update dbos_async.workflows set owner = null
        where status = 'PENDING' and owner = ($2::text[])[1]
        returning id
    ),
    announced as (
        select dbos_async.announce(($3::bytea[])[1]) where exists (select 1 from freed)
    )
    select ($1::int[])[1] as n, (select count(*) from freed) as workflows
    from (select 1) as one left join announced on true
    """,
    parallelism=1,
)


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
            await connection.fetch(GIVE_BACK.sql, [0], [self._executor.id], [UNOWNED_KEY])

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
