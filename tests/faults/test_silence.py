"""A network that goes silent, and a database of several hosts (D4)."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import urlsplit

import pytest

from dbos_async import DBOS, ConfigurationError, DatabaseUnavailableError, DBOSClient
from dbos_async._database.access import Access
from dbos_async._database.batches import Batches
from dbos_async._database.connections import Postgres
from dbos_async._database.wakeups import Wakeups
from tests.support.load import (
    SLOW,
    load,
    receive_and_record,
)
from tests.support.proxy import Proxy

pytestmark = pytest.mark.usefixtures("quiet")


async def test_d4_connections_that_went_dead_without_a_word_are_noticed_in_seconds(
    database_url: str, connection: Any
) -> None:
    # With the seconds as they are: 5 until somebody asks, and 5 for the answer.
    async with Proxy(database_url) as proxy, DBOS(proxy.url), DBOSClient(database_url) as client:
        listening = await DBOS.start_workflow(receive_and_record)
        others = await asyncio.gather(*(DBOS.start_workflow(receive_and_record) for _ in range(50)))
        proxy.freeze()
        await proxy.heal()
        began = time.monotonic()
        await client.send(listening.workflow_id, "end")
        await asyncio.gather(*(DBOS.send(other.workflow_id, "end") for other in others))
        assert await asyncio.gather(*(other.get_result() for other in (listening, *others))) == [[]] * 51
        assert time.monotonic() - began < 14
    assert await connection.fetchval("select count(*) from dbos_async.messages") == 51


@pytest.mark.usefixtures("quick")
async def test_d4_of_connections_that_went_dead_together_only_one_costs_time(database_url: str) -> None:
    async with Proxy(database_url) as proxy:
        postgres = Postgres(Access(proxy.url))
        batches = Batches(postgres, Wakeups())

        async def use() -> None:
            async with postgres.acquire() as connection:
                await connection.execute("select pg_sleep(0.2)")

        await asyncio.gather(*(use() for _ in range(8)))
        assert proxy.accepted == 8
        proxy.freeze()
        await proxy.heal()
        async with asyncio.timeout(5):
            await batches.call(SLOW, [(0.0,)], partition="")
        await batches.close()
        await postgres.close()


@pytest.mark.usefixtures("quick")
async def test_d4_a_slow_statement_is_not_taken_for_a_dead_one(database_url: str, connection: Any) -> None:
    async with Proxy(database_url) as proxy:
        postgres = Postgres(Access(proxy.url))
        batches = Batches(postgres, Wakeups())
        before = proxy.accepted
        await batches.call(SLOW, [(2.0,)], partition="")
        assert proxy.accepted - before >= 3, "it was asked about"
        assert batches.losses == 0
        await batches.close()
        await postgres.close()


@pytest.mark.usefixtures("quick")
async def test_d4_a_network_that_swallows_everything_for_a_while_is_outlasted(database_url: str) -> None:
    async with Proxy(database_url) as proxy, DBOS(proxy.url):

        async def trouble() -> None:
            await asyncio.sleep(0.1)
            proxy.freeze()
            await asyncio.sleep(2)
            await proxy.heal()

        await load(50, trouble)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fault", ["frozen", "refused"])
async def test_d4_shutting_down_without_the_database_is_quick_and_quiet(database_url: str, fault: str) -> None:
    async with Proxy(database_url) as proxy:
        client = DBOSClient(proxy.url)
        await client.__aenter__()
        dbos = DBOS(proxy.url, drain_seconds=1)
        await dbos.__aenter__()
        handles = await asyncio.gather(*(DBOS.start_workflow(receive_and_record) for _ in range(50)))
        await asyncio.gather(*(client.send(handle.workflow_id, 1) for handle in handles))
        proxy.freeze()
        if fault == "refused":
            proxy.refuse()
            proxy.cut()
        sending = [asyncio.ensure_future(client.send(handle.workflow_id, 2)) for handle in handles]
        await asyncio.sleep(0.7)
        began = time.monotonic()
        await client.__aexit__(None, None, None)
        await dbos.__aexit__(None, None, None)
        assert time.monotonic() - began < 15
        outcomes = await asyncio.gather(*sending, return_exceptions=True)
        assert {type(outcome).__name__ for outcome in outcomes} == {"LaunchError"}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("first", ["refuses", "swallows everything"])
async def test_d4_of_several_hosts_the_one_that_works_is_found(database_url: str, first: str) -> None:
    async with Proxy(database_url) as black_hole, Proxy(database_url) as proxy:
        black_hole.freeze()
        bad = "127.0.0.1:1" if first == "refuses" else black_hole.host
        url = proxy.url.replace(proxy.host, f"{bad},{proxy.host}")
        async with DBOS(url):
            await load(5, lambda: asyncio.sleep(0.1))
            seen = black_hole.accepted
            await load(5, lambda: asyncio.sleep(0.1))
            assert black_hole.accepted == seen, "the last good one is asked first"
        user, name = urlsplit(proxy.url).username or "", urlsplit(proxy.url).path
        hosts, ports = zip(*(host.split(":") for host in (bad, proxy.host)), strict=True)
        query = f"postgresql://{user}@{name}?host={','.join(hosts)}&port={','.join(ports)}"
        async with DBOSClient(query):
            pass


async def test_d4_one_of_several_hosts_may_be_an_ipv6_address(database_url: str) -> None:
    async with (
        Proxy(database_url) as proxy,
        DBOSClient(proxy.url.replace(proxy.host, f"[::1]:1,{proxy.host}")) as client,
    ):
        assert await client.list_workflows() == []


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@127.0.0.1:1,127.0.0.1:2/db",
        "postgresql://me:se,cret@127.0.0.1:1,127.0.0.1:2/db",
        "postgresql://me:se/cret@127.0.0.1:1,127.0.0.1:2/db",
        "postgresql://me:se@cret@127.0.0.1:1,127.0.0.1:2/db",
        "postgresql://me:se:cret@127.0.0.1:1,127.0.0.1:x/db",
        "postgresql://127.0.0.1:1,me:secret/db",
        "postgresql:///db?host=127.0.0.1,127.0.0.1&port=1,2&password=secret&user=me",
    ],
)
async def test_d5_a_url_of_several_hosts_is_explained_without_its_password(url: str) -> None:
    with pytest.raises((ConfigurationError, DatabaseUnavailableError)) as raised:
        async with DBOSClient(url, connect_timeout_seconds=0.2):
            pass
    assert "cret" not in str(raised.value)
    assert "cret" not in repr(raised.value)
