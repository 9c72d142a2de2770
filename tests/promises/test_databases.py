"""Which databases: promise D7."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any
from urllib.parse import quote

import pytest

from dbos_async import DBOS, ConfigurationError, DBOSClient
from dbos_async._database import urls
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


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("postgresql://u:p@h/db?connect_timeout=10", "postgresql://u:p@h/db"),
        ("postgresql://u:p@h/db?sslmode=require&channel_binding=require", "postgresql://u:p@h/db?sslmode=require"),
        ("postgresql:///db?host=/run/a&gssencmode=disable&port=1", "postgresql:///db?host=/run/a&port=1"),
        ("postgresql:///db?hostaddr=127.0.0.1&port=1", "postgresql:///db?host=127.0.0.1&port=1"),
        ("postgresql://h/db?hostaddr=127.0.0.1", "postgresql://h/db"),
        ("postgresql://h/db?options=-c%20search_path%3Da&search%5Fpath=b", "postgresql://h/db?options=-c%20search_path%3Da&search%5Fpath=b"),
        ("postgresql://u:a?b&c@h/db", "postgresql://u:a?b&c@h/db"),
        ("postgresql://h/db?", "postgresql://h/db?"),
        ("postgresql://h/db?keepalives=1#f", "postgresql://h/db#f"),
    ],
)  # fmt: skip
def test_d5_parameters_of_libpq_are_left_out_of_a_url_and_nothing_else_is(given: str, kept: str) -> None:
    assert urls.without_libpq_parameters(given) == kept


async def test_d5_the_connection_strings_of_providers_connect(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    urls._warn.cache_clear()  # it warns once in a process
    for query in (
        "connect_timeout=10", "channel_binding=prefer", "gssencmode=disable", "keepalives=1&keepalives_idle=30", "sslsni=1",
        "channel_binding=require", "client_encoding=utf8", "application_name=shop", "options=" + quote("-c work_mem=8MB"),
    ):  # fmt: skip
        url = f"{database_url}{'&' if '?' in database_url else '?'}{query}"
        async with DBOS(url), DBOSClient(url):
            assert await DBOS.list_workflows() == []
    warned = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert warned == ["The URL of the database asks for channel_binding, which asyncpg does not have: it is left out."]
    with pytest.raises(ConfigurationError, match="pgbouncer"):
        async with DBOS(f"{database_url}{'&' if '?' in database_url else '?'}pgbouncer=true"):
            pass
