"""Counts of workflows and messages, the executors, and the messages of all workflows."""

from __future__ import annotations

import json
from typing import Any

import asyncpg
import pytest

from dbos_async import DBOS, DBOSClient, InvalidArgumentError, InvalidMessageError, SetStartDelay, SetWorkflowID, Topic
from dbos_async._database.connection_kinds import SETTINGS
from dbos_async._workflows.status import workflow_filter
from tests.support.eventually import eventually
from tests.support.statements import all_statements
from tests.support.workflows import echo, wait_for_ever

NUMBER = Topic("number", int)


@DBOS.workflow()
async def counted_fail() -> None:
    raise ValueError("no")


@DBOS.workflow()
async def counted_read_number() -> int | None:
    try:
        return await DBOS.recv(NUMBER, timeout_seconds=None)
    except InvalidMessageError:
        return await DBOS.recv(NUMBER, timeout_seconds=None)


async def counted(**filters: Any) -> dict[tuple[str, str], tuple[int, int]]:
    return {(one.name, one.status): (one.count, one.unclaimable) for one in await DBOS.count_workflows(**filters)}


async def populate(database_url: str) -> None:
    for number in range(3):
        with SetWorkflowID(f"done-{number}"):
            await echo(number)
    handle = await DBOS.start_workflow(counted_fail)
    with pytest.raises(ValueError, match="no"):
        await handle.get_result()
    with SetWorkflowID("waits"):
        await DBOS.start_workflow(wait_for_ever)
    with SetStartDelay(3600), SetWorkflowID("later"):
        await DBOS.start_workflow(echo, 1)
    async with DBOSClient(database_url) as client:
        await client.start_workflow("unknown")
        await client.start_workflow("unknown")


async def test_workflows_are_counted_by_name_and_status(dbos: DBOS, database_url: str) -> None:
    await populate(database_url)
    everything = {
        ("echo", "SUCCESS"): (3, 0),
        ("echo", "DELAYED"): (1, 0),
        ("counted_fail", "ERROR"): (1, 0),
        ("wait_for_ever", "PENDING"): (1, 0),
        ("unknown", "PENDING"): (2, 2),
    }
    assert await counted() == everything
    assert await counted(status="ERROR") == {("counted_fail", "ERROR"): (1, 0)}
    assert await counted(status=["PENDING", "DELAYED", "ERROR"]) == {
        key: count for key, count in everything.items() if key[1] != "SUCCESS"
    }
    assert await counted(unclaimable=True) == {("unknown", "PENDING"): (2, 2)}
    assert await counted(name="echo", id_prefix="done-") == {("echo", "SUCCESS"): (3, 0)}
    assert await counted(workflow_id=["done-1", "waits", "nowhere"]) == {
        ("echo", "SUCCESS"): (1, 0),
        ("wait_for_ever", "PENDING"): (1, 0),
    }
    assert await counted(name="nothing") == {}
    with pytest.raises(InvalidArgumentError, match="status"):
        await DBOS.count_workflows(status="LOST")


async def test_lists_by_status_show_the_same_as_a_list_of_everything(dbos: DBOS, database_url: str) -> None:
    await populate(database_url)
    everything = await DBOS.list_workflows()
    for statuses in (["PENDING"], ["ERROR"], ["PENDING", "DELAYED"], ["ERROR", "SUCCESS"], ["CANCELLED"]):
        for newest_first in (False, True):
            expected = [one.workflow_id for one in everything if one.status in statuses]
            found, cursor = [], None
            while page := await DBOS.list_workflows(status=statuses, newest_first=newest_first, limit=2, cursor=cursor):
                found += [one.workflow_id for one in page]
                cursor = page[-1].cursor
            assert found == (expected[::-1] if newest_first else expected)


async def test_messages_of_all_workflows_are_counted_and_listed(dbos: DBOS, database_url: str) -> None:
    with SetWorkflowID("waits"):
        await DBOS.start_workflow(wait_for_ever)
    with SetWorkflowID("over"):
        await echo(1)
    with SetWorkflowID("reads"):
        await DBOS.start_workflow(counted_read_number)
    await DBOS.send("waits", "first", "news")
    await DBOS.send("waits", "second", "news")
    await DBOS.send("waits", "third")
    await DBOS.send("over", "nobody reads this", "news")
    await DBOS.send("waits", "much later", "news", delay_seconds=3600)
    await DBOS.send("reads", "five", "number")

    async def is_rejected() -> bool:
        return bool(await DBOS.list_messages(status="rejected"))

    await eventually(is_rejected)
    found = {one.topic: (one.waiting, one.rejected) for one in await DBOS.count_messages()}
    assert found == {"news": (2, 0), None: (1, 0), "number": (0, 1)}
    waiting = await DBOS.list_messages(status="waiting")
    assert [(one.destination_id, one.payload) for one in waiting] == [
        ("waits", "first"),
        ("waits", "second"),
        ("waits", "third"),
    ]
    (news,) = [one for one in await DBOS.count_messages() if one.topic == "news"]
    assert news.oldest_at == waiting[0].sent_at
    assert [one.payload for one in await DBOS.list_messages(status="delayed")] == ["much later"]
    (rejected,) = await DBOS.list_messages(status="rejected")
    assert rejected.destination_id == "reads"
    assert "number" in (rejected.rejected or "")


