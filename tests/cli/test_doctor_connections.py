"""The doctor and the way to the database: poolers, servers that hang or are away, wrong passwords and names."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import quote, urlsplit

import asyncpg
import pytest

from dbos_async import DBOS
from dbos_async._database.connection_kinds import SETTINGS
from dbos_async._operations.doctor import connecting, examine, session
from dbos_async.errors import InvalidArgumentError
from tests.support.databases import execute, with_database
from tests.support.eventually import eventually
from tests.support.examined import PASSWORD, found_by, needs_programs, told
from tests.support.pgbouncer import needs_pgbouncer, pgbouncer
from tests.support.postgres import Server, free_port
from tests.support.proxy import Proxy

IGNORED = ",".join(name for name in SETTINGS if name != "application_name")


@needs_pgbouncer
@pytest.mark.parametrize("size", [1, 20])
async def test_a_pooler_in_transaction_mode(database_url: str, size: int) -> None:
    async with pgbouncer(database_url, pool_mode="transaction", default_pool_size=str(size)) as url:
        findings = await examine(url)
    said = {finding.check: finding for finding in findings}
    assert said["pooler"].level == "warning", told(findings)
    assert "A pooler in transaction mode is in between" in said["pooler"].says
    for way in ("listen_url=", "listen=False", "pool_mode = session"):
        assert way in str(said["pooler"].advice)
    assert "LISTEN was not tried" in said["listen"].says
    assert said["schema"].level == said["sequences"].level == "ok", "the other checks work through it"


@needs_pgbouncer
async def test_a_pooler_in_statement_mode(database_url: str) -> None:
    async with pgbouncer(database_url, pool_mode="statement") as url:
        findings = await examine(url)
    (found,) = [finding for finding in findings if finding.level == "problem"]
    assert "a pooler in statement mode" in found.says, told(findings)
    assert "pool_mode = session" in str(found.advice)


@needs_pgbouncer
@pytest.mark.parametrize("ignored", ["jit", IGNORED], ids=["refuses settings", "drops settings"])
async def test_a_pooler_in_session_mode(database_url: str, ignored: str) -> None:
    async with pgbouncer(database_url, pool_mode="session", ignore_startup_parameters=ignored) as url:
        findings = await examine(url)
        async with DBOS(url, executor_id="pooled"):
            assert (await DBOS.health()).ok
    said = {finding.check: finding for finding in findings}
    assert "A pooler is in between" in said["pooler"].says
    assert said["pooler"].level == said["listen"].level == "ok", told(findings)
    assert said["session settings"].level == "ok"
    assert "dbos_async sets them afterwards" in said["session settings"].says


async def test_a_server_that_takes_connections_and_says_nothing(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "CONNECT_WITHIN_SECONDS", 0.5)
    async with Proxy(database_url) as proxy:
        proxy.freeze()
        began = time.monotonic()
        (found,) = await examine(proxy.url)
    assert time.monotonic() - began < 5
    assert (found.check, found.level) == ("connection", "problem")
    assert f"{proxy.url} cannot be used: no connection within 0.5 seconds." in found.says
    assert "does not answer" in str(found.advice)


@pytest.mark.parametrize("marker", [b"pg_stat_replication", b"pg_stat_all_tables", b"notify", b"listen"])
async def test_a_server_that_falls_silent_in_the_middle(
    database_url: str, monkeypatch: pytest.MonkeyPatch, marker: bytes
) -> None:
    monkeypatch.setattr(session, "CONNECT_WITHIN_SECONDS", 0.5)
    monkeypatch.setattr(session, "ANSWER_WITHIN_SECONDS", 0.5)
    monkeypatch.setattr(connecting, "ANSWER_WITHIN_SECONDS", 0.5)
    monkeypatch.setattr(connecting, "LISTEN_WITHIN_SECONDS", 0.5)
    before = asyncio.all_tasks()
    async with Proxy(database_url) as proxy:
        proxy.mute(marker)
        began = time.monotonic()
        findings = await examine(proxy.url)
        assert time.monotonic() - began < 30
    assert [finding for finding in findings if finding.level != "ok"], told(findings)
    assert findings[-1].check == "sequences", "the checks after it go on over a new connection"
    left = {task for task in asyncio.all_tasks() - before if "Proxy" not in repr(task)}
    assert left == set(), "nothing is left behind"


async def test_a_server_that_goes_away_in_the_middle(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "CONNECT_WITHIN_SECONDS", 0.5)
    monkeypatch.setattr(session, "ANSWER_WITHIN_SECONDS", 0.5)
    async with Proxy(database_url) as proxy:
        examination = asyncio.create_task(examine(proxy.url))
        await eventually(lambda: proxy.accepted >= 3, "it has connected, and looks for a pooler")
        proxy.refuse()
        proxy.cut()
        findings = await asyncio.wait_for(examination, 20)
    last = findings[-1]
    assert (last.check, last.level) == ("connection", "problem"), told(findings)
    assert "checks were left out (" in last.says


async def test_notifications_that_do_not_arrive(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "ANSWER_WITHIN_SECONDS", 0.5)
    async with Proxy(database_url) as proxy:
        proxy.mute(b"LISTEN")
        (found,) = await found_by(proxy.url, "listen")
    assert found.level == "problem"
    assert "LISTEN and NOTIFY do not work here" in found.says
    assert "pooler in session mode" in str(found.advice)


@pytest.mark.parametrize(
    ("limit", "check", "advice"),
    [
        ("SLOW_ROUND_TRIP_SECONDS", "connection", "run the executors near the database"),
        ("SLOW_CONNECT_SECONDS", "connection", "the resolution of its name"),
        ("SLOW_NOTIFICATION_SECONDS", "listen", "look at the load of the server"),
    ],
)
async def test_what_is_slow(
    database_url: str, monkeypatch: pytest.MonkeyPatch, limit: str, check: str, advice: str
) -> None:
    monkeypatch.setattr(connecting, limit, 0.0)
    (found,) = await found_by(database_url, check)
    assert (found.level, advice in str(found.advice)) == ("warning", True), told([found])


async def test_a_server_that_is_not_there() -> None:
    port = free_port()
    (found,) = await examine(f"postgresql://app:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/shop")
    assert (found.check, found.level) == ("connection", "problem")
    assert f"postgresql://app@127.0.0.1:{port}/shop cannot be used" in found.says
    assert "listen_addresses" in str(found.advice)
    assert "its" not in found.says


async def test_a_host_that_nobody_knows() -> None:
    (found,) = await examine("postgresql://app@no-such-host.invalid/shop")
    assert (found.check, found.level) == ("connection", "problem")


async def test_a_wrong_database_name(server_url: str) -> None:
    (found,) = await examine(with_database(server_url, "not_there"))
    assert 'database "not_there" does not exist' in found.says
    assert "create database" in str(found.advice)


@needs_programs
async def test_wrong_passwords_and_full_servers(postgres: None) -> None:
    async with Server("fsync=off", "max_connections=8", "superuser_reserved_connections=3", tcp=True) as server:
        await server.execute(f"create role app login password '{PASSWORD}'")
        (server.data / "pg_hba.conf").write_text("host all postgres all trust\nhost all app all scram-sha-256\n")
        await server.execute("select pg_reload_conf()")
        host = urlsplit(server.url).netloc.rpartition("@")[2]
        (wrong,) = await examine(f"postgresql://app:wr0ng@{host}/postgres")
        right = await examine(f"postgresql://app:{quote(PASSWORD, safe='')}@{host}/postgres")
        (unknown,) = await examine(f"postgresql://somebody@{host}/postgres")
        taken = [
            await asyncpg.connect(f"postgresql://app:{quote(PASSWORD, safe='')}@{host}/postgres") for _ in range(5)
        ]
        (full,) = await examine(f"postgresql://app:{quote(PASSWORD, safe='')}@{host}/postgres")
        await taken.pop().close()
        await eventually(lambda: _counts(server, 4), "its place is free")
        last = await examine(f"postgresql://app:{quote(PASSWORD, safe='')}@{host}/postgres")
        await asyncio.gather(*[each.close() for each in taken])
        (badly_written,) = await examine(f"postgresql://app:{PASSWORD}@{host}/postgres")
    assert 'password authentication failed for user "app"' in wrong.says
    assert "Check the user and the password" in str(wrong.advice)
    assert "pg_hba.conf" in str(unknown.advice)
    assert "remaining connection slots are reserved" in full.says
    assert "each executor needs ten" in str(full.advice)
    said = {finding.check: finding for finding in last}
    assert (said["connections"].level, "0 are left" in said["connections"].says) == ("problem", True)
    assert "This could not be looked at: remaining connection slots" in said["listen"].says
    assert "each executor needs ten" in str(said["pooler"].advice)
    assert {finding.check for finding in right} >= {"connection", "schema"}
    assert "its" not in told([badly_written]).replace("writes", "")
    assert "wr0ng" not in told([wrong])
    assert "p@ss" not in told([*right, badly_written])


async def _counts(server: Server, count: int) -> bool:
    return int(await server.execute("select count(*) from pg_stat_activity where usename = 'app'")) == count


async def test_a_server_without_tls(database_url: str) -> None:
    async with Proxy(database_url) as proxy:
        (found,) = await examine(f"{proxy.url}?sslmode=require")
    assert "Check sslmode" in str(found.advice), found.says


async def test_a_time_limit_so_short_that_nothing_works(database_url: str) -> None:
    await execute(database_url, f"alter database {urlsplit(database_url).path[1:]} set statement_timeout = '1ms'")
    findings = await examine(database_url)
    assert "statement_timeout" in told([finding for finding in findings if finding.level != "ok"])


async def test_one_of_several_hosts_is_away(database_url: str) -> None:
    async with Proxy(database_url) as proxy:
        away = free_port()
        findings = await examine(proxy.url.replace(proxy.host, f"127.0.0.1:{away},{proxy.host}"))
    (found,) = [each for each in findings if each.level == "warning" and each.check == "connection"]
    assert f"The host 127.0.0.1:{away} of the URL cannot be used" in found.says
    assert findings[-1].check == "sequences"


@pytest.mark.parametrize(
    "url", ["", "postgresql://h:70000/x", "nonsense", "mysql://root@h/x", "postgresql://[::1/x", "\0"]
)
async def test_a_url_that_is_none_is_a_finding(url: str) -> None:
    (found,) = await examine(url)
    assert (found.check, found.level) == ("connection", "problem")


async def test_a_url_must_be_a_text() -> None:
    with pytest.raises(InvalidArgumentError, match="must be a str"):
        await examine(17)  # type: ignore[arg-type]  # what this is about
