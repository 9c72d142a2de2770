"""Which databases: promise D7."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from dbos_async import DBOS, ConfigurationError, DBOSClient
from dbos_async._database import url_parameters
from tests.support.postgres import SUPPORTED, chosen_version
from tests.support.processes import running


async def test_d7_this_run_meets_the_version_of_postgres_that_was_chosen(connection: Any) -> None:
    version = connection.get_server_version().major
    assert version in SUPPORTED
    if "DBOS_TEST_DATABASE_URL" not in os.environ:
        assert version == chosen_version()


async def test_d7_executors_of_one_database_may_register_different_workflows(database_url: str) -> None:
    async with (
        running("backlog", database_url, "first", 10) as first,
        running("brief", database_url, "second", 1) as second,
        DBOSClient(database_url) as client,
    ):
        await asyncio.gather(first.says("ready"), second.says("ready"))
        short = [await client.start_workflow("short") for _ in range(5)]
        brief = [await client.start_workflow("brief") for _ in range(5)]
        for handle in brief:
            await client.send(handle.workflow_id, "done")
        assert {(await handle.get_result())[0] for handle in short} == {"first"}
        assert [await handle.get_result() for handle in brief] == ["done"] * 5


async def test_d5_the_connection_strings_of_providers_connect(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    url_parameters._warn.cache_clear()  # it warns once in a process
    for query in (
        "connect_timeout=10", "channel_binding=prefer", "gssencmode=disable", "keepalives=1&keepalives_idle=30", "sslsni=1",
        "channel_binding=require", "client_encoding=utf8", "application_name=shop", "options=" + quote("-c work_mem=8MB"),
        "pgbouncer=true&connection_limit=1&schema=public", "ssl=prefer&prepared_statement_cache_size=0", "jit=off",
        "target_session_attrs=any", "target_session_attrs=primary", "target_session_attrs=read-write",
    ):  # fmt: skip
        url = f"{database_url}{'&' if '?' in database_url else '?'}{query}"
        async with DBOS(url), DBOSClient(url.replace("postgresql:", "postgresql+asyncpg:")):
            assert await DBOS.list_workflows() == []
    warned = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert warned == ["The URL of the database asks for channel_binding, which asyncpg does not have: it is left out."]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("pgbuncer=true", 'unrecognized configuration parameter "pgbuncer": take it out of the URL.'),
        ("work_mem=much", 'invalid value for parameter "work_mem": "much": correct it in the URL.'),
        ("options=endpoint%3Dep-1", "invalid command-line argument.*: correct the options of the URL"),
        ("sslmode=sometimes", "`sslmode` parameter must be one of: .*: correct it in the URL"),
        ("shared_buffers=8MB", 'parameter "shared_buffers" cannot be changed.*: take it out of the URL'),
    ],
)
async def test_d5_a_parameter_that_the_server_refuses_ends_a_launch_at_once(
    database_url: str, query: str, says: str
) -> None:
    for make in (DBOS, DBOSClient):
        with pytest.raises(ConfigurationError, match=rf"^postgresql://\S+ cannot be used: {says}"):
            async with make(f"{database_url}{'&' if '?' in database_url else '?'}{query}"):
                pass


async def test_d5_the_search_path_of_a_url_is_that_of_transactional_steps(database_url: str, connection: Any) -> None:
    await connection.execute("create schema store; create table store.things (a int)")
    for name in ("schema", "currentSchema", "search_path"):
        url = f"{database_url}{'&' if '?' in database_url else '?'}{name}=store"
        async with DBOS(url):
            await fill_things()
    assert await connection.fetchval("select count(*) from store.things") == 3


@DBOS.transaction(name="fill things")
async def fill_things(connection: asyncpg.Connection[Any]) -> None:
    await connection.execute("insert into things values (1)")
