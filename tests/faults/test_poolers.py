"""Poolers in transaction mode: they are recognised, nothing is left in the processes that others share, no promise breaks."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from dbos_async import DBOS, ConfigurationError, DatabaseUnavailableError, DBOSClient
from dbos_async._database.access import Access
from dbos_async._database.batches import Batches
from dbos_async._database.connection_kinds import SETTINGS
from dbos_async._database.connections import Postgres
from dbos_async._database.wakeups import Wakeups
from dbos_async._lifecycle import expiry, leases
from tests.support.eventually import eventually
from tests.support.load import SLOW, load, receive_and_record
from tests.support.pgbouncer import PgBouncer, needs_pgbouncer, running
from tests.support.processes import running as running_program
from tests.support.proxy import Proxy

pytestmark = [needs_pgbouncer, pytest.mark.direct("each test has a pooler of its own")]

IGNORED = ",".join(name for name in SETTINGS if name != "application_name")

LEFT = """
    select current_setting('lock_timeout') as lock_timeout, current_setting('enable_seqscan') as enable_seqscan,
           current_setting('plan_cache_mode') as plan_cache_mode, current_setting('application_name') as application_name,
           (select count(*) from pg_prepared_statements) as statements,
           (select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'advisory') as locks,
           (select count(*) from pg_listening_channels()) as channels