async def test_messages_of_all_workflows_come_in_pages(dbos: DBOS) -> None:
    for receiver in ("a", "b"):
        with SetWorkflowID(receiver):
            await DBOS.start_workflow(wait_for_ever)
    for number in range(10):
        await DBOS.send("ab"[number % 2], number)
    for newest_first in (False, True):
        for way in ("cursor", "after"):
            found: list[Any] = []
            options: dict[str, Any] = {}
            while page := await DBOS.list_messages(status="waiting", limit=3, newest_first=newest_first, **options):
                found += [one.payload for one in page]
                options = {way: page[-1].cursor if way == "cursor" else page[-1].id}
            assert found == sorted(range(10), reverse=newest_first)
    assert [one.payload for one in await DBOS.list_messages(status="waiting", topic="none")] == []


@pytest.mark.parametrize("status", [None, "received"])
async def test_messages_of_all_workflows_need_a_status_that_is_found_quickly(dbos: DBOS, status: str | None) -> None:
    with pytest.raises(InvalidArgumentError, match="give a workflow_id, or status"):
        await DBOS.list_messages(status=status)


async def test_executors_are_listed_with_those_that_are_gone(dbos: DBOS, connection: Any) -> None:
    with SetWorkflowID("waits"):
        await DBOS.start_workflow(wait_for_ever)
    (only,) = await DBOS.list_executors()
    assert (only.executor_id, only.is_live, only.workflows) == ("test", True, 1)
    assert "wait_for_ever" in only.workflow_names
    async with connection.transaction():
        # Nothing frees this workflow while the transaction holds its row.
        await connection.execute("update dbos_async.workflows set owner = 'shop:7:0123' where id = 'waits'")
        sql = all_statements()["LIST_EXECUTORS"].sql.one_row
        found = {record["id"]: record for record in await connection.fetch(sql, 0)}
    gone = found["shop:7:0123"]
    assert (gone["executor_id"], gone["is_live"], gone["workflows"], gone["started_at"]) == ("shop:7", False, 1, None)
    assert len(found) == 2


MANY = """
    insert into dbos_async.workflows (id, name, input, start_id, attempt, status, ended_at)
        select 'f' || n, 'f', '{}', gen_random_uuid(), 1, case when n % 10000 = 7 then 'ERROR' else 'SUCCESS' end, now()
        from generate_series(1, 50000) as n;
    insert into dbos_async.messages (id, seq, destination_id, topic, payload, received_at, rejected)
        select gen_random_uuid(), nextval('dbos_async.message_seq'), 'f' || n, '', '1', now(),
               case when n % 10000 = 7 then '{}'::json end from generate_series(1, 50000) as n;
"""
NONE = (None,) * 7
REST = (None,) * 9
"""The filters behind the statuses."""
QUICK: dict[str, tuple[Any, ...]] = {
    "COUNT_WORKFLOWS": (None, '["ERROR", "PENDING"]', *REST),
    "COUNT_WORKFLOWS of the unclaimable": workflow_filter(unclaimable=True).columns,
    "COUNT_WORKFLOWS without a patch": workflow_filter(status="PENDING", without_patch="ask-for-vat").columns,
    "LIST": (None, '["ERROR"]', *REST, True, 100, None, *NONE),
    "LIST_NEWEST": (None, '["ERROR", "REPLAY_MISMATCH"]', *REST, False, 100, None, *NONE),
    "COUNT_MESSAGES": (),
    "MESSAGES_OF_ALL": (None, None, "rejected", True, 100, None, *NONE[:6]),
    "NEWEST_MESSAGES_OF_ALL": (None, None, "waiting", True, 100, None, *NONE[:6]),
    "LIST_EXECUTORS": (),
}


def sql_of(name: str) -> str:
    """The statement that a name begins with."""
    return all_statements()[name.partition(" ")[0]].sql.one_row


@pytest.mark.parametrize("is_planned_on_full_tables", [False, True])
async def test_what_people_look_for_is_found_by_index_among_many_rows(
    is_planned_on_full_tables: bool, database_url: str
) -> None:
    connection = await asyncpg.connect(database_url, server_settings=SETTINGS)
    try:
        if is_planned_on_full_tables:
            await connection.execute(MANY)
        await connection.execute("analyze")
        prepared = {name: await connection.prepare(sql_of(name)) for name in QUICK}
        for name, columns in QUICK.items():
            await prepared[name].fetch(0, *columns)  # the plan is made now
        if not is_planned_on_full_tables:
            await connection.execute(MANY)
        for name, columns in QUICK.items():
            answer = await connection.fetchval(f"explain (analyze, buffers, format json) {sql_of(name)}", 0, *columns)
            plan = json.loads(answer)[0]["Plan"]
            touched = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
            assert touched < 200, f"{name} touches {touched} buffers"
    finally:
        await connection.close()
