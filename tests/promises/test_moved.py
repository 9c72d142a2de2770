"""Databases that were moved without their sequences: nothing new counts as older than what was there (E1, M4, D7)."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import asyncpg
import pytest

from dbos_async import DBOS, ConfigurationError, DBOSClient, SetWorkflowID
from dbos_async._cli.schema import migrated
from dbos_async._database.sequences import MARGIN, repair
from tests.support.eventually import eventually
from tests.support.examined import new_role

SEQUENCES = "workflow_seq", "message_seq", "event_seq", "delayed_seq"
LEFT_BEHIND = ";".join(f"select setval('dbos_async.{name}', 1, false)" for name in SEQUENCES)

RIGHTS = """
    grant usage on schema dbos_async to {role};
    grant select, insert, update, delete on all tables in schema dbos_async to {role};
    grant {right} on all sequences in schema dbos_async to {role};
"""


@DBOS.workflow(name="moved box")
async def box() -> list[str]:
    """Says something often, waits, says the last, and tells what it received."""
    for n in range(20):
        await DBOS.set_event("state", f"old {n}")
    await DBOS.recv("go", timeout_seconds=None)
    await DBOS.set_event("state", "new")
    return [str(await DBOS.recv()) for _ in range(4)]


async def begin(url: str) -> None:
    """What was there before the move: a workflow that waits, and two messages."""
    async with DBOS(url):
        with SetWorkflowID("box"):
            await DBOS.start_workflow(box)
        for text in ("1", "2"):
            await DBOS.send("box", text)
        assert await DBOS.get_event("box", "state")
        await eventually(lambda: said("old 19"))


async def said(text: str) -> bool:
    return bool(await DBOS.get_event("box", "state") == text)


async def test_e1_m4_d7_sequences_that_were_left_behind_are_repaired_at_launch(
    database_url: str, connection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await begin(database_url)
    await connection.execute(LEFT_BEHIND)
    with caplog.at_level(logging.WARNING, "dbos_async"):
        async with DBOS(database_url):
            for text in ("3", "4"):
                await DBOS.send("box", text)
            await DBOS.send("box", None, "go")
            handle = await DBOS.retrieve_workflow("box")
            assert await handle.get_result() == ["1", "2", "3", "4"]
            assert await DBOS.get_event("box", "state") == "new"
    told = [record.getMessage() for record in caplog.records if "without sequences" in record.getMessage()]
    assert len(told) == 3
    assert told[0].startswith("The sequence event_seq was at 0 and its table at 20, as after a move without sequences")


async def test_m4_d7_a_client_that_comes_first_repairs_them_too(database_url: str, connection: Any) -> None:
    await begin(database_url)
    await connection.execute(LEFT_BEHIND)
    async with DBOSClient(database_url) as client:
        for text in ("3", "4"):
            await client.send("box", text)
        await client.send("box", None, "go")
    async with DBOS(database_url):
        assert await (await DBOS.retrieve_workflow("box")).get_result() == ["1", "2", "3", "4"]


async def test_d7_the_command_migrate_repairs_them(database_url: str, connection: Any) -> None:
    await begin(database_url)
    await connection.execute(LEFT_BEHIND)
    assert await migrated(database_url, check=True) == []
    assert await connection.fetchval("select last_value from dbos_async.event_seq") == 1
    assert await migrated(database_url, check=False) == []
    assert await connection.fetchval("select last_value from dbos_async.event_seq") == 20 + MARGIN


@pytest.mark.direct("the pooler of the tests connects as one role")
async def test_d7_a_role_that_may_not_repair_them_is_refused_with_the_remedy(
    database_url: str, connection: Any
) -> None:
    await begin(database_url)
    async with new_role(database_url) as (role, url):
        await connection.execute(RIGHTS.format(role=role, right="usage"))
        async with DBOS(url):
            pass  # nothing is behind
        await connection.execute(LEFT_BEHIND)
        for opened in (DBOS(url), DBOSClient(url)):
            with pytest.raises(
                ConfigurationError, match=r"The sequence event_seq is at 0 and its table at 20.*dbos-async migrate"
            ):
                async with opened:
                    pass
        await connection.execute(RIGHTS.format(role=role, right="update"))
        async with DBOS(url):
            assert await DBOS.get_event("box", "state") == "old 19"
        await connection.execute(LEFT_BEHIND)
        await connection.execute(f"revoke all on all sequences in schema dbos_async from {role}")
        async with DBOSClient(url) as client:  # it may only read
            assert await client.get_event("box", "state") == "old 19"


async def test_d7_two_launches_at_once_never_set_a_sequence_back(database_url: str, connection: Any) -> None:
    await begin(database_url)
    drawn: list[int] = []
    is_over = False

    async def draw() -> None:
        mine = await asyncpg.connect(database_url)
        while not is_over:
            drawn.append(await mine.fetchval("select nextval('dbos_async.event_seq')"))
        await mine.close()

    async def launch() -> None:
        mine = await asyncpg.connect(database_url)
        for _ in range(30):
            await repair(mine)
        await mine.close()

    drawing = [asyncio.create_task(draw()) for _ in range(3)]
    await eventually(lambda: len(drawn) > 30)
    before = len(drawn)
    await connection.execute("insert into dbos_async.events (workflow_id, key, seq, value, step, attempt, act) "
                             "values ('x', 'k', 500000, '1', '1', 1, 0)")  # fmt: skip
    await asyncio.gather(*(launch() for _ in range(4)))
    after = len(drawn)
    await eventually(lambda: len(drawn) > after + 30)
    is_over = True
    await asyncio.gather(*drawing)
    assert len(drawn) == len(set(drawn)), "no number was drawn twice"
    assert min(drawn[after + 10 :]) > 500_000 + MARGIN > max(drawn[:before])


async def test_d7_the_latest_rows_are_found_wherever_they_lie_at_the_end(database_url: str, connection: Any) -> None:
    """In a table of many pages whose first rows are old. It is looked at by pages, and never read whole."""
    await connection.execute("""
        insert into dbos_async.messages (id, seq, destination_id, topic, payload)
        select gen_random_uuid(), n, 'w', 't', to_json(repeat('x', 500)) from generate_series(1, 20000) as n
    """)
    await connection.execute("select setval('dbos_async.message_seq', 19990)")
    await repair(connection)
    assert await connection.fetchval("select last_value from dbos_async.message_seq") == 20_000 + MARGIN


async def test_d7_pages_of_lists_know_rows_of_another_server(dbos: DBOS, connection: Any) -> None:
    """The transaction ids of another server, which a row brings along, may be far ahead of those here."""
    with SetWorkflowID("here"):
        await DBOS.start_workflow(box)
    await connection.execute("update dbos_async.workflows set born = '987654321987'::xid8")
    page = await DBOS.list_workflows()
    assert [one.workflow_id for one in page] == ["here"]
    assert await DBOS.list_workflows(cursor=page[-1].cursor) == []
    await DBOS.send("here", 1)
    await connection.execute("update dbos_async.messages set born = '987654321987'::xid8")
    messages = await DBOS.list_messages("here")
    assert len(messages) == 1
    assert await DBOS.list_messages("here", cursor=messages[-1].cursor) == []
