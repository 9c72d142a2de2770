"""Several servers under one URL, in any order, by several addresses of one name; and a standby that had not everything (D4)."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dbos_async import DBOS, DBOSClient, SetWorkflowID
from tests.support.eventually import eventually
from tests.support.postgres import Server, free_port
from tests.support.proxy import Proxy
from tests.support.standbys import caught_up, host_of, primary_and_standby, url_of

pytestmark = pytest.mark.usefixtures("quiet")


@DBOS.workflow(name="gathers over a failover")
async def gather() -> list[int]:
    """Everything that it is sent, in order."""
    got: list[int] = []
    while (n := await DBOS.recv(None, None)) != "end":
        got.append(n)
    return got


@pytest.fixture
async def synchronous(programs: None) -> AsyncIterator[tuple[Server, Server]]:
    """A primary, and a standby without which it acknowledges nothing."""
    async with primary_and_standby(is_synchronous=True) as servers:
        yield servers


async def test_d4_hosts_in_any_order_and_after_a_promotion_the_other_one(synchronous: tuple[Server, Server]) -> None:
    """One of them is dead. The connections that listen have the hosts in an order of their own."""
    primary, standby = synchronous
    hosts = [f"127.0.0.1:{free_port()}", host_of(primary), host_of(standby)]
    orders = [url_of(*order) for order in itertools.permutations(hosts)]
    async with DBOS(primary.url):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(gather)
    for n, (url, listen_url) in enumerate(zip(orders, reversed(orders), strict=True)):
        async with DBOSClient(url, listen_url=listen_url) as client:
            await client.send("w", n)
    async with DBOS(orders[0], listen_url=orders[-1]), DBOSClient(orders[-1], listen_url=orders[2]) as client:
        result = asyncio.create_task((await client.retrieve_workflow("w")).get_result())
        await client.send("w", 6)
        await primary.kill()
        await standby.promote()
        await client.send("w", 7)
        for n, url in enumerate(orders, 8):
            async with DBOSClient(url) as other:
                await other.send("w", n)
        await client.send("w", "end")
        assert await asyncio.wait_for(result, 20) == list(range(14))


@pytest.mark.parametrize("order", [("127.0.0.1", "127.0.0.2"), ("127.0.0.2", "127.0.0.1")])
async def test_d4_a_name_with_the_addresses_of_a_standby_and_of_the_primary(
    synchronous: tuple[Server, Server], order: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a record of DNS has them, in any order."""
    primary, standby = synchronous
    resolve, port = socket.getaddrinfo, free_port()

    def resolved(host: Any, *args: Any, **kwargs: Any) -> Any:
        names = order if host == "db.test" else (host,)
        return [found for name in names for found in resolve(name, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    url = url_of(f"db.test:{port}")
    async with (
        Proxy(primary.url, address="127.0.0.1", port=port),
        Proxy(standby.url, address="127.0.0.2", port=port),
        DBOS(url),
        DBOSClient(url, listen_url=url) as client,
    ):
        handle = await DBOS.start_workflow(gather)
        await client.send(handle.workflow_id, 1)
        await primary.kill()
        await standby.promote()
        await client.send(handle.workflow_id, 2)
        await client.send(handle.workflow_id, "end")
        assert await asyncio.wait_for(handle.get_result(), 20) == [1, 2]


async def test_d4_what_an_asynchronous_standby_had_not_is_lost_and_nothing_hangs(programs: None) -> None:
    """Clients go on, workflows go on, and of what they were sent only what Postgres lost is missing."""
    async with primary_and_standby(is_synchronous=False) as (primary, standby):
        url = url_of(host_of(primary), host_of(standby))
        sent: dict[str, list[int]] = {}
        is_over = False

        async def keep_sending(client: DBOSClient, workflow_id: str) -> None:
            for n in itertools.count():
                if is_over:
                    return
                await client.send(workflow_id, n)
                sent[workflow_id].append(n)
                await asyncio.sleep(0.002)

        async with DBOS(url), DBOSClient(url) as client:
            handles = await asyncio.gather(*(DBOS.start_workflow(gather) for _ in range(20)))
            sent = {handle.workflow_id: [] for handle in handles}
            senders = [asyncio.create_task(keep_sending(client, workflow_id)) for workflow_id in sent]
            await eventually(lambda: min(map(len, sent.values())) > 20)
            before = {workflow_id: len(ns) for workflow_id, ns in sent.items()}
            await caught_up(primary, standby)
            await standby.execute("select pg_wal_replay_pause()")
            await primary.execute("select pg_terminate_backend(pid) from pg_stat_replication")
            await eventually(lambda: all(len(ns) > before[workflow_id] + 20 for workflow_id, ns in sent.items()))
            await primary.kill()
            await standby.execute("select pg_wal_replay_resume()")
            await standby.promote()
            at_promotion = {workflow_id: len(ns) for workflow_id, ns in sent.items()}
            await eventually(lambda: all(len(ns) > at_promotion[workflow_id] + 20 for workflow_id, ns in sent.items()))
            is_over = True
            await asyncio.gather(*senders)
            for workflow_id in sent:
                await client.send(workflow_id, "end")
            results = {handle.workflow_id: await asyncio.wait_for(handle.get_result(), 30) for handle in handles}
        for workflow_id, ns in sent.items():
            rows = await standby.fetch(
                "select payload #>> '{}' as n from dbos_async.messages "
                f"where destination_id = '{workflow_id}' and payload #>> '{{}}' <> 'end' order by seq"
            )
            stored = [int(row["n"]) for row in rows]
            assert stored == sorted(set(stored)), "in the order of sending"
            assert set(ns[: before[workflow_id]]) <= set(stored), "what the standby had"
            assert set(ns[at_promotion[workflow_id] + 1 :]) <= set(stored), "what came after the promotion"
            assert results[workflow_id] == stored, "the run has begun anew from what is stored"
