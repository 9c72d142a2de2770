"""Too few connections, and connections that end (D4)."""

from __future__ import annotations

import asyncio
import functools
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from dbos_async import DBOS, DatabaseUnavailableError, DBOSClient
from dbos_async._database.access import Access
from dbos_async._database.connections import Postgres
from tests.support.eventually import eventually
from tests.support.load import (
    TERMINATE_ALL,
    load,
    receive_and_record,
)

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.direct("the server refuses further connections: a pooler waits for one")
async def test_d4_with_too_few_connections_those_that_there_are_do_all(
    database_url: str, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    role, url = await limited_role(connection, database_url, 3)
    too_many = 0
    connect = asyncpg.connect

    async def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal too_many
        try:
            return await connect(*args, **kwargs)
        except asyncpg.TooManyConnectionsError:
            too_many += 1
            raise

    monkeypatch.setattr(asyncpg, "connect", counting)
    try:
        async with DBOS(url, migrate=False):
            await load(20, lambda: asyncio.sleep(0.5))
            assert too_many
            await connection.execute(f"alter role {role} connection limit 0")
            with pytest.raises(DatabaseUnavailableError, match="too many connections.*nothing was committed"):
                async with DBOSClient(url, connect_timeout_seconds=2):
                    pass
            await load(20, lambda: asyncio.sleep(0.2))
    finally:
        await connection.execute(f"drop owned by {role}")
        await connection.execute(f"drop role {role}")


@pytest.mark.direct("the server refuses further connections: a pooler waits for one")
async def test_a_connection_that_comes_back_is_for_whoever_waits_longest(database_url: str, connection: Any) -> None:
    role, url = await limited_role(connection, database_url, 1)
    postgres = Postgres(Access(url))
    turns: list[int] = []

    async def use(number: int) -> None:
        async with postgres.acquire() as only:
            await only.execute("select 1")
            turns.append(number)

    def has_waiters(count: int) -> bool:
        return len(postgres._waiters) == count

    async with asyncio.timeout(10), asyncio.TaskGroup() as group, postgres.acquire():
        for number in range(4):
            group.create_task(use(number))
            # The server has refused a second connection, and the task stands in the queue.
            await eventually(functools.partial(has_waiters, number + 1))
    assert turns == [0, 1, 2, 3], "in turn"
    await postgres.close()
    await connection.execute(f"drop owned by {role}")
    await connection.execute(f"drop role {role}")


@pytest.mark.direct("the server refuses further connections: a pooler waits for one")
async def test_d4_a_connection_on_its_way_to_who_waited_for_it_counts_as_one_that_will_come_back(
    database_url: str, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    role, url = await limited_role(connection, database_url, 1)
    postgres = Postgres(Access(url))
    connect = asyncpg.connect
    refused: list[asyncio.Future[None]] = []

    async def connecting(*args: Any, **kwargs: Any) -> Any:
        try:
            return await connect(*args, **kwargs)
        except asyncpg.TooManyConnectionsError:
            refused.append(asyncio.get_running_loop().create_future())
            await refused[-1]
            raise

    async def use() -> int:
        async with postgres.acquire() as only:
            backend: int = await only.fetchval("select pg_backend_pid()")
            return backend

    monkeypatch.setattr(asyncpg, "connect", connecting)
    async with asyncio.timeout(20):
        async with postgres.acquire() as only:
            backend = only.get_server_pid()
            first, second = asyncio.create_task(use()), asyncio.create_task(use())
            await eventually(lambda: len(refused) == 2)
            refused[0].set_result(None)
            await asyncio.sleep(0)  # The first waits for the connection now …
        refused[1].set_result(
            None
        )  # … and has been given it, but not yet gone on, when the second hears that there is no other.
        assert [await first, await second] == [backend, backend]
    await postgres.close()
    await connection.execute(f"drop owned by {role}")
    await connection.execute(f"drop role {role}")


@pytest.mark.parametrize(
    ("statement", "stays"),
    [
        ("select 1 / 0", True),
        ("do $$ begin raise exception 'full' using errcode = '53100'; end $$", True),
        ("set statement_timeout = 1; select pg_sleep(1)", True),
        ("begin read only; create table t ()", False),
        ("select pg_terminate_backend(pg_backend_pid())", False),
    ],
)
async def test_d4_a_connection_is_used_again_if_its_error_leaves_it_usable(
    database_url: str, statement: str, stays: bool
) -> None:
    postgres = Postgres(Access(database_url))
    backend = 0
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        async with postgres.acquire() as used:
            backend = used.get_server_pid()
            await used.execute(statement)
    async with postgres.acquire() as next_one:
        assert (next_one.get_server_pid() == backend) == stays
    await postgres.close()


@pytest.mark.direct("the server refuses further connections: a pooler waits for one")
async def test_d4_a_process_without_any_connection_waits_for_one(database_url: str, connection: Any) -> None:
    role, url = await limited_role(connection, database_url, 4)
    try:
        async with DBOS(url, migrate=False):
            handle = await DBOS.start_workflow(receive_and_record)
            await connection.execute(f"alter role {role} connection limit 0")

            async def has_none() -> bool:
                await connection.execute(TERMINATE_ALL)
                return not await connection.fetchval("select count(*) from pg_stat_activity where usename = $1", role)

            await eventually(has_none, "also those that were just being made are gone")
            sending = asyncio.create_task(DBOS.send(handle.workflow_id, "end"))
            await asyncio.sleep(0.3)
            assert not sending.done()
            await connection.execute(f"alter role {role} connection limit 4")
            await sending
            assert await handle.get_result() == []
    finally:
        await connection.execute(f"drop owned by {role}")
        await connection.execute(f"drop role {role}")


async def limited_role(connection: Any, url: str, limit: int) -> tuple[str, str]:
    """A role that may have only so many connections, and the URL for it."""
    role = f"role_{uuid4().hex[:12]}"
    await connection.execute(
        f"create role {role} login password 'secret' connection limit {limit}; "
        f"grant usage on schema dbos_async to {role}; grant all on all tables in schema dbos_async to {role}; "
        f"grant all on all sequences in schema dbos_async to {role}"
    )
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return role, urlunsplit(parts._replace(netloc=f"{role}:secret@{host}"))


async def test_d4_terminated_connections_cost_time_and_nothing_else(database_url: str, connection: Any) -> None:
    terminated = 0

    async def terminate() -> None:
        nonlocal terminated
        for _ in range(15):
            terminated += await connection.fetchval(TERMINATE_ALL)
            await asyncio.sleep(0.07)

    async with DBOS(database_url):
        await load(50, terminate)
    assert terminated >= 30
