"""Several applications in one database, each in a schema of its own: promise D7."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest

from dbos_async import DBOS, ConfigurationError, DBOSClient, InvalidArgumentError, SetWorkflowID
from dbos_async._database import migrations
from dbos_async._database.names import Names
from tests.support.databases import execute
from tests.support.eventually import eventually
from tests.support.examined import new_role
from tests.support.pgbouncer import needs_pgbouncer, pgbouncer
from tests.support.processes import running
from tests.support.programs.tenant import WORDS

SCHEMAS = "tenant_a", "order"
"""The second one is a word of SQL."""


@pytest.fixture
async def role_url(empty_database_url: str) -> AsyncIterator[str]:
    """The database for a role that may create nothing; both schemas were made at the same time."""
    connections = [await asyncpg.connect(empty_database_url) for _ in SCHEMAS]
    async with new_role(empty_database_url) as (role, url):
        applied = await asyncio.gather(
            *(
                migrations.migrate(connection, Names(schema), grant_to=role)
                for connection, schema in zip(connections, SCHEMAS, strict=True)
            )
        )
        assert applied == [[migration.name for migration in migrations.load()]] * 2
        for connection in connections:
            await connection.close()
        yield url


async def rows(url: str, table: str) -> list[int]:
    return [await execute(url, f'select count(*) from "{schema}".{table}') for schema in SCHEMAS]


@pytest.mark.parametrize("polls", [(), pytest.param(("polls",), marks=needs_pgbouncer)], ids=["directly", "pooler"])
async def test_d7_two_applications_of_one_database_do_not_meet(role_url: str, polls: tuple[str, ...]) -> None:
    """The same ids of workflows and executors, one role, an executor that is killed, and one that takes over.

    With ``polls`` all of them go through one pooler in transaction mode, and nobody listens.
    """
    async with AsyncExitStack() as stack:
        way = await stack.enter_async_context(pgbouncer(role_url)) if polls else role_url
        await two_applications(role_url, way, polls)


async def two_applications(role_url: str, way: str, polls: tuple[str, ...]) -> None:
    first, second = SCHEMAS
    async with (
        running("tenant", way, first, *polls) as killed,
        running("tenant", way, second, *polls) as other,
        DBOSClient(way, schema=first, listen=not polls) as a,
        DBOSClient(way, schema=second, listen=not polls) as b,
    ):
        await asyncio.gather(killed.says("ready"), other.says("ready"))
        for client in (a, b):
            with SetWorkflowID("same"):
                await client.start_workflow("tenant, talks")
        await a.send("same", "one", "word")
        assert await a.get_event("same", "last", timeout_seconds=60) == f"{first} heard one"
        assert await b.get_event("same", "last", timeout_seconds=0) is None
        assert await rows(role_url, "executors") == [1, 1]
        claims = f'select attempt from "{second}".workflows'
        runs = f'select owner is not null from "{second}".workflows'
        await eventually(lambda: execute(role_url, runs), "the other executor runs its workflow")
        claimed_as = await execute(role_url, claims)
        assert await killed.end(signal.SIGKILL) == -signal.SIGKILL
        async with running("tenant", way, first, *polls) as heir:
            await heir.says("ready")
            for n in range(1, WORDS):
                await a.send("same", f"a{n}", "word")
            for n in range(WORDS):
                await b.send("same", f"b{n}", "word")
            heard = [[each async for each in client.read_stream("same", "heard")] for client in (a, b)]
            handles = [await client.retrieve_workflow("same") for client in (a, b)]
            assert [await handle.get_result() for handle in handles] == heard
        assert heard == [
            [f"{first} heard {word}" for word in ("one", "a1", "a2", "a3")],
            [f"{second} heard b{n}" for n in range(WORDS)],
        ]
        assert await execute(role_url, claims) == claimed_as, "nobody has taken over what was not his"
        assert await rows(role_url, "messages") == [WORDS, WORDS]
        await a.delete_workflow("same")
        assert await rows(role_url, "workflows") == [0, 1]
        assert await b.get_event("same", "last") == heard[1][-1]


@DBOS.transaction(name="tenant, buys")
async def buys(connection: Any, what: str) -> int:
    await DBOS.send("tenant-sink", what)
    await connection.execute("insert into public.bought values ($1)", what)
    return int(await connection.fetchval("select count(*) from public.bought"))


@DBOS.workflow(name="tenant, shops")
async def shops() -> int:
    return await buys("shoes")


@DBOS.workflow(name="tenant, sink")
async def sink() -> list[str]:
    return sorted([await DBOS.recv(timeout_seconds=20) for _ in range(2)])


async def test_d7_transactions_of_users_write_the_tables_of_their_own_schema(
    role_url: str, empty_database_url: str
) -> None:
    await execute(empty_database_url, "create table public.bought (what text)", "grant all on public.bought to public")
    schema = SCHEMAS[1]
    connection = await asyncpg.connect(role_url, server_settings={"search_path": f'"{SCHEMAS[0]}"'})
    try:
        async with DBOS(role_url, schema=schema, migrate=False):
            with SetWorkflowID("tenant-sink"):
                waiting = await DBOS.start_workflow(sink)
            assert await (await DBOS.start_workflow(shops)).get_result() == 1
            async with connection.transaction():
                await DBOS.send("tenant-sink", "outside", connection=connection)
            assert await waiting.get_result() == ["outside", "shoes"]
    finally:
        await connection.close()
    assert await rows(role_url, "workflows") == [0, 2]


async def test_d7_a_launch_makes_the_schema_that_it_is_told_and_no_other(empty_database_url: str) -> None:
    async with DBOS(empty_database_url, schema="shop"), DBOSClient(empty_database_url, schema="shop") as client:
        assert await client.list_workflows() == []
    found = "select array_agg(nspname::text) from pg_namespace where nspname in ('shop', 'dbos_async')"
    assert await execute(empty_database_url, found) == ["shop"]


async def test_d7_the_variable_names_the_schema_of_all_who_are_told_none(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBOS_SCHEMA", "shop")
    client = DBOSClient(empty_database_url)
    async with DBOS(empty_database_url), client:
        assert await execute(empty_database_url, "select count(*) from shop.executors") == 1
    async with DBOS(empty_database_url, schema="shop_2"):
        assert await execute(empty_database_url, "select count(*) from shop_2.executors") == 1
    monkeypatch.setenv("DBOS_SCHEMA", 'x"; drop schema shop; --')
    with pytest.raises(InvalidArgumentError, match=r"^\$DBOS_SCHEMA must be a name of lower-case letters"):
        async with client:
            pass


async def test_d7_a_schema_in_which_another_program_has_its_tables_is_refused(empty_database_url: str) -> None:
    await execute(empty_database_url, "create table public.events (id int)")
    with pytest.raises(
        ConfigurationError, match="rolled back.*events.*belongs to another program, choose another schema"
    ):
        async with DBOS(empty_database_url, schema="public"):
            pass
    assert (
        await execute(empty_database_url, "select array_agg(relname::text) from pg_class where relname = 'steps'")
        is None
    )
    await execute(empty_database_url, "create table public.migrations (id int, batch int)")
    with pytest.raises(ConfigurationError, match="The schema public has a table migrations of another program"):
        async with DBOS(empty_database_url, schema="public"):
            pass


async def test_d7_notifications_of_another_schema_end_no_wait(role_url: str) -> None:
    """Both have a workflow of one id that waits for one topic. A message to one of them leaves the other one waiting."""
    first, second = SCHEMAS
    async with running("tenant", role_url, first) as program, DBOS(role_url, schema=second, migrate=False):
        await program.says("ready")
        async with DBOSClient(role_url, schema=first) as client:
            for start in (DBOS.start_workflow(sink), client.start_workflow("tenant, talks")):
                with SetWorkflowID("twin"):
                    await start
            await client.send("twin", "hello", "word")
            await eventually(lambda: client.get_event("twin", "last", timeout_seconds=0))
        secrets = [await execute(role_url, f'select secret from "{schema}".channels') for schema in SCHEMAS]
        assert secrets[0] != secrets[1]
        assert await rows(role_url, "messages") == [1, 0]
        assert await execute(role_url, f'select status from "{second}".workflows') == "PENDING"