"""


@pytest.fixture
async def pooler(database_url: str) -> AsyncIterator[PgBouncer]:
    """A pooler with few connections to the server."""
    async with running(database_url, default_pool_size="3") as pooler:
        yield pooler


@pytest.fixture
async def narrow(database_url: str) -> AsyncIterator[PgBouncer]:
    """A pooler with one connection to the server."""
    async with running(database_url, default_pool_size="1") as pooler:
        yield pooler


@pytest.mark.listens("it is refused to listen")
@pytest.mark.parametrize("ignored", ["", IGNORED], ids=["refuses settings", "drops settings"])
@pytest.mark.parametrize("size", ["1", "3"])
async def test_d7_a_pooler_in_transaction_mode_is_named_at_launch(database_url: str, size: str, ignored: str) -> None:
    async with running(database_url, default_pool_size=size, ignore_startup_parameters=ignored or "jit") as pooler:
        url = pooler.url_of(database_url)
        for options in ({}, {"listen_url": url}):
            with pytest.raises(ConfigurationError, match="A pooler in transaction mode.*listen_url=.*listen=False"):
                async with DBOS(url, **options):  # type: ignore[arg-type]  # a dict of some options
                    pass
            with pytest.raises(ConfigurationError, match="A pooler in transaction mode"):
                async with DBOSClient(url, **options):  # type: ignore[arg-type]
                    pass


@pytest.mark.parametrize("ignored", ["jit", IGNORED], ids=["refuses settings", "drops settings"])
async def test_d7_a_pooler_in_session_mode_works_as_a_direct_connection(database_url: str, ignored: str) -> None:
    async with running(database_url, pool_mode="session", ignore_startup_parameters=ignored) as pooler:
        postgres = Postgres(Access(pooler.url_of(database_url)))
        connection = await postgres.connect()
        settings = await connection.fetchrow(LEFT)
        assert (settings["lock_timeout"], settings["plan_cache_mode"]) == ("500ms", "force_generic_plan")
        assert postgres.backends == {await connection.fetchval("select pg_backend_pid()")}
        await connection.close()
        async with DBOS(pooler.url_of(database_url)):
            assert (await DBOS.health()).ok
            await load(5, lambda: asyncio.sleep(0.2))
        await postgres.close()


@pytest.mark.parametrize("listens", [True, False], ids=["listen_url", "listen=False"])
async def test_d7_m2_nothing_is_left_in_processes_that_others_share(
    database_url: str, narrow: PgBouncer, listens: bool
) -> None:
    url = narrow.url_of(database_url)
    async with DBOS(url, listen_url=database_url if listens else None, listen=listens):
        await load(20, lambda: asyncio.sleep(0.5))
        assert (await DBOS.health()).ok
    other = await asyncpg.connect(url, statement_cache_size=0)
    (found,) = await other.fetch(LEFT)
    left = dict(found)
    assert (left.pop("statements") > 0) == (narrow.version >= (1, 24)), "of PgBouncer's own names"
    await other.close()
    assert left.pop("application_name") in ("", "dbos_async"), "PgBouncer's own, not that of a statement"
    assert left == {
        "lock_timeout": "0", "enable_seqscan": "on", "plan_cache_mode": "auto",
        "locks": 0, "channels": 0,
    }  # fmt: skip


async def test_d7_m2_statements_of_the_same_names_are_not_confused(database_url: str, narrow: PgBouncer) -> None:
    url = narrow.url_of(database_url)
    other = await asyncpg.connect(url)  # with the names that asyncpg gives in every process
    for n in range(50):
        await other.fetch(f"select 'of another application {n}', $1::text", "x")
    async with DBOS(url, listen_url=database_url), DBOSClient(url, listen_url=database_url) as client:
        handle = await DBOS.start_workflow(receive_and_record)
        for n in range(5):
            await client.send(handle.workflow_id, n)
            await DBOS.get_event(handle.workflow_id, "none", timeout_seconds=0.01)
        await client.send(handle.workflow_id, "end")
        assert await handle.get_result() == [*range(5)]
    await other.close()


async def test_d7_a_pooler_that_keeps_prepared_statements_is_known(database_url: str, narrow: PgBouncer) -> None:
    connection = await Postgres(Access(narrow.url_of(database_url), listen=False)).connect()
    for n in range(3):
        assert await connection.fetchval("select $1::int + 1", n) == n + 1
    statements = await connection.fetchval("select count(*) from pg_prepared_statements")
    assert (statements > 0) == connection.keeps_statements == (narrow.version >= (1, 24))
    await connection.close()


async def _restart(pooler: PgBouncer) -> None:
    for _ in range(3):
        await asyncio.sleep(0.3)
        await asyncio.to_thread(pooler.stop)
        await asyncio.sleep(0.2)
        await asyncio.to_thread(pooler.start)


async def _freeze(pooler: PgBouncer) -> None:
    await asyncio.sleep(0.3)
    pooler.signal(signal.SIGSTOP)
    await asyncio.sleep(3)
    pooler.signal(signal.SIGCONT)


async def _pause(pooler: PgBouncer) -> None:
    for _ in range(3):
        await asyncio.sleep(0.2)
        pooler.signal(signal.SIGUSR1)
        await asyncio.sleep(0.5)
        pooler.signal(signal.SIGUSR2)


async def _reload(pooler: PgBouncer) -> None:
    for size in range(1, 6):
        await asyncio.sleep(0.2)
        pooler.reload(default_pool_size=str(size))


TROUBLES = {"restart": _restart, "freeze": _freeze, "pause": _pause, "reload": _reload}


@pytest.mark.parametrize("listens", [True, False], ids=["listen_url", "listen=False"])
@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.usefixtures("quick")
async def test_m2_d4_w10_troubles_of_a_pooler_are_outlasted(
    database_url: str, pooler: PgBouncer, trouble: str, listens: bool
) -> None:
    url = pooler.url_of(database_url)
    async with DBOS(url, listen_url=database_url if listens else None, listen=listens):
        await load(10, lambda: TROUBLES[trouble](pooler))


@pytest.mark.usefixtures("quick")
async def test_d4_behind_a_frozen_pooler_who_waits_outside_is_told_in_time(
    database_url: str, pooler: PgBouncer
) -> None:
    url = pooler.url_of(database_url)
    async with DBOSClient(url, listen_url=database_url, connect_timeout_seconds=2) as client:
        await client.start_workflow("nobody has it")
        pooler.signal(signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailableError):
            await client.start_workflow("nobody has it")
        assert time.monotonic() - began < 10
        pooler.signal(signal.SIGCONT)
        await client.start_workflow("nobody has it")


@pytest.mark.usefixtures("quick")
async def test_d4_a_slow_statement_behind_a_pooler_is_not_taken_for_a_dead_one(
    database_url: str, narrow: PgBouncer
) -> None:
    """Not while it runs, nor while it waits in the pooler for another one."""
    postgres = Postgres(Access(narrow.url_of(database_url), listen_url=database_url))
    batches = Batches(postgres, Wakeups())
    await asyncio.gather(*(batches.call(SLOW, [(2.0,)], partition=str(n)) for n in range(2)))
    assert batches.losses == 0
    await batches.close()
    await postgres.close()


@pytest.mark.usefixtures("quick")
async def test_d4_a_statement_that_was_lost_behind_a_pooler_is_repeated(database_url: str, pooler: PgBouncer) -> None:
    async with Proxy(pooler.url_of(database_url)) as proxy:
        postgres = Postgres(Access(proxy.url, listen_url=database_url))
        batches = Batches(postgres, Wakeups())
        await batches.call(SLOW, [(0.0,)], partition="")
        proxy.freeze()
        await proxy.heal()  # connections from now on work
        async with asyncio.timeout(10):
            await batches.call(SLOW, [(0.0,)], partition="")
        assert batches.losses == 1
        await batches.close()
        await postgres.close()


@pytest.mark.parametrize(
    "lock",
    ["select from dbos_async.workflows where id = 'held' for update", "lock table dbos_async.messages in share mode"],
    ids=["row", "table"],
)
async def test_w10_a_lock_behind_a_pooler_delays_no_other_call(
    database_url: str, pooler: PgBouncer, connection: Any, lock: str
) -> None:
    url = pooler.url_of(database_url)
    async with (
        DBOS(url, listen=False),
        DBOSClient(url, listen=False, connect_timeout_seconds=1) as client,
    ):
        held = "held"
        from dbos_async import SetWorkflowID

        with SetWorkflowID(held):
            await client.start_workflow("nobody has it")
        await connection.execute("begin")
        await connection.execute(lock)
        began = time.monotonic()
        sending = [asyncio.ensure_future(DBOS.send(held, n, "waits")) for n in range(20)]
        with pytest.raises(DatabaseUnavailableError, match="lock"):
            if "for update" in lock:
                await client.cancel_workflow(held)
            else:
                await client.send(held, 1)
        assert time.monotonic() - began < 5
        async with asyncio.timeout(5):
            assert await client.get_event(held, "none", timeout_seconds=0.1) is None
            await client.start_workflow("nobody has it either")
        await connection.execute("rollback")
        await asyncio.gather(*sending)


async def test_w10_executors_without_a_session_are_not_taken_for_dead(
    database_url: str, pooler: PgBouncer, connection: Any
) -> None:
    url = pooler.url_of(database_url)
    async with DBOS(url, listen=False, executor_id="without"), DBOSClient(url, listen=False):
        await connection.execute(
            "insert into dbos_async.executors (id, executor_id, workflow_names, lease_until) values ($1, 'gone', '{}', now())",
            str(uuid4()),
        )
        gone = "select not exists (select from dbos_async.executors where executor_id = 'gone')"
        await eventually(lambda: connection.fetchval(gone), "it has no lock, and should have one")
        row = await connection.fetchrow("select keeps_session, id from dbos_async.executors")
        assert row["keeps_session"] is False
        other = "select count(*) from dbos_async.executors where lease_until > now()"
        async with asyncio.timeout(3 * expiry.LOST_SECONDS):
            before = await connection.fetchval("select lease_until from dbos_async.executors")
            await eventually(
                lambda: connection.fetchval("select lease_until > $1 from dbos_async.executors", before),
                "it is renewed",
            )
        assert await connection.fetchval(other) == 1


async def test_w10_a_second_executor_of_the_same_executor_id_is_named(
    database_url: str, pooler: PgBouncer, caplog: pytest.LogCaptureFixture
) -> None:
    url = pooler.url_of(database_url)
    async with running_program("poolers", url, "twin") as program:
        await program.says("ready")
        async with DBOS(url, listen=False, executor_id="twin"):
            await eventually(
                lambda: "Another executor with the executor_id 'twin' is live" in caplog.text, "it is named"
            )


async def test_w2_the_workflows_of_a_killed_executor_without_a_session_go_on(
    database_url: str, pooler: PgBouncer, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 4.0)
    url = pooler.url_of(database_url)
    async with running_program("poolers", url, "killed") as program:
        await program.says("ready")
        await program.end(signal.SIGKILL)
    async with DBOS(url, listen=False, executor_id="another"):
        handle = await DBOS.retrieve_workflow("w")
        await DBOS.send("w", 1)
        await DBOS.send("w", "end")
        assert await handle.get_result() == [1]
        assert (await handle.get_status()).recoveries == 1
