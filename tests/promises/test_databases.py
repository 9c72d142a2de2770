"""Which databases: promise D7."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from dbos_async import DBOSClient
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
