"""Who may use the schema: what a launch says of missing rights, and what ``dbos-async migrate`` grants or prints."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from dbos_async import DBOS, ConfigurationError, DBOSClient, MigrationNeededError
from dbos_async._database import migrations, rights
from dbos_async._database.expected import expected
from dbos_async._database.names import Names
from tests.cli.running import Done, run
from tests.support.databases import execute
from tests.support.examined import new_role

pytestmark = pytest.mark.direct("the pooler of the tests connects as one role")

DESCRIPTION = """
    select json_agg(d order by d::text) from (
        select table_name, column_name, data_type, column_default, is_nullable from information_schema.columns
        where table_schema = '{schema}' union all
        select 'index', indexname, indexdef, null, null from pg_indexes where schemaname = '{schema}' union all
        select 'constraint', conname, pg_get_constraintdef(oid), null, null from pg_constraint
        where connamespace = '{schema}'::regnamespace union all
        select 'function', proname, prosrc, obj_description(oid, 'pg_proc'), null from pg_proc
        where pronamespace = '{schema}'::regnamespace union all
        select 'migration', name, number::text, requires_library, null from {schema}.migrations
    ) as d
"""


async def command(*arguments: str, url: str | None = None) -> Done:
    return await asyncio.to_thread(run, url, *arguments)


@pytest.mark.parametrize(
    ("right", "says", "is_for_clients"),
    [
        ("usage on schema shop", r"\(usage\)", True),
        ("select on shop.migrations", r"\(select on the table migrations\)", True),
        ("select on shop.events", r"\(select on the table events\)", True),
        ("update, delete on shop.messages", r"\(update, delete on the table messages\)", False),
        ("insert on shop.steps, shop.events", r"\(insert on the tables events, steps\)", False),
        ("usage on sequence shop.event_seq", r"\(usage on the sequence event_seq\)", False),
        ("execute on function shop.digest", r"\(execute on the function digest\)", True),
    ],
)
async def test_d7_each_right_that_is_missing_is_named_at_launch(
    right: str, says: str, is_for_clients: bool, empty_database_url: str
) -> None:
    async with new_role(empty_database_url) as (role, url):
        assert (await command("migrate", empty_database_url, "--schema", "shop", "--grant", role)).code == 0
        async with DBOSClient(url, schema="shop"), DBOS(url, schema="shop"):
            pass
        await execute(empty_database_url, f"revoke {right} from public, {role}")
        command_line = f"run 'dbos-async migrate <url> --schema shop --grant {role}' as the role that owns"
        sentence = f"^The role {role} lacks rights on the schema shop {says}: {command_line}"
        with pytest.raises(ConfigurationError, match=sentence):
            async with DBOS(url, schema="shop"):
                pass
        client = DBOSClient(url, schema="shop")
        if is_for_clients:
            with pytest.raises(ConfigurationError, match=sentence):
                async with client:
                    pass
        else:
            async with client:
                assert await client.list_workflows() == []
        done = await command("migrate", empty_database_url, "--schema", "shop", "--grant", role)
        assert done.lines == ["The schema is up to date.", f"granted  {role}"]
        async with DBOS(url, schema="shop", migrate=False):
            pass


async def test_d7_a_role_may_have_any_name(empty_database_url: str) -> None:
    role = f"""My "Ap'p"; drop schema {uuid4().hex[:8]}"""
    quoted = '"' + role.replace('"', '""') + '"'
    await execute(empty_database_url, f"create role {quoted}")
    try:
        done = await command("migrate", empty_database_url, "--grant", role, "--json")
        assert done.json == {"applied": [each.name for each in migrations.load()], "granted": role}
        connection = await asyncpg.connect(empty_database_url)
        try:
            await rights.check_rights(connection, Names(), expected(migrations.load()), rights.WRITES, role=role)
        finally:
            await connection.close()
    finally:
        await execute(empty_database_url, f"drop owned by {quoted}", f"drop role {quoted}")


async def test_d7_a_grant_that_is_impossible_is_one_sentence(database_url: str) -> None:
    (await command("migrate", database_url, "--grant", "nobody_here")).check(
        1, "There is no role 'nobody_here' in this server"
    )
    (await command("migrate", database_url, "--grant", "")).check(1, "A role has a name of 1 to 63 bytes")
    (await command("migrate", database_url, "--grant", "x" * 64)).check(1, "A role has a name of 1 to 63 bytes")
    (await command("migrate", database_url, "--grant", "x", "--check")).check(2, "leave out --grant and --sql")
    async with new_role(database_url) as (role, url), new_role(database_url) as (other, _):
        assert (await command("migrate", database_url, "--grant", role)).code == 0
        for name in (other, role):  # may use everything, and may grant nothing
            done = await command("migrate", url, "--grant", name)
            assert done.code == (1 if name == other else 0), done
        (await command("migrate", url, "--grant", other)).check(1, "as the role that owns the schema")


async def test_d7_a_role_that_may_not_create_is_told_of_what_is_missing(empty_database_url: str) -> None:
    async with new_role(empty_database_url) as (role, url):
        with pytest.raises(
            ConfigurationError,
            match=r"0001_first_tables failed .*permission denied for database.*--schema shop --grant \S+' as a",
        ):
            async with DBOS(url, schema="shop"):
                pass
        with pytest.raises(MigrationNeededError, match="run 'dbos-async migrate <url> --schema shop'"):
            async with DBOSClient(url, schema="shop"):
                pass
        await execute(empty_database_url, f"create schema shop authorization {role}")
        async with DBOS(url, schema="shop"):
            pass


@pytest.mark.parametrize("with_psql", [True, False])
async def test_d7_the_printed_sql_makes_a_schema_that_a_launch_accepts(
    with_psql: bool, empty_database_url: str, database_url: str, tmp_path: Path
) -> None:
    schema = "order_2" if with_psql else "dbos_async"
    async with new_role(empty_database_url) as (role, url):
        printed = await command("migrate", "--sql", "--schema", schema, "--grant", role)
        assert (printed.code, printed.err) == (0, "")
        await _execute(empty_database_url, printed.out, tmp_path, with_psql=with_psql)
        async with DBOS(url, schema=schema, migrate=False), DBOSClient(url, schema=schema) as client:
            assert await client.list_workflows() == []
        again = await command("migrate", empty_database_url, "--sql", "--schema", schema)
        assert f"schema {schema}: the schema is up to date." in again.out
        assert "create" not in again.out
        await _execute(empty_database_url, again.out, tmp_path, with_psql=with_psql)
    assert await described(empty_database_url, schema) == await described(database_url, "dbos_async")


async def described(url: str, schema: str) -> list[str]:
    """All that is in a schema, as it would be in the usual one."""
    text = json.dumps(json.loads(await execute(url, DESCRIPTION.format(schema=schema))))
    text = (
        text.replace(f'\\"{schema}\\".', "dbos_async.")
        .replace(f"{schema}.", "dbos_async.")
        .replace(f"'{schema}'", "'dbos_async'")
    )
    return sorted(map(str, json.loads(text)))


async def test_d7_the_printed_sql_has_only_what_is_missing(empty_database_url: str, tmp_path: Path) -> None:
    connection = await asyncpg.connect(empty_database_url)
    try:
        for path in migrations.find_directory().glob("000[1-3]_*"):
            (tmp_path / path.name).write_text(path.read_text())
        applied = await migrations.migrate(connection, directory=tmp_path)
        printed = (await command("migrate", empty_database_url, "--sql")).out
        assert [name for name in applied if name in printed] == []
        await connection.execute(printed)
        await migrations.check(connection)
        with pytest.raises(asyncpg.PostgresError):
            await connection.execute(printed)  # twice, which changes nothing
        await connection.execute("rollback")
        await migrations.check(connection)
    finally:
        await connection.close()


async def _execute(url: str, sql: str, folder: Path, *, with_psql: bool) -> None:
    psql = shutil.which("psql")
    if with_psql and psql is not None:
        file = folder / "schema.sql"
        file.write_text(sql)
        arguments = [psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(file), url]
        done = await asyncio.to_thread(
            subprocess.run, arguments, capture_output=True, text=True, env=os.environ | {"PGCLIENTENCODING": "LATIN1"}
        )
        assert (done.returncode, done.stderr) == (0, "")
        return
    connection: Any = await asyncpg.connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()
