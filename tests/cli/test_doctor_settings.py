"""The doctor on a server, a database or a role whose settings hurt, and on one where all is well."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from dbos_async import DBOS
from dbos_async._operations.doctor import connecting, examine, vacuum
from tests.support.databases import execute, new_database, with_database
from tests.support.eventually import eventually
from tests.support.examined import found_by, needs_programs, told
from tests.support.postgres import Server

pytestmark = needs_programs

DURABLE = ("max_connections=40", "max_prepared_transactions=2", "wal_level=logical", "autovacuum_naptime=1h")
"""A server that loses nothing, as those of production; the shared one of the tests has fsync off."""


@pytest.fixture(scope="module")
def durable(postgres: None) -> Iterator[Server]:
    server = Server(*DURABLE)
    asyncio.run(server.create())
    yield server
    asyncio.run(server.remove())


@pytest.fixture
async def durable_url(durable: Server) -> Any:
    async with new_database(durable.url, f"test_{uuid4().hex[:12]}") as url:
        yield url


async def test_a_healthy_database_gives_no_warning(durable_url: str) -> None:
    async with DBOS(durable_url, executor_id="shop-1"):
        findings = await examine(durable_url)
    assert [told([finding]) for finding in findings if finding.level != "ok"] == []
    assert len(findings) >= 25
    assert {finding.check for finding in findings} >= {"connection", "listen", "pooler", "sequences", "executors"}
    assert all(finding.took_ms is not None and finding.took_ms >= 0 for finding in findings)
    (executors,) = [finding for finding in findings if finding.check == "executors"]
    assert executors.says == "1 executor is live: 'shop-1'."


async def test_it_changes_nothing(durable_url: str) -> None:
    async with DBOS(durable_url):
        pass
    counts = "select json_object_agg(relname, n_tup_ins + n_tup_upd + n_tup_del) from pg_stat_all_tables"
    before = await execute(durable_url, counts)
    await examine(durable_url)
    assert await execute(durable_url, counts) == before
    left = "select count(*) from pg_stat_activity where application_name = 'dbos_async doctor'"
    await eventually(lambda: _is_zero(durable_url, left), "its connections are closed")


async def _is_zero(url: str, query: str) -> bool:
    return int(await execute(url, query)) == 0


SETTINGS = {
    "statement_timeout": ("'200ms'", "problem", "is 200 ms: migrations"),
    "idle_in_transaction_session_timeout": ("'500ms'", "warning", "is 500 ms"),
    "idle_session_timeout": (
        "'3s'",
        "warning",
        "is 3000 ms: the connection that listens",
    ),
    "lock_timeout": ("'100ms'", "warning", "is 100 ms"),
    "track_activities": ("off", "warning", "is off: nobody sees what sessions do"),
    "synchronous_commit": ("off", "warning", "is off: a crash of the server loses"),
    "default_transaction_isolation": (
        "'serializable'",
        "warning",
        "is serializable",
    ),
}
"""By setting: a value that hurts, the level, and what must be said."""


@pytest.mark.parametrize("name", SETTINGS)
async def test_a_setting_of_the_database_that_hurts_is_named(durable_url: str, name: str) -> None:
    value, level, says = SETTINGS[name]
    database = urlsplit(durable_url).path[1:]
    await execute(durable_url, f"alter database {database} set {name} = {value}")
    (found,) = await found_by(durable_url, "settings")
    assert (found.level, says in found.says) == (level, True), told([found])
    assert found.advice == f"alter database {database} reset {name}; and launch anew."


async def test_a_setting_of_the_role_in_the_database_comes_first(durable_url: str) -> None:
    database = urlsplit(durable_url).path[1:]
    await execute(durable_url, f"alter database {database} set statement_timeout = '200ms'",
                  f"alter role postgres in database {database} set statement_timeout = '2s'")  # fmt: skip
    (found,) = await found_by(durable_url, "settings")
    assert (found.level, "is 2000 ms" in found.says) == ("warning", True), told([found])
    assert f"alter role postgres in database {database} reset statement_timeout;" in str(found.advice)


async def test_a_setting_of_all_roles_or_of_the_connection(durable: Server, durable_url: str) -> None:
    await durable.execute("alter role all set statement_timeout = '3s'")
    try:
        (of_all,) = await found_by(durable_url, "settings")
        (of_url,) = await found_by(f"{durable_url}&options=-c%20statement_timeout%3D2s", "settings")
    finally:
        await durable.execute("alter role all reset statement_timeout")
    await durable.execute("alter system set statement_timeout = '4s'", "select pg_reload_conf()")
    try:
        await eventually(lambda: _is(durable_url, "statement_timeout", "4s"))
        (of_server,) = await found_by(durable_url, "settings")
    finally:
        await durable.execute("alter system reset statement_timeout", "select pg_reload_conf()")
    assert str(of_all.advice).startswith("alter role all reset statement_timeout;"), told([of_all])
    assert "is 2000 ms" in of_url.says
    assert "take it out of the URL" in str(of_url.advice)
    assert "alter system set statement_timeout = '0'" in str(of_server.advice)


async def test_transaction_timeout(durable_url: str) -> None:
    database = urlsplit(durable_url).path[1:]
    try:
        await execute(durable_url, f"alter database {database} set transaction_timeout = '900ms'")
    except asyncpg.UndefinedObjectError:
        pytest.skip("this Postgres has no transaction_timeout: it came with 17")
    (found,) = await found_by(durable_url, "settings")
    assert "transaction_timeout is 900 ms" in found.says


async def test_every_transaction_read_only(durable_url: str) -> None:
    database = urlsplit(durable_url).path[1:]
    await execute(durable_url, f"alter database {database} set default_transaction_read_only = on")
    (found,) = await found_by(durable_url, "writable")
    assert found.level == "problem"
    assert "read-only" in found.says
    assert "alter database … reset default_transaction_read_only" in str(found.advice)


async def test_fsync_off_is_a_problem(durable: Server, durable_url: str) -> None:
    await durable.execute(
        "alter system set fsync = off", "alter system set full_page_writes = off", "select pg_reload_conf()"
    )
    try:
        await eventually(lambda: _is_off(durable_url, "fsync"))
        found = await found_by(durable_url, "settings")
    finally:
        await durable.execute(
            "alter system reset fsync", "alter system reset full_page_writes", "select pg_reload_conf()"
        )
    assert [(each.level, each.says.partition(":")[0]) for each in found] == [
        ("problem", "fsync is off"),
        ("problem", "full_page_writes is off"),
    ]
    assert "alter system set fsync = on" in str(found[0].advice)


async def _is_off(url: str, name: str) -> bool:
    return await _is(url, name, "off")


async def _is(url: str, name: str, value: str) -> bool:
    return bool(await execute(url, f"select current_setting('{name}') = '{value}'"))


async def test_autovacuum_off(durable: Server, durable_url: str) -> None:
    async with DBOS(durable_url):
        pass
    await durable.execute("alter system set autovacuum = off", "select pg_reload_conf()")
    await execute(durable_url, "alter table dbos_async.steps set (autovacuum_enabled = off)")
    try:
        await eventually(lambda: _is_off(durable_url, "autovacuum"))
        found = await found_by(durable_url, "autovacuum")
    finally:
        await durable.execute("alter system reset autovacuum", "select pg_reload_conf()")
    assert [each.level for each in found] == ["problem", "problem"]
    assert "alter system set autovacuum = on" in str(found[0].advice)
    assert "steps" in found[1].says
    assert found[1].advice == "alter table dbos_async.steps reset (autovacuum_enabled);"


async def test_a_synchronous_standby_that_is_not_there(durable: Server, durable_url: str) -> None:
    await durable.execute("alter system set synchronous_standby_names = 'gone'", "select pg_reload_conf()")
    try:
        await eventually(lambda: _waits(durable_url))
        (found,) = await found_by(durable_url, "standbys")
    finally:
        await execute(
            durable.url,
            "alter system reset synchronous_standby_names",
            "select pg_reload_conf()",
            synchronous_commit="local",
        )
        await eventually(lambda: _waits_not(durable_url))
    assert found.level == "problem"
    assert "no such standby is connected: every commit waits for ever" in found.says
    assert "alter system set synchronous_standby_names = ''" in str(found.advice)


async def _waits(url: str) -> bool:
    return bool(await execute(url, "select current_setting('synchronous_standby_names') <> ''"))


async def _waits_not(url: str) -> bool:
    return not await _waits(url)


async def test_a_replication_slot_that_nobody_reads(durable: Server, durable_url: str) -> None:
    await execute(durable_url, "select pg_create_logical_replication_slot('left_over', 'pgoutput')")
    try:
        (found,) = await found_by(durable_url, "replication slots")
    finally:
        await durable.execute("select pg_drop_replication_slot('left_over')")
    assert re.search(r"'left_over' \(logical\), which keeps .* of the server's log, and dead rows", found.says), (
        found.says
    )
    assert "select pg_drop_replication_slot('left_over');" in str(found.advice)


async def test_a_prepared_transaction_that_was_forgotten(durable_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vacuum, "OLD_TRANSACTION_SECONDS", 0.0)
    connection = await asyncpg.connect(durable_url)
    await connection.execute("begin; create table forgotten (); prepare transaction 'half''done'")
    try:
        (found,) = await found_by(durable_url, "old transactions")
    finally:
        await connection.execute("rollback prepared 'half''done'")
        await connection.close()
    assert "The prepared transaction 'half'done' of postgres" in found.says
    assert "rollback prepared 'half''done';" in str(found.advice)


async def test_a_standby_in_the_place_of_the_primary(postgres: None) -> None:
    async with Server("fsync=off", "max_connections=40", tcp=True) as primary:
        standby = Server("fsync=off", "max_connections=40", tcp=True)
        try:
            await standby.copy(primary, "standby")
            findings = await examine(standby.url)
            there, back = (
                urlsplit(standby.url).netloc.rpartition("@")[2],
                urlsplit(primary.url).netloc.rpartition("@")[2],
            )
            both = await examine(f"postgresql://postgres@{there},{back}/postgres")
        finally:
            await standby.remove()
    said = {finding.check: finding for finding in findings}
    assert "is a standby and takes no writes" in said["writable"].says
    assert "Name the primary" in str(said["writable"].advice)
    assert "LISTEN and NOTIFY do not work here" in said["listen"].says
    assert "is a standby" not in told(both), "of several hosts the one that takes writes is examined"


async def test_no_room_for_another_executor(durable: Server, durable_url: str) -> None:
    connections = [await asyncpg.connect(durable_url) for _ in range(29)]
    try:
        (found,) = await found_by(durable_url, "connections")
    finally:
        await asyncio.gather(*[each.close() for each in connections])
    assert (found.level, "max_connections is 40" in found.says) == ("warning", True), told([found])
    assert "an executor needs 10" in found.says
    assert "alter system set max_connections = 80" in str(found.advice)


async def test_more_executors_than_the_server_has_connections_for(durable_url: str) -> None:
    async with DBOS(durable_url):
        await execute(
            durable_url,
            "insert into dbos_async.executors (id, executor_id, workflow_names, lease_until) "
            "select 'e' || n, 'e' || n, '{}', now() + interval '1 hour' from generate_series(1, 3) as n",
        )
        (found,) = await found_by(durable_url, "executors")
    assert found.says == "4 live executors may open 40 connections, and the server has 37."
    assert "alter system set max_connections = 60" in str(found.advice)


async def test_a_limit_of_the_database_counts(durable_url: str) -> None:
    database = urlsplit(durable_url).path[1:]
    await execute(durable_url, f"alter database {database} connection limit 8")
    (found,) = await found_by(durable_url, "connections")
    assert f"of 8 connections of the database {database} are used" in found.says
    assert f"alter database {database} connection limit -1;" in str(found.advice)


async def test_an_old_or_unknown_version(durable_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "OLDEST", 99)
    (found,) = await found_by(durable_url, "version")
    assert (found.level, "needs 99 or newer" in found.says) == ("problem", True)
    monkeypatch.setattr(connecting, "OLDEST", 14)
    monkeypatch.setattr(connecting, "NEWEST", 14)
    (found,) = await found_by(durable_url, "version")
    assert (found.level, "newer than this release" in found.says) == ("warning", True)


async def test_an_encoding_that_cannot_store_every_text(durable: Server) -> None:
    name = f"ascii_{uuid4().hex[:12]}"
    await durable.execute(f"create database {name} encoding 'SQL_ASCII' locale 'C' template template0")
    try:
        (found,) = await found_by(with_database(durable.url, name), "encoding")
    finally:
        await durable.execute(f"drop database {name}")
    assert (found.level, "SQL_ASCII" in found.says) == ("problem", True)
    assert "encoding 'UTF8' template template0" in str(found.advice)


async def test_a_clock_that_is_wrong(durable_url: str) -> None:
    database = urlsplit(durable_url).path[1:]
    await execute(
        durable_url,
        "create schema moved",
        "create function moved.clock_timestamp() returns timestamptz language sql "
        "as $$ select pg_catalog.clock_timestamp() + interval '90 seconds' $$",
        f"alter database {database} set search_path = moved, pg_catalog, public",
    )
    (found,) = await found_by(durable_url, "clock")
    assert re.fullmatch(r"The clock of the server is (89|90)\.\d s ahead of that of this machine\.", found.says)
    assert "NTP" in str(found.advice)
