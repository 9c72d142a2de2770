"""A server that refuses, is read-only, restarts, or does not let us in any more (D4): it costs time, and never data."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from dbos_async import DBOS, ConfigurationError, DatabaseUnavailableError, DBOSClient, SetWorkflowID
from dbos_async._database.access import Access
from dbos_async._database.batches import Batches
from dbos_async._database.connections import Postgres
from dbos_async._database.wakeups import Wakeups
from tests.conftest import Connect
from tests.support.databases import with_database
from tests.support.eventually import eventually
from tests.support.load import (
    BLOCKED,
    OURS,
    SLOW,
    TERMINATE_ALL,
    guard,
    load,
    receive_and_record,
    refused,
    tell,
)
from tests.support.postgres import Server

pytestmark = pytest.mark.usefixtures("quiet")


CODES = {
    "25006": "read-only", "53100": "disk full", "53200": "out of memory", "53400": "a limit", "55P03": "lock timeout",
    "57014": "canceled", "58030": "input or output failed",
}  # fmt: skip


@pytest.mark.parametrize("code", CODES, ids=CODES.get)
async def test_d4_what_postgres_reports_as_impossible_now_is_waited_for(
    database_url: str, connection: Any, code: str
) -> None:
    await guard(connection, code)
    async with DBOS(database_url), DBOSClient(database_url, connect_timeout_seconds=0.5) as client:
        with SetWorkflowID("w"):
            handle = await DBOS.start_workflow(tell, "w")
        await DBOS.send("w", None, "go")
        with pytest.raises(DatabaseUnavailableError, match="refused on purpose.*nothing was committed") as raised:
            await client.send("w", "outside", "guarded")
        assert not raised.value.may_have_committed
        await eventually(lambda: refused(connection, 4))
        assert (await handle.get_status()).status == "PENDING"
        await connection.execute("drop trigger refuse on dbos_async.messages")
        assert await handle.get_result() == "told"
        await client.send("w", "again", "guarded")
    sent = "select array_agg(payload #>> '{}' order by seq) from dbos_async.messages where topic = 'guarded'"
    assert await connection.fetchval(sent) == ["told", "again"]


async def test_d4_a_database_that_is_read_only_for_a_while_is_waited_for(own_server: Server, own_url: str) -> None:
    async with DBOS(own_url), DBOSClient(own_url, connect_timeout_seconds=1.5) as client:
        with SetWorkflowID("w"):
            handle = await DBOS.start_workflow(tell, "w")
        reader = await asyncpg.connect(own_url)
        await reader.execute("alter system set default_transaction_read_only = on; ")
        await reader.execute("select pg_reload_conf()")
        await eventually(lambda: _is_on(reader, "default_transaction_read_only"))
        backends = {row["pid"] for row in await reader.fetch(f"select pid {OURS}")}
        with pytest.raises(DatabaseUnavailableError) as raised:
            await client.send("w", None, "go")
        assert not raised.value.may_have_committed, "the server said so"
        await own_server.execute("alter system reset default_transaction_read_only", "select pg_reload_conf()")
        await client.send("w", None, "go")
        assert await handle.get_result() == "told"
        assert {row["pid"] for row in await reader.fetch(f"select pid {OURS}")} - backends, "it has connected anew"
        assert await reader.fetchval("select count(*) from dbos_async.messages") == 2
        await reader.close()


async def test_d4_a_statement_timeout_and_a_cancel_are_outlasted(
    database_url: str, connection: Any, connect: Connect
) -> None:
    locker = await connect()
    name = urlsplit(database_url).path[1:]
    await connection.execute(f"alter database {name} set statement_timeout = '300ms'")
    async with DBOS(database_url), DBOSClient(database_url, connect_timeout_seconds=0.5) as client:
        with SetWorkflowID("w"):
            handle = await DBOS.start_workflow(tell, "w")
        await DBOS.send("w", None, "go")
        async with locker.transaction():
            await locker.execute("lock table dbos_async.messages in access exclusive mode")
            with pytest.raises(DatabaseUnavailableError, match="statement timeout.*nothing was committed"):
                await client.send("w", "outside")
        assert await handle.get_result() == "told"
        await connection.execute(f"alter database {name} reset statement_timeout")
        await connection.execute(TERMINATE_ALL)
        async with locker.transaction():
            await locker.execute("lock table dbos_async.messages in access exclusive mode")
            sending = asyncio.create_task(DBOS.send("w", "canceled"))
            await eventually(lambda: connection.fetchval(BLOCKED))
            assert await connection.fetchval(
                f"select bool_or(pg_cancel_backend(pid)) {OURS} and wait_event_type = 'Lock'"
            )
            await eventually(lambda: connection.fetchval(f"{BLOCKED} and query_start > now() - interval '50 ms'"))
        await sending
    assert await connection.fetchval("select count(*) from dbos_async.messages where topic = ''") == 1


async def test_d4_a_batch_that_is_too_slow_for_a_statement_timeout_is_split(database_url: str, connection: Any) -> None:
    await connection.execute(f"alter database {urlsplit(database_url).path[1:]} set statement_timeout = '200ms'")
    postgres = Postgres(Access(database_url))
    batches = Batches(postgres, Wakeups(), give_up_after_seconds=5)
    answers = await asyncio.gather(*(batches.call(SLOW, [(0.07,)], partition="") for _ in range(6)))
    assert len(answers) == 6
    await batches.close()
    await postgres.close()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_d4_a_restart_of_the_server_costs_time_and_nothing_else(
    own_server: Server, own_url: str, mode: str
) -> None:
    async def restart() -> None:
        for _ in range(2):
            await asyncio.sleep(0.2)
            await own_server.restart(mode)
            await asyncio.sleep(0.5)

    async with DBOS(own_url):
        await load(50, restart)


async def test_d4_a_password_or_name_that_was_right_once_may_be_right_again(own_server: Server, own_url: str) -> None:
    hba = own_server.data / "pg_hba.conf"
    before = hba.read_text()
    if not before.startswith("host all app"):
        hba.write_text(f"host all app 127.0.0.1/32 scram-sha-256\n{before}")
    name = urlsplit(own_url).path[1:]
    await own_server.execute(
        "drop role if exists app", "create role app superuser login password 'right'", "select pg_reload_conf()"
    )
    url = own_url.replace("postgres@", "app:right@")
    await eventually(lambda: _is_rejected(own_url.replace("postgres@", "app:wrung@")))
    with pytest.raises(ConfigurationError, match="password authentication failed") as wrong:
        async with DBOSClient(own_url.replace("postgres@", "app:wrung@")):
            pass
    assert "wrung" not in str(wrong.value)
    with pytest.raises(ConfigurationError, match="no_such_database"):
        async with DBOSClient(with_database(url, "no_such_database")):
            pass
    terminate = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'dbos_async'"
    async with DBOS(url), DBOSClient(url, connect_timeout_seconds=1.2) as client:
        handle = await DBOS.start_workflow(receive_and_record)
        for out, why, back in [
            (f"alter role app password '{uuid4()}'", "password authentication failed", "alter role app password 'right'"),
            (f"alter database {name} allow_connections false", "not currently accepting",
             f"alter database {name} allow_connections true"),
        ]:  # fmt: skip
            await own_server.execute(out, terminate)
            with pytest.raises(DatabaseUnavailableError, match=why) as raised:
                await client.send(handle.workflow_id, 0)
            assert "right" not in str(raised.value)
            await own_server.execute(back)
            await client.send(handle.workflow_id, 1)
        await client.send(handle.workflow_id, "end")
        assert [n for n in await handle.get_result() if n == 1] == [1, 1]


async def _is_rejected(url: str) -> bool:
    try:
        await (await asyncpg.connect(url)).close()
    except asyncpg.InvalidPasswordError:
        return True
    return False


async def _is_on(connection: Any, setting: str) -> bool:
    return bool(await connection.fetchval("select current_setting($1) = 'on'", setting))
