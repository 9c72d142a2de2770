"""Servers that deny some of their own functions to roles: what is promised holds without them, or the launch says what to grant."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from dbos_async import DBOS, ConfigurationError, DBOSClient, SetWorkflowID
from dbos_async._database import denied, migrations, probe
from dbos_async._database.access import find_schema
from dbos_async._database.names import Names
from dbos_async._lifecycle import leases
from tests.support.databases import execute
from tests.support.eventually import eventually
from tests.support.examined import found_by, new_role
from tests.support.processes import running
from tests.support.programs.denied import held

pytestmark = pytest.mark.direct("the pooler of the tests connects as one role")

DENIED = {
    "start time": ("execute on function pg_postmaster_start_time()",),
    "write-ahead log": ("execute on function pg_walfile_name(pg_lsn)", "execute on function pg_current_wal_lsn()"),
    "locks": ("execute on function pg_lock_status()",),
    "view of locks": ("select on pg_catalog.pg_locks",),
    "activity": ("execute on function pg_stat_get_activity(integer)", "select on pg_catalog.pg_stat_activity"),
    "advisory locks": tuple(
        f"execute on function {each}" for each in (*denied.LIVENESS, denied.LOCK_FOR_TRANSACTION, denied.UNLOCK_ALL)
    ),
    "set_config": (f"execute on function {denied.SET_CONFIG}",),
}


@asynccontextmanager
async def without(url: str, *rights: str) -> AsyncIterator[str]:
    """The database for a role that has what an executor needs of the schema, and may not do this. No other database changes."""
    connection = await asyncpg.connect(url)
    try:
        async with new_role(url) as (role, role_url):
            await migrations.migrate(connection, Names(find_schema(None)), grant_to=role)
            for right in rights:
                await connection.execute(f"revoke {right} from public")
            yield role_url
    finally:
        await connection.close()


@DBOS.transaction(name="denied, notes")
async def notes(connection: Any, text: str) -> int:
    await connection.execute("create temporary table if not exists denied_notes (text text)")
    return int(
        await connection.fetchval(
            "select current_setting('idle_in_transaction_session_timeout') = '0' and $1 <> ''", text
        )
    )


@DBOS.workflow(name="denied, child")
async def child() -> str:
    await DBOS.send("denied", "from the child", "word")
    return "child"


@DBOS.workflow(name="denied, all")
async def everything(generation: int = 1) -> list[Any]:
    started = await DBOS.start_workflow(child)
    heard = await DBOS.recv("word", timeout_seconds=20)
    noted = await notes("a")
    await started.get_result()
    if generation == 1:
        await DBOS.continue_as_new(2)
    return [heard, noted, generation]


@pytest.mark.parametrize("what", DENIED)
async def test_d7_all_verbs_work_where_the_server_denies_some_functions(what: str, empty_database_url: str) -> None:
    async with without(empty_database_url, *DENIED[what]) as url, DBOS(url, migrate=False):
        async with asyncio.timeout(30):
            with SetWorkflowID("denied"):
                handle = await DBOS.start_workflow(everything)
            assert await handle.get_result() == ["from the child", 1, 2]
            await DBOS.delete_workflow("denied", children=True)
            assert (await DBOS.purge(0)).count == 0
        problems = [finding for finding in await found_by(url, "rights") if finding.level == "problem"]
        assert problems == []
    assert await execute(empty_database_url, "select count(*) from dbos_async.workflows") == 0


@pytest.mark.parametrize("what", ["start time", "locks", "activity", "advisory locks"])
async def test_d4_a_killed_executor_is_replaced_and_a_live_one_is_not_where_functions_are_denied(
    what: str, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 3.0)
    async with without(empty_database_url, *DENIED[what]) as url, running("denied", url) as program:
        await program.says("ready")
        async with DBOSClient(url) as client:
            with SetWorkflowID("held"):
                await client.start_workflow("denied, held")
        owner = "select owner from dbos_async.workflows where owner is not null"
        await eventually(lambda: execute(empty_database_url, owner))
        first = await execute(empty_database_url, owner)
        async with DBOS(url, migrate=False):
            live = "select count(*) = 2 from dbos_async.executors where lease_until > clock_timestamp()"
            for _ in range(3):  # both renew, again and again, for longer than the lease
                before = await execute(empty_database_url, "select max(lease_until) from dbos_async.executors")
                renewed = f"select min(lease_until) > '{before}' from dbos_async.executors"
                await eventually(lambda: execute(empty_database_url, renewed))  # noqa: B023  # it is awaited here
            await eventually(lambda: execute(empty_database_url, live), "both live")
            assert await execute(empty_database_url, owner) == first, "it lives, and keeps its workflow"
            await program.end(signal.SIGKILL)
            await DBOS.send("held", "heard", "word")
            handle = await DBOS.retrieve_workflow("held")
            async with asyncio.timeout(20):
                assert await handle.get_result() == "heard"
    assert held is not None


async def test_d7_without_locks_the_writers_are_those_who_are_in_a_transaction(empty_database_url: str) -> None:
    async with without(empty_database_url, *DENIED["locks"]) as url:
        one, other, owner = [await asyncpg.connect(each) for each in (url, url, empty_database_url)]
        names = Names()
        names.denied = frozenset({denied.LOCKS})
        seen = names(
            "select array_agg(distinct virtualtransaction) from pg_locks where mode = 'RowExclusiveLock' and granted "
            "and pid is distinct from pg_backend_pid() and relation = 'dbos_async.steps'::regclass"
        )

        async def nobody_writes() -> bool:
            return await one.fetchval(seen) is None

        try:
            await eventually(nobody_writes, "vacuum has gone by, too")
            async with other.transaction(), owner.transaction():
                await other.execute("select 1")
                assert len(await one.fetchval(seen)) == 1, "of this role, before it writes"
                await owner.execute("insert into dbos_async.servers values ('x')")
                assert len(await one.fetchval(seen)) == 2, "of another role, once it has written"
            await eventually(nobody_writes, "both are over")
        finally:
            for connection in (one, other, owner):
                await connection.close()


async def test_d7_without_activity_a_probe_finds_who_is_at_work(database_url: str) -> None:
    names = Names()
    names.denied = frozenset({denied.ACTIVITY})
    one, other = [await asyncpg.connect(database_url) for _ in range(2)]
    asked = [other.get_server_pid()], ["none"]
    at_work = names(probe.AT_WORK)
    try:
        assert await one.fetch(at_work, *asked) == []
        async with one.transaction():
            await one.execute("select pg_advisory_xact_lock(7)")
            waiting = asyncio.create_task(other.execute("select pg_advisory_xact_lock(7)"))
            await eventually(lambda: one.fetch(at_work, *asked))
        await waiting
        await eventually(lambda: _is_idle(one, at_work, asked))
    finally:
        await one.close()
        await other.close()


async def _is_idle(connection: Any, at_work: str, asked: Any) -> bool:
    found: list[Any] = await connection.fetch(at_work, *asked)
    return not found


@pytest.mark.parametrize(
    ("rights", "named"),
    [
        (("execute on function pg_notify(text, text)",), r"pg_catalog\.pg_notify\(text, text\)"),
        ((*DENIED["locks"], *DENIED["activity"]), r"pg_lock_status\(\).*pg_stat_get_activity\(integer\)"),
    ],
)
async def test_d7_a_function_that_nothing_replaces_is_named_at_launch(
    rights: tuple[str, ...], named: str, empty_database_url: str
) -> None:
    async with without(empty_database_url, *rights) as url:
        for launch in (DBOS(url, migrate=False), DBOSClient(url)):
            with pytest.raises(
                ConfigurationError, match=f"lacks rights that every role has by default .*{named}.*grant execute on"
            ):
                async with launch:
                    pass
