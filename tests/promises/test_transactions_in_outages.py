"""T1 and D4: transactions that lose their connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from dbos_async import DBOS, DatabaseUnavailableError, SetWorkflowID
from dbos_async._transactions.recording import TransactionStep
from tests.support.proxy import Proxy
from tests.support.transactions import SESSIONS, Kind, engine_of, replay, say, written


@pytest.fixture
async def proxied(database_url: str, connection: Any, request: pytest.FixtureRequest) -> AsyncIterator[Proxy]:
    await connection.execute("create table notes (what text)")
    async with Proxy(database_url) as proxy:
        engine = engine_of(proxy.url)
        SESSIONS.configure(bind=engine)
        yield proxy
        await engine.dispose()


@pytest.mark.parametrize("name", ["asyncpg", "sqlalchemy"])
@pytest.mark.parametrize(
    "moment", ["in the body", "swallowed", "before the record", "before the commit", "in the commit"]
)
async def test_t1_d4_a_lost_connection_costs_time_and_writes_once(
    proxied: Proxy, connection: Any, name: str, moment: str
) -> None:
    kind, bodies = Kind(name), []
    record = TransactionStep.record_inside

    @kind.transaction(name="t1 loses")
    async def write(target: Any) -> int:
        bodies.append(1)
        await say(target, "insert into notes values ('once')")
        if len(bodies) == 1 and moment in ("in the body", "swallowed"):
            proxied.cut()
            with contextlib.suppress(Exception if moment == "swallowed" else LookupError):
                await say(target, "select 1")
        return len(bodies)

    @DBOS.workflow(name="t1 loses")
    async def workflow() -> int:
        return int(await write())

    async def cut_around(step: TransactionStep, target: Any, output: str) -> str:
        if len(bodies) == 1 and moment == "before the record":
            proxied.cut()
        outcome = await record(step, target, output)
        if len(bodies) == 1 and moment == "before the commit":
            proxied.cut()
        if len(bodies) == 1 and moment == "in the commit":
            proxied.mute(b"COMMIT")
            asyncio.get_running_loop().call_later(0.3, proxied.cut)
            asyncio.get_running_loop().call_later(0.3, proxied.mute, b"never")
        return outcome

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionStep, "record_inside", cut_around)
        async with DBOS(proxied.url):
            with SetWorkflowID("w"):
                found = await workflow()
            assert await replay(connection, "w") == found
    assert await written(connection) == ["once"]
    # A commit that was not answered is found, and its body does not run again.
    assert (found, len(bodies)) == ((1, 1) if moment == "in the commit" else (2, 2))


@pytest.mark.parametrize("name", ["asyncpg", "sqlalchemy"])
async def test_t1_d4_outside_of_workflows_a_lost_commit_says_that_it_may_have_happened(
    proxied: Proxy, connection: Any, name: str
) -> None:
    @Kind(name).transaction(name="t1 loses outside")
    async def write(target: Any) -> None:
        await say(target, "insert into notes values ('maybe')")
        proxied.mute(b"COMMIT")
        asyncio.get_running_loop().call_later(0.3, proxied.cut)

    async with DBOS(proxied.url):
        with pytest.raises(DatabaseUnavailableError) as raised:
            await write()
        await proxied.heal()
    assert raised.value.may_have_committed
    assert await written(connection) == ["maybe"]


async def test_t1_d4_outside_of_workflows_it_gives_up_in_time(proxied: Proxy, connection: Any) -> None:
    @DBOS.transaction(name="t1 gives up outside")
    async def write(target: asyncpg.Connection[Any]) -> None:
        await target.execute("insert into notes values ('never')")

    async with DBOS(proxied.url, connect_timeout_seconds=1):
        proxied.refuse()
        proxied.cut()
        with pytest.raises(DatabaseUnavailableError) as raised:
            await write()
        assert not raised.value.may_have_committed
        await proxied.heal()
        await write()
    assert await written(connection) == ["never"]


FULL = """
    create sequence tries;
    create function is_full() returns trigger language plpgsql as $$ begin
        if nextval('tries') < 3 then
            raise exception 'no room' using errcode = '{}';
        end if;
        return null;
    end $$;
    create constraint trigger is_full after insert on notes deferrable initially deferred
        for each row execute function is_full();
"""


@pytest.mark.parametrize("is_outside", [False, True])
@pytest.mark.parametrize("code", ["53100", "54000"])
@pytest.mark.parametrize("name", ["asyncpg", "sqlalchemy"])
async def test_t1_d4_a_server_without_room_for_the_commit_costs_time_and_writes_once(
    proxied: Proxy, connection: Any, name: str, code: str, is_outside: bool
) -> None:
    bodies = []
    await connection.execute(FULL.format(code))

    @Kind(name).transaction(name="t1 has no room")
    async def write(target: Any) -> int:
        bodies.append(1)
        await say(target, "insert into notes values ('once')")
        return len(bodies)

    @DBOS.workflow(name="t1 has no room")
    async def workflow() -> int:
        return int(await write())

    async with DBOS(proxied.url):
        if is_outside:
            assert await write() == 3
        else:
            with SetWorkflowID("w"):
                assert await workflow() == 3
            assert await replay(connection, "w") == 3
    assert await written(connection) == ["once"]
