"""Prepared transactions belong to no process, and may be committed at any time: who removes workflows waits for them, too (T3)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from dbos_async import DatabaseUnavailableError, DBOSClient, PurgeResult
from dbos_async._database import migrations
from dbos_async._messaging import send
from dbos_async._operations import purge
from dbos_async._workflows import delete
from tests.support.populations import Life, all_rows, ids, make
from tests.support.postgres import QUICK, Server
from tests.support.statements import ACTS, SETTING, execute, step

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
async def server(programs: None) -> AsyncIterator[Server]:
    """A server that takes prepared transactions."""
    async with Server(*QUICK, "max_prepared_transactions=2") as made:
        yield made


async def test_t3_a_prepared_transaction_is_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purge, "WRITERS_WITHIN_SECONDS", 0.1)
    monkeypatch.setattr(delete, "DELETE_WITHIN_SECONDS", 0.2)
    connection: Any = await asyncpg.connect(server.url)
    try:
        await migrations.migrate(connection)
        await connection.execute(SETTING)
        await make(connection, Life("long ago", ended_ago=10_000))
        row = list(ACTS["SEND"].row(step(None), "x"))
        row[:4], row[7], row[12] = [None] * 4, "w", "me"  # announced to nobody: what notifies cannot be prepared
        await connection.execute("begin")
        await execute(connection, send.SEND, tuple(row))  # it has seen the workflow alive
        await connection.execute("prepare transaction 'p'")
        await connection.execute(
            "update dbos_async.workflows set status = 'SUCCESS', ended_at = clock_timestamp() where id = 'w'"
        )
        async with DBOSClient(server.url) as client:
            result = await client.purge(0)
            assert (result.count, result.left) == (0, 3)
            assert result.reason == "a transaction that was prepared is open and may still write to them"
            with pytest.raises(DatabaseUnavailableError, match="stayed open"):
                await client.delete_workflow("w")
            assert len(await ids(connection)) == 3
            await connection.execute("commit prepared 'p'")
            await client.delete_workflow("w")
            assert await client.purge(0) == PurgeResult(count=2)
        # Of everything there is left a message to a shop that never was.
        assert {of for _, of in await all_rows(connection)} == {"a shop"}
    finally:
        await connection.close()
