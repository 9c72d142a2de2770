"""``PG…`` variables, ``.pgpass`` and services stand for what a URL leaves out, wherever connections are made."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from typer.testing import CliRunner

from dbos_async import DBOS, DBOSClient
from dbos_async._operations.doctor import examine
from dbos_async.cli import app
from tests.support.load import load
from tests.support.postgres import SMALL, Server

pytestmark = pytest.mark.usefixtures("quiet")

HBA = b"local all all trust\nhost all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"


@pytest.fixture(scope="module")
def asking_server(programs: None) -> Iterator[Server]:
    """A server that asks the user ``till`` for a password, and has the database ``shop``."""
    server = Server(*SMALL, tcp=True)

    async def create() -> None:
        await server.create()
        server.write("pg_hba.conf", HBA)
        reload = "select pg_reload_conf()"
        await server.execute(
            reload, "create role till login superuser password 'p:w'", "create database shop owner till"
        )

    try:
        asyncio.run(create())
        yield server
    finally:
        asyncio.run(server.remove())


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [each for each in os.environ if each.startswith("PG") or each == "DBOS_DATABASE_URL"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@DBOS.transaction(name="where am I")
async def where(connection: Any) -> tuple[str, str]:
    row = await connection.fetchrow("select current_user, current_database()")
    return row[0], row[1]


async def _works(url: str) -> None:
    """Everything that opens connections reaches the database ``shop`` as ``till``."""
    async with DBOS(url, listen_url=url), DBOSClient(url) as client:
        assert tuple(await where()) == ("till", "shop")
        await load(3, lambda: asyncio.sleep(0.1))
        assert len(await client.list_workflows()) >= 3
        assert (await DBOS.health()).ok
    for command in (["migrate", "--check"], ["workflows", "list"]):
        done = await asyncio.to_thread(CliRunner().invoke, app, command, env={"DBOS_DATABASE_URL": url})
        assert done.exit_code == 0, done.output
    found = [finding.says for finding in await examine(url) if (finding.check, finding.level) == ("connection", "ok")]
    assert len(found) == 1, "it says so of each host that is not there, too"
    assert "as till takes" in found[0]


@pytest.mark.parametrize("url", ["postgresql://", "postgresql:", "postgres:///", "dbname=shop", "user=till"])
async def test_the_variables_of_libpq(asking_server: Server, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name, value in {
        "PGHOST": "127.0.0.1", "PGPORT": str(asking_server.port), "PGUSER": "till", "PGPASSWORD": "p:w", "PGDATABASE": "shop",
        "PGSSLMODE": "prefer", "PGCONNECT_TIMEOUT": "8", "PGAPPNAME": "x", "PGOPTIONS": "-c work_mem=8MB",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    await _works(url)


async def test_several_hosts_in_the_environment(asking_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "127.0.0.1,127.0.0.1")
    monkeypatch.setenv("PGPORT", f"1,{asking_server.port}")
    monkeypatch.setenv("PGPASSWORD", "p:w")
    await _works("postgresql://till@/shop")


@pytest.mark.parametrize("place", ["home", "PGPASSFILE", "passfile"])
async def test_a_file_of_passwords(
    asking_server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    path = tmp_path / (".pgpass" if place == "home" else "passwords")
    path.write_text(f"# ours\nelsewhere:*:*:*:wrong\n127.0.0.1:{asking_server.port}:shop:till:p:w\n")
    path.chmod(0o600)
    if place == "PGPASSFILE":
        monkeypatch.setenv("PGPASSFILE", str(path))
    query = f"?passfile={path}" if place == "passfile" else ""
    await _works(f"postgresql://till@127.0.0.1:{asking_server.port}/shop{query}")


@pytest.mark.skipif("service" not in inspect.signature(asyncpg.connect).parameters, reason="needs a newer asyncpg")
@pytest.mark.parametrize("place", ["URL", "environment"])
async def test_a_service(asking_server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str) -> None:
    services = tmp_path / "services.conf"
    services.write_text(
        f"[till]\nhost=127.0.0.1\nport={asking_server.port}\nuser=till\npassword=p:w\ndbname=shop\nsslmode=prefer\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    if place == "environment":
        monkeypatch.setenv("PGSERVICE", "till")
    await _works("postgresql://" + ("?service=till" if place == "URL" else ""))
