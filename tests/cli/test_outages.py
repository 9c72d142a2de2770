"""Commands whose database goes away while they are at work."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from dbos_async import DBOS
from dbos_async._cli import session
from tests.cli.running import process, run
from tests.cli.workflows import started, wait, waits
from tests.support.eventually import eventually
from tests.support.proxy import Proxy

pytestmark = pytest.mark.newest_only  # outages are tested on both versions elsewhere


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "CONNECT_SECONDS", 0.5)


async def test_many_cancels_say_how_many_were_done(dbos: DBOS, database_url: str, connection: Any) -> None:
    for number in range(30):
        await started(f"w-{number:02}", wait)
    async with connection.transaction():
        await connection.execute("select from dbos_async.workflows where id = 'w-17' for update")
        done = await asyncio.to_thread(run, database_url, "workflows", "cancel", "--prefix", "w-", "--yes")
    cancelled = await DBOS.list_workflows(status="CANCELLED", payloads=False)
    done.check(1, f"cancelled {len(cancelled)} of 30 workflows, then: The database did not do this")
    assert done.err.count("\n") == 1
    assert cancelled
    assert "w-17" not in {one.workflow_id for one in cancelled}


async def test_what_follows_rides_out_a_short_outage(dbos: DBOS, database_url: str) -> None:
    handle = await started("w", wait)
    await eventually(lambda: waits("w"))
    async with Proxy(database_url) as proxy:
        with process(proxy.url, "workflows", "list", "--watch", "--json") as following:
            assert following.stdout is not None
            first = json.loads(await asyncio.to_thread(following.stdout.readline))
            assert first["status"] == "PENDING"
            proxy.cut()
            await DBOS.send("w", 1, "go")
            await handle.get_result()
            last = json.loads(await asyncio.to_thread(following.stdout.readline))
            assert last["status"] == "SUCCESS"
            following.terminate()


@pytest.mark.parametrize("arguments", [("workflows", "show", "w", "--follow"), ("workflows", "list", "--watch")])
async def test_what_follows_ends_when_the_database_stays_away(
    dbos: DBOS, database_url: str, arguments: tuple[str, ...]
) -> None:
    await started("w", wait)
    async with Proxy(database_url) as proxy:
        command = asyncio.create_task(asyncio.to_thread(run, proxy.url, *arguments))
        await eventually(lambda: proxy.accepted >= 3)
        proxy.refuse()
        proxy.cut()
        (await command).check(1, "The database")
