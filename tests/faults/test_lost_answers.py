"""A commit whose answer is lost, and calls that give up in time (D4, M1)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dbos_async import DBOS, DatabaseUnavailableError, DBOSClient, SendMessage
from dbos_async._database.access import Access
from dbos_async._database.batches import Batches
from dbos_async._database.connections import Postgres
from dbos_async._database.wakeups import Wakeups
from tests.support.eventually import eventually
from tests.support.load import (
    RAN,
    SLOW,
    run_once,
)
from tests.support.proxy import Proxy
from tests.support.troubles import holding

pytestmark = pytest.mark.usefixtures("quiet")


ROWS = """
    insert into dbos_async.workflows (id, name, input, start_id, status, attempt)
    select id, 'unknown here', '[]', gen_random_uuid(), status, 3
    from (values ('waiting-17', 'PENDING'), ('parked-17', 'REPLAY_MISMATCH')) as w(id, status)
"""


@pytest.mark.parametrize(
    ("verb", "done"),
    [
        ("send", "select count(*) from dbos_async.messages"),
        ("send_bulk", "select count(*) / 3.0 from dbos_async.messages"),
        ("start_workflow", "select count(*) from dbos_async.workflows where name = 'started-17'"),
        (
            "cancel_workflow",
            "select attempt - 3 from dbos_async.workflows where id = 'waiting-17' and status = 'CANCELLED'",
        ),
        (
            "resume_workflow",
            "select attempt - 3 from dbos_async.workflows where id = 'parked-17' and status = 'PENDING'",
        ),
    ],
)
async def test_d4_m1_an_act_whose_answer_is_lost_is_done_once(
    database_url: str, connection: Any, verb: str, done: str
) -> None:
    await connection.execute(ROWS)
    async with Proxy(database_url) as proxy, DBOSClient(proxy.url) as client:
        write_seq: dict[str, Callable[[], Awaitable[Any]]] = {
            "send": lambda: client.send("waiting-17", 1),
            "send_bulk": lambda: client.send_bulk([SendMessage("waiting-17", n) for n in range(3)]),
            "start_workflow": lambda: client.start_workflow("started-17"),
            "cancel_workflow": lambda: client.cancel_workflow("waiting-17"),
            "resume_workflow": lambda: client.resume_workflow("parked-17"),
        }
        proxy.mute(b"-17")
        tasks_inside = asyncio.ensure_future(write_seq[verb]())
        await eventually(lambda: connection.fetchval(f"select ({done}) = 1"), f"{verb} is committed")
        assert not tasks_inside.done()
        await proxy.heal()
        proxy.cut()
        await tasks_inside
        assert await connection.fetchval(done) == 1, f"{verb} was repeated and has changed nothing"


FAMILY = """
    insert into dbos_async.workflows (id, name, input, start_id, status, attempt, parent_id, ended_at)
    select id, 'unknown here', '[]', gen_random_uuid(), status, 3, parent_id, case when status = 'SUCCESS' then now() end
    from (values ('root-17', 'PENDING', null), ('child-17', 'PENDING', 'root-17'), ('below-17', 'PENDING', 'child-17'),
                 ('old-18', 'SUCCESS', null), ('child-18', 'SUCCESS', 'old-18'), ('below-18', 'SUCCESS', 'child-18'),
                 ('parked-19', 'REPLAY_MISMATCH', null), ('other-19', 'REPLAY_MISMATCH', null)) as w(id, status, parent_id)
