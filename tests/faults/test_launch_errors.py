"""What no waiting can help ends a launch at once, with a sentence that says what to change (D5); the rest is waited for (D4)."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from dbos_async import DBOS, ConfigurationError, DatabaseUnavailableError, DBOSClient
from tests.support.databases import new_database
from tests.support.load import load
from tests.support.postgres import SMALL, Server, free_port
from tests.support.proxy import Proxy

pytestmark = pytest.mark.usefixtures("quiet")

HBA = b"""
local all all trust
host all till 127.0.0.1/32 scram-sha-256
host all nobody 127.0.0.1/32 trust
host all postgres 127.0.0.1/32 trust
"""


@pytest.fixture(scope="module")
def strict_server(programs: None) -> Iterator[Server]:
    """A server that lets in the users postgres and till, the latter with a password and not into the database postgres."""
    server = Server(*SMALL, tcp=True)

    async def create() -> None:
        await server.create()
        server.write("pg_hba.conf", HBA)
        reload = "select pg_reload_conf()"
        await server.execute(reload, "create role till login password 'till'", "create role stranger login")
        await server.execute("revoke connect on database postgres from public")

    try:
        asyncio.run(create())
        yield server
    finally:
        asyncio.run(server.remove())


async def refusal(*made: DBOS | DBOSClient) -> str:
    """The one sentence with which all of these end, at once."""
    sentences = set()
    for each in made:
        began = time.monotonic()
        with pytest.raises(ConfigurationError) as raised:
            async with each:
                pass
        assert time.monotonic() - began < 8, "nothing was waited for"
        assert raised.value.__suppress_context__ or raised.value.__context__ is None
        sentences.add(str(raised.value))
    (sentence,) = sentences
    return sentence


WHO: dict[str, tuple[str, str]] = {
    "till:hunter2@{}/postgres": (
        'password authentication failed for user "till"',
        "check the user and the password",
    ),
    "till:till@{}/postgres": (
        'permission denied for database "postgres"',
        "grant the role this right, or connect as another role",
    ),
    "nobody@{}/postgres": (
        'role "nobody" does not exist',
        "check the user of the URL",
    ),
    "postgres@{}/nothing": (
        'database "nothing" does not exist',
        "create the database, or name another one in the URL",
    ),
    "stranger@{}/postgres": (
        'no pg_hba.conf entry for host "127.0.0.1", user "stranger", database "postgres", no encryption',
        "add sslmode=require to the URL, or a line to pg_hba.conf that lets this user connect from here without TLS",
    ),
}


@pytest.mark.parametrize("who", WHO)
async def test_d5_who_may_not_connect_hears_why_at_once(strict_server: Server, who: str) -> None:
    url = f"postgresql://{who.format(urlsplit(strict_server.url).netloc.rpartition('@')[2])}"
    shown = url.replace(":hunter2", "").replace(":till", "")
    reason, remedy = WHO[who]
    sentence = await refusal(DBOS(url), DBOSClient(url), DBOS(strict_server.url, listen_url=url))
    assert sentence == f"{shown} cannot be used: {reason}: {remedy}."


async def test_d5_a_listen_url_of_another_database_is_refused_at_once(database_url: str, own_url: str) -> None:
    async with new_database(database_url, f"other_{uuid4().hex[:8]}") as other:
        for listen_url in (other, own_url):
            made = (
                DBOS(database_url, listen_url=listen_url),
                DBOSClient(database_url, listen_url=listen_url, migrate=True),
            )
            sentence = await refusal(*made)
            assert "is of another database than postgresql://" in sentence
            assert sentence.endswith("let both name the same one, and listen_url the way to it without a pooler.")
    async with (
        DBOS(database_url, listen_url=f" {database_url}\n", max_connections=1),
        DBOSClient(database_url, listen_url=database_url, max_connections=1),
    ):
        await load(3, lambda: asyncio.sleep(0.1))


@pytest.mark.parametrize("error", [socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_AGAIN])
async def test_d5_an_unknown_host_is_reported_and_a_resolver_that_is_away_is_waited_for(
    database_url: str, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    async def getaddrinfo(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(error, "said the resolver")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    url = "postgresql://app:hunter2@nowhere.example/shop"
    if error == socket.EAI_AGAIN:
        with pytest.raises(DatabaseUnavailableError, match="said the resolver"):
            async with DBOSClient(url, connect_timeout_seconds=0.5):
                pass
        return
    reason = "its host is not known (said the resolver): check the name in the URL."
    assert (
        await refusal(DBOS(url), DBOSClient(url)) == f"postgresql://app@nowhere.example/shop cannot be used: {reason}"
    )
    both = url.replace("nowhere.example", "nowhere.example,127.0.0.1:1")
    with pytest.raises(DatabaseUnavailableError):  # the other one may come
        async with DBOSClient(both, connect_timeout_seconds=0.5):
            pass


async def test_d4_what_an_address_says_is_not_the_reason_why_its_name_cannot_be_reached(
    database_url: str, strict_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proxies of several tenants need the name, by TLS."""
    resolve, port = socket.getaddrinfo, free_port()

    def resolved(host: Any, *args: Any, **options: Any) -> Any:
        names = ["127.0.0.1", "127.0.0.2"] if host == "db.test" else [host]
        return [found for name in names for found in resolve(name, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    async with (
        Proxy(database_url, address="127.0.0.1", port=port) as silent,
        Proxy(strict_server.url, address="127.0.0.2", port=port) as other,
    ):
        silent.freeze()
        with pytest.raises(DatabaseUnavailableError, match="no connection within"):
            async with DBOSClient(f"postgresql://stranger@db.test:{port}/postgres", connect_timeout_seconds=0.5):
                pass
        assert other.accepted, "it was asked, and has refused the user"


async def test_d5_a_standby_alone_is_refused_at_once(programs: None) -> None:
    async with Server(*SMALL, tcp=True) as primary:
        standby = Server(*SMALL, tcp=True)
        try:
            await standby.copy(primary, "s")
            assert await refusal(DBOS(standby.url), DBOSClient(standby.url)) == (
                f"{standby.url} cannot be used: it is a standby, or takes no writes (default_transaction_read_only): "
                "name the primary, or all hosts of which one takes writes."
            )
            hosts = [urlsplit(server.url).netloc.rpartition("@")[2] for server in (standby, primary)]
            several = f"postgresql://postgres@{','.join(hosts)}/postgres"
            async with DBOS(several):
                pass
            await primary.stop("fast")
            with pytest.raises(DatabaseUnavailableError, match="of the hosts match"):
                async with DBOSClient(several, connect_timeout_seconds=1):  # one of them may be promoted
                    pass
        finally:
            await standby.remove()


async def test_d4_a_server_that_is_not_there_yet_is_waited_for(own_server: Server, own_url: str) -> None:
    await own_server.stop("fast")

    async def launch() -> None:
        async with DBOS(own_url, listen_url=own_url), DBOSClient(own_url):
            assert await DBOS.list_workflows() == []

    launching = asyncio.create_task(launch())
    done, _ = await asyncio.wait([launching], timeout=1)
    assert not done
    await own_server.start()
    await launching


@pytest.mark.parametrize("most", [1, 2])
async def test_w7_one_connection_for_statements_is_enough(database_url: str, connection: Any, most: int) -> None:
    async with DBOS(database_url, max_connections=most), DBOSClient(database_url, max_connections=most) as client:
        await load(20, lambda: asyncio.sleep(0.5))
        names = await asyncio.gather(*(see_name(n) for n in range(5)), client.list_workflows())
        assert names[:5] == [0, 1, 2, 3, 4]
        used = await connection.fetchval(
            "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'dbos_async'"
        )
        assert used <= most + 2 + most + 1, (
            "statements, listener and lease of DBOS; statements and listener of the client"
        )


@DBOS.transaction(name="see a number")
async def see_name(connection: Any, n: int) -> int:
    return int(await connection.fetchval("select $1::int", n))
