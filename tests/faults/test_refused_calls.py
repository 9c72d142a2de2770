"""What a database refuses is one clear error in time for those outside; so is a full queue of notifications (W10, D4)."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from dbos_async import (
    DBOS,
    DatabaseUnavailableError,
    DBOSClient,
)
from tests.support.databases import new_database
from tests.support.eventually import eventually
from tests.support.postgres import SMALL, Server, chosen_version
from tests.support.troubles import CODES, REFUSAL, trigger

pytestmark = pytest.mark.usefixtures("quiet")

RAN: Counter[tuple[str | None, int]] = Counter()


@DBOS.step(name="effect of a refused call")
async def effect(n: int) -> int:
    RAN[DBOS.workflow_id, n] += 1
    return n + 1


Act = Callable[[DBOSClient], Awaitable[object]]

ACTS: dict[str, tuple[str, Act]] = {
    "send": ("messages", lambda client: client.send("there", 1)),
    "send with a key": ("messages", lambda client: client.send("there", 1, idempotency_key="k")),
    "start_workflow": ("workflows", lambda client: client.start_workflow("known to nobody")),
    "cancel_workflow": ("workflows", lambda client: client.cancel_workflow("there")),
}

THERE = """
    insert into dbos_async.workflows (id, name, input, start_id, attempt)
    values ('there', 'known to nobody', '[]', gen_random_uuid(), 0)
"""


@pytest.mark.parametrize("verb", ACTS)
async def test_d4_w10_outside_a_refusal_is_one_error_within_the_time_limit(
    database_url: str, connection: Any, verb: str
) -> None:
    table, act = ACTS[verb]
    await connection.execute(THERE)
    async with DBOSClient(database_url, connect_timeout_seconds=0.7) as client:
        for code in ("P0001", "54000"):
            async with trigger(connection, table, code):
                began = time.monotonic()
                with pytest.raises(DatabaseUnavailableError, match=REFUSAL):
                    await act(client)
                assert time.monotonic() - began < 2.5
        await act(client)


async def test_d4_w10_outside_a_refusal_that_is_over_in_time_is_waited_for(database_url: str, connection: Any) -> None:
    await connection.execute(THERE)
    async with DBOSClient(database_url) as client:
        async with trigger(connection, "messages", *CODES) as refusing:
            sending = asyncio.ensure_future(client.send("there", 1))
            await refusing.met(len(CODES))
            assert not sending.done()
        await sending
    assert await connection.fetchval("select count(*) from dbos_async.messages") == 1


async def test_w10_one_refused_call_delays_no_call_beside_it(database_url: str, connection: Any) -> None:
    await connection.execute(THERE)
    async with DBOSClient(database_url, connect_timeout_seconds=5) as client:
        async with trigger(connection, "messages", "P0001", condition="new.payload::text = '13'"):
            began = time.monotonic()
            sends = [asyncio.ensure_future(client.send("there", n, idempotency_key=str(n))) for n in range(100)]
            await asyncio.wait(sends[:13] + sends[14:], timeout=4)
            assert time.monotonic() - began < 3
            assert [n for n, each in enumerate(sends) if not each.done()] == [13]
        await sends[13]
    assert await connection.fetchval("select count(*) from dbos_async.messages") == 100


@pytest.fixture
async def small_queue_url(programs: None) -> AsyncIterator[str]:
    """A database of a server whose queue of notifications is soon full."""
    if chosen_version() < 17:
        pytest.skip("before Postgres 17 the queue of notifications always has room for 8 GiB")
    async with (
        Server(*SMALL, "max_notify_queue_pages=64", tcp=True) as server,
        new_database(server.url, "small_queue") as url,
    ):
        yield url


@DBOS.workflow()
async def announce() -> int:
    await DBOS.recv("go", timeout_seconds=None)
    for n in range(3):
        await effect(n)
        await DBOS.set_event("n", n)
    return n


FILL = "select pg_notify('something_else', repeat('x', 7000) || g) from generate_series(1, 50) as g"


async def test_d4_w10_a_full_queue_of_notifications_is_waited_for(small_queue_url: str) -> None:
    """Somebody's forgotten transaction, in any database of the server, keeps notifications from being removed."""
    url = small_queue_url
    sleeper, admin = await asyncpg.connect(url), await asyncpg.connect(url)
    async with DBOS(url), DBOSClient(url) as patient, DBOSClient(url, connect_timeout_seconds=0.7) as hasty:
        early, late = [await DBOS.start_workflow(announce) for _ in range(2)]
        await eventually(lambda: admin.fetchval("select count(*) = 2 from dbos_async.steps"))
        await sleeper.execute("listen something_else")
        await sleeper.execute("begin; select 1")
        with pytest.raises(asyncpg.ProgramLimitExceededError):
            while True:
                await admin.execute(FILL)
        sending = asyncio.ensure_future(patient.send(early.workflow_id, 1, "go"))
        with pytest.raises(DatabaseUnavailableError, match="queue"):
            await hasty.send(late.workflow_id, 1, "go")
        assert not sending.done()
        await sleeper.execute("rollback; unlisten *")
        await admin.execute("select pg_notification_queue_usage()")  # frees what everybody has read
        await sending
        await DBOS.send(late.workflow_id, 1, "go")
        assert [await early.get_result(), await late.get_result()] == [2, 2]
        assert {RAN[handle.workflow_id, n] for handle in (early, late) for n in range(3)} == {1}
        assert await admin.fetchval("select count(*) from dbos_async.messages") == 2
    for connection in (sleeper, admin):
        await connection.close()