"""


@pytest.mark.parametrize(
    ("verb", "row", "done", "outcome"),
    [
        ("cancel", "below-17", "select count(*) = 3 from dbos_async.workflows where status = 'CANCELLED'", "cancelled"),
        ("delete", "below-18", "select count(*) = 0 from dbos_async.workflows where id = 'below-18'", "deleted"),
        (
            "resume",
            "parked-19",
            "select count(*) = 2 from dbos_async.workflows where id like '%-19' and attempt = 4",
            "resumed",
        ),
    ],
)
async def test_d4_what_became_of_many_is_told_although_an_answer_is_lost(
    database_url: str, connection: Any, verb: str, row: str, done: str, outcome: str
) -> None:
    """The statement waits for a row when the connections freeze, and is committed after that."""
    await connection.execute(FAMILY)
    waits = "select exists (select from pg_stat_activity where cardinality(pg_blocking_pids(pid)) > 0)"
    async with Proxy(database_url) as proxy, DBOSClient(proxy.url) as client:
        acts: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
            "cancel": lambda: client.cancel_workflows(["root-17"], children=True),
            "delete": lambda: client.delete_workflows(["old-18"], children=True),
            "resume": lambda: client.resume_workflows(["parked-19", "other-19"]),
        }
        async with holding(database_url, f"select from dbos_async.workflows where id = '{row}' for update"):
            acting = asyncio.ensure_future(acts[verb]())
            await eventually(lambda: connection.fetchval(waits), "it waits for the row")
            proxy.freeze()
        await eventually(lambda: connection.fetchval(done), "it is committed")
        assert not acting.done()
        await proxy.heal()
        proxy.cut()
        found = await acting
        assert set(found.values()) == {outcome}
        assert len(found) == (2 if verb == "resume" else 3)


async def test_d4_a_start_whose_answer_is_lost_runs_once(database_url: str, connection: Any) -> None:
    RAN.clear()
    async with Proxy(database_url) as proxy, DBOS(proxy.url):
        await (await DBOS.start_workflow(run_once, 1)).get_result()
        proxy.mute(b"424242")
        starting = asyncio.ensure_future(DBOS.start_workflow(run_once, 424242))
        await eventually(lambda: connection.fetchval("select count(*) = 2 from dbos_async.workflows"))
        assert not starting.done()
        await proxy.heal()
        proxy.cut()
        handle = await starting
        assert await handle.get_result() == 424242
        assert (await handle.get_status()).attempt == 1
    assert list(RAN.values()) == [1, 1]


@pytest.mark.usefixtures("quick")
async def test_d4_who_gives_up_is_told_the_truth_about_the_commit(database_url: str, connection: Any) -> None:
    await connection.execute(ROWS)
    async with Proxy(database_url) as proxy, DBOSClient(proxy.url, connect_timeout_seconds=2) as client:
        await client.send("waiting-17", 1)
        proxy.mute(b"waiting-17")
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailableError, match="may or may not have been committed"):
            await client.send("waiting-17", 2)
        assert time.monotonic() - began < 10, "also while a statement hangs"
        assert await connection.fetchval("select count(*) from dbos_async.messages") == 2, "it was"
        proxy.freeze()
        proxy.cut()
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailableError, match="nothing was committed"):
            await client.send("waiting-17", 3)
        assert time.monotonic() - began < 10, "also while an attempt to connect hangs"
        await proxy.heal()
        await client.send("waiting-17", 4)
        sent = "select array_agg(payload::text order by seq) from dbos_async.messages"
        assert await connection.fetchval(sent) == ["1", "2", "4"]


async def test_d4_a_call_gives_up_in_time_also_behind_one_that_never_does(database_url: str, connection: Any) -> None:
    postgres = Postgres(Access("postgresql://nobody@127.0.0.1:1/nothing"))
    batches = Batches(postgres, Wakeups(), give_up_after_seconds=0.3)
    retry_forever = batches.call(SLOW, [(0.0,)], partition="", retry_forever=True)
    await asyncio.sleep(0.05)
    with pytest.raises(DatabaseUnavailableError, match="nothing was committed"):
        await asyncio.wait_for(batches.call(SLOW, [(0.0,)], partition=""), 2)
    assert not retry_forever.done()
    retry_forever.cancel()
    await batches.close()
    await postgres.close()


@pytest.mark.usefixtures("quick")
async def test_d4_a_call_gives_up_in_time_also_while_an_attempt_to_connect_hangs(database_url: str) -> None:
    async with Proxy(database_url) as proxy:
        proxy.freeze()
        postgres = Postgres(Access(proxy.url))
        batches = Batches(postgres, Wakeups(), give_up_after_seconds=1.7)
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailableError, match="no connection within 1 seconds.*nothing was committed"):
            await batches.call(SLOW, [(0.0,)], partition="")
        # The attempts take 0.5, 1 and 2 seconds: it does not wait for the end of the third.
        assert time.monotonic() - began < 10
        await batches.close()
        await postgres.close()
