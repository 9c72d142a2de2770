"""The primary dies or is cut off, and its synchronous standby is promoted (D4, M1): with a URL that names both."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest

from dbos_async import DBOS, DBOSClient
from tests.support.eventually import eventually
from tests.support.postgres import Server
from tests.support.programs.brief import brief
from tests.support.proxy import Proxy
from tests.support.standbys import host_of, primary_and_standby, url_of

pytestmark = pytest.mark.usefixtures("quiet")

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
async def pair(programs: None) -> AsyncIterator[tuple[Server, Server]]:
    """A primary, and a standby without which it acknowledges nothing."""
    async with primary_and_standby(is_synchronous=True) as servers:
        yield servers


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


BEATS = """
    select count(*) = 2 from dbos_async.executors
    where lease_until > (select max(seen_at) + interval '5 seconds' from dbos_async.servers)
"""

OWNERS = "select id, owner, attempt, recoveries from dbos_async.workflows order by id"


async def test_w5_after_a_failover_that_outlasts_every_lease_nobody_has_lost_a_workflow(
    pair: tuple[Server, Server],
) -> None:
    primary, standby = pair
    url = url_of(host_of(primary), host_of(standby))
    processes = []
    try:
        for name in ("one", "two"):
            command = (sys.executable, "-m", "tests.support.programs.brief", url, name, "20")
            process = await asyncio.create_subprocess_exec(
                *command, cwd=Path(__file__).parent.parent.parent, stdout=subprocess.PIPE
            )
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
            processes.append(process)
        before = await primary.fetch(OWNERS)
        assert len({row["owner"] for row in before}) == 2
        expires = (await primary.fetch("select max(lease_until) from dbos_async.executors"))[0][0]
        await primary.kill()
        # The standby waits as long as it takes for every lease to be over, as a slow failover would.
        await eventually(lambda: standby.execute(f"select clock_timestamp() > '{expires}'"))
        await standby.promote()
        renewed = f"select count(*) = 2 from dbos_async.executors where lease_until > '{expires}'"
        await eventually(lambda: standby.execute(renewed))
        # Several more heartbeats, each of which looks for the dead.
        await eventually(lambda: standby.execute(BEATS))
        assert await standby.fetch(OWNERS) == before
        async with DBOSClient(url) as client:
            for row in before:
                await client.send(row["id"], "the end")
            for row in before:
                assert await (await client.retrieve_workflow(row["id"])).get_result() == "the end"
        assert brief.name == "brief"
    finally:
        for process in processes:
            process.kill()
            await process.wait()
