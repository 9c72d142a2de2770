"""The primary dies or is cut off, and its synchronous standby is promoted (D4, M1): with a URL that names both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import urlsplit

import asyncpg
import pytest

from dbos_async import DBOS, DBOSClient
from tests.eventually import eventually
from tests.proxy import Proxy
from tests.servers import Server, needs_own_servers, quick, quiet

__all__ = ["quick", "quiet"]

pytestmark = needs_own_servers

NAME = "s1"
WORKFLOWS = 30


@DBOS.workflow()
async def collect() -> list[int]:
    """Everything that it is sent, in order."""
    got: list[int] = []
    while (n := await DBOS.recv(None, None)) != "end":
        got.append(n)
        await DBOS.write_stream("s", n)
    return got


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Server, Server]]:
    """A primary, and a standby without which it acknowledges nothing."""
    primary, standby = Server(), Server()
    try:
        await primary.create()
        await standby.copy(primary, NAME)
        await primary.execute(f"alter system set synchronous_standby_names = '{NAME}'", "select pg_reload_conf()")
        synchronous = "select count(*) = 1 from pg_stat_replication where sync_state = 'sync'"
        await eventually(lambda: primary.execute(synchronous))
        yield primary, standby
    finally:
        await standby.remove()
        await primary.remove()


def url_of(*hosts: str) -> str:
    return f"postgresql://postgres@{','.join(hosts)}/postgres"


def host_of(server: Server) -> str:
    return urlsplit(server.url).netloc.rpartition("@")[2]


async def outlast(url: str, client_url: str, fault: Callable[[], Awaitable[None]], standby: Server) -> None:
    """Send all the time, let the fault happen meanwhile, and compare what was acknowledged with what was received."""
    acknowledged: dict[str, list[int]] = {}
    is_over = False

    async def keep_sending(client: DBOSClient, workflow_id: str) -> None:
        n = 0
        while not is_over:
            await client.send(workflow_id, n)
            acknowledged[workflow_id].append(n)
            n += 1
            await asyncio.sleep(0.002)

    async with DBOS(url), DBOSClient(client_url) as client:
        handles = await asyncio.gather(*(DBOS.start_workflow(collect) for _ in range(WORKFLOWS)))
        acknowledged = {handle.workflow_id: [] for handle in handles}
        waiting, *sent_to = handles
        senders = [asyncio.create_task(keep_sending(client, handle.workflow_id)) for handle in sent_to]
        await eventually(lambda: min(len(acknowledged[handle.workflow_id]) for handle in sent_to) > 20)
        await fault()
        at_fault = {workflow_id: len(ns) for workflow_id, ns in acknowledged.items()}
        await eventually(lambda: all(len(acknowledged[h.workflow_id]) > at_fault[h.workflow_id] + 20 for h in sent_to))
        is_over = True
        await asyncio.gather(*senders)
        for handle in handles:
            await client.send(handle.workflow_id, "end")
        assert await waiting.get_result() == []
        for handle in sent_to:
            assert await handle.get_result() == acknowledged[handle.workflow_id], "nothing is missing, doubled or late"
    connection = await asyncpg.connect(standby.url)
    stored = await connection.fetchval("select count(*) from dbos_async.messages")
    assert stored == sum(map(len, acknowledged.values())) + WORKFLOWS
    await connection.close()


async def test_d4_m1_a_primary_that_is_killed_loses_no_acknowledged_send(pair: tuple[Server, Server]) -> None:
    primary, standby = pair

    async def fail_over() -> None:
        await primary.kill()
        await standby.promote()

    hosts = host_of(primary), host_of(standby)
    # Also with the standby, which takes no writes, named first.
    await outlast(url_of(*hosts), url_of(*reversed(hosts)), fail_over, standby)


@pytest.mark.usefixtures("quick")
async def test_d4_m1_a_primary_that_is_cut_off_loses_no_acknowledged_send(pair: tuple[Server, Server]) -> None:
    primary, standby = pair
    async with Proxy(primary.url) as proxy:

        async def fail_over() -> None:
            proxy.freeze()
            await standby.promote()

        url = url_of(proxy.host, host_of(standby))
        await outlast(url, url, fail_over, standby)
