"""Leases: who is alive, whose workflows are free to be claimed, and whose time is over.

A launched executor renews its lease by the database's clock. While its listening connection is open it also holds an
advisory lock: when the process is killed, the server lets go of the lock within moments. That is a hint, and the executor has
two seconds to come back and renew. Whoever is found dead loses its workflows; live executors claim them.
"""

from __future__ import annotations

import asyncio
import logging
from math import inf

import anyio
import asyncpg

from dbos_async._database.database import Database
from dbos_async._database.statement import Statement
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

UNCLAIMABLE = Statement(
    "UNCLAIMABLE",
    """
    select ($1::int[])[1] as n, w.name, w.application_version, w.count
    from (
        select name, application_version, count(*) as count from dbos_async.workflows
        where status = 'PENDING' and owner is null and created_at < clock_timestamp() - interval '1 minute'
        group by name, application_version
    ) as w
    where not exists (
        select 1 from dbos_async.executors as e
        where e.lease_until > clock_timestamp() and w.name = any (e.workflow_names)
          and (e.application_version is null or w.application_version is null
               or e.application_version = w.application_version))
    order by w.name, w.application_version
    """,
    parallelism=1,
)

DUE = Statement(
    "DUE",
    """
    select ($1::int[])[1] as n, id from dbos_async.workflows
    where deadline is not null and ended_at is null and deadline <= clock_timestamp()
    order by deadline limit ($2::int[])[1]
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
        async with self._database.postgres.acquire() as connection:
            await connection.fetch(GIVE_BACK.sql, [0], [self._executor.id], [UNOWNED_KEY])

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
