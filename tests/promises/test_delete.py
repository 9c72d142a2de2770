"""Deleting a workflow, also while another process writes to it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dbos_async import (
    DBOS,
    DatabaseUnavailableError,
    DBOSClient,
    SetWorkflowID,
    WorkflowNotEndedError,
    WorkflowNotFoundError,
)
from dbos_async._messaging import send
from dbos_async._runs import step as steps
from dbos_async._workflows import delete
from tests.support.eventually import eventually
from tests.support.races import LOOKED
from tests.support.statements import ACTS, SETTING, execute, step

TABLES = {
    "workflows": "id",
    "steps": "workflow_id",
    "messages": "destination_id",
    "delayed_messages": "destination_id",
    "events": "workflow_id",
    "stream_entries": "workflow_id",
}


@DBOS.step()
async def nothing() -> None:
    pass


@DBOS.workflow(name="to delete")
async def life(with_child: bool) -> int:
    await DBOS.set_event("e", 1)
    await DBOS.write_stream("s", 1)
    await nothing()
    if with_child:
        with SetWorkflowID("child"):
            await life(False)
    await DBOS.recv("end", None)
    return 1


async def rows(connection: Any, workflow_id: str) -> dict[str, int]:
    return {
        table: await connection.fetchval(f"select count(*) from dbos_async.{table} where {column} = $1", workflow_id)
        for table, column in TABLES.items()
    }


async def lived(workflow_id: str = "w", with_child: bool = False) -> None:
    with SetWorkflowID(workflow_id):
        handle = await DBOS.start_workflow(life, with_child)
    if with_child:
        await eventually(lambda: DBOS.list_workflows(id_prefix="child"))
        await DBOS.send("child", None, "end")
    await DBOS.send(workflow_id, None, "end", idempotency_key="k")
    await DBOS.send(workflow_id, "never received")
    await DBOS.send(workflow_id, "never due", delay_seconds=3600)
    await handle.get_result()


async def test_deleting_removes_everything_of_a_workflow_and_nothing_of_its_children(
    dbos: DBOS, connection: Any
) -> None:
    await lived(with_child=True)
    assert all((await rows(connection, "w")).values())
    await DBOS.send("child", "never due", delay_seconds=3600)
    children = await rows(connection, "child")
    assert all(children.values())
    await DBOS.delete_workflow("w")
    assert not any((await rows(connection, "w")).values())
    assert await rows(connection, "child") == children
    for act in (DBOS.delete_workflow, DBOS.retrieve_workflow, DBOS.cancel_workflow):
        with pytest.raises(WorkflowNotFoundError, match="'w'"):
            await act("w")
    with pytest.raises(WorkflowNotFoundError):
        await DBOS.send("w", 1)
    # The id is free again, and so are the keys of its messages.
    await lived()


async def test_what_has_not_ended_cannot_be_deleted(dbos: DBOS, database_url: str) -> None:
    with SetWorkflowID("w"):
        await DBOS.start_workflow(life, False)
    async with DBOSClient(database_url) as client:
        with pytest.raises(WorkflowNotEndedError, match="'w' is PENDING and cannot be deleted: cancel it first"):
            await client.delete_workflow("w")
        await client.cancel_workflow("w")
        await client.delete_workflow("w")
        with pytest.raises(WorkflowNotFoundError):
            await client.resume_workflow("w")


async def test_a_workflow_deletes_others_and_records_it(dbos: DBOS) -> None:
    @DBOS.workflow(name="cleaner")
    async def cleaner() -> list[str]:
        await DBOS.delete_workflow("w")
        try:
            await DBOS.delete_workflow("w")
        except WorkflowNotFoundError as error:
            return [str(error)]
        return []

    await lived()
    handle = await DBOS.start_workflow(cleaner)
    assert len(await handle.get_result()) == 1
    recorded = await DBOS.list_workflow_steps(handle.workflow_id)
    assert [step.verb for step in recorded] == ["delete_workflow"] * 2


async def test_who_waits_for_a_deleted_workflow_hears_of_it(dbos: DBOS) -> None:
    await lived()
    reading = asyncio.create_task(DBOS.get_event("w", "another", None))
    assert await reading is None
    await DBOS.delete_workflow("w")
    assert await DBOS.get_event("w", "e", 0) is None


MESSAGE = ACTS["SEND"].row(step(None), "x")


@pytest.fixture
async def setting(connection: Any) -> None:
    await connection.execute(SETTING)


def send_to(destination_id: str) -> Any:
    row = list(ACTS["SEND"].row(step(None), "x"))
    row[:4] = [None] * 4
    row[7] = destination_id
    return tuple(row)


@pytest.mark.usefixtures("setting")
async def test_m7_a_send_to_an_ended_workflow_and_its_deletion_see_each_other(connect: Any, connection: Any) -> None:
    """The send first: the deletion waits for it and takes the message along. The deletion first: the send raises."""
    one, two = await connect(), await connect()
    attempt = 1
    await one.execute("begin")
    assert (await execute(one, send.SEND, send_to("other")))[0]["error"] is None
    deletion = asyncio.create_task(execute(two, delete.DELETE, ("other", attempt, b"d")))
    await blocked(connection, two, deletion)
    await one.execute("commit")
    assert len(await deletion) == 1
    assert not any((await rows(connection, "other")).values())

    await connection.execute(
        "insert into dbos_async.workflows (id, name, input, start_id, attempt, status, ended_at) "
        "values ('other', 'f', '{}', gen_random_uuid(), 1, 'SUCCESS', now())"
    )
    await one.execute("begin")
    assert len(await execute(one, delete.DELETE, ("other", attempt, b"d"))) == 1
    sending = asyncio.create_task(execute(two, send.SEND, send_to("other")))
    await blocked(connection, two, sending)
    await one.execute("commit")
    assert "WorkflowNotFoundError" in (await sending)[0]["error"]
    assert not any((await rows(connection, "other")).values())


@pytest.mark.usefixtures("setting")
@pytest.mark.parametrize("writes", ["SEND", "RECORD", "SET_EVENT", "WRITE"])
async def test_who_believes_that_the_workflow_goes_on_is_waited_for(
    writes: str, connect: Any, connection: Any, database_url: str
) -> None:
    one = await connect()
    act = ACTS[writes]
    row = send_to("w") if writes == "SEND" else act.row(step(1), "late")
    await one.execute("begin")
    await execute(one, act.statement, row)  # it has seen the workflow alive
    await connection.execute("update dbos_async.workflows set status = 'SUCCESS', ended_at = now() where id = 'w'")
    async with DBOSClient(database_url) as client:
        deletion = asyncio.create_task(client.delete_workflow("w"))
        await eventually(lambda: connection.fetchval(LOOKED))
        assert (await rows(connection, "w"))["workflows"] == 1
        assert not deletion.done()
        await one.execute("commit")
        await deletion
    assert not any((await rows(connection, "w")).values())


@pytest.mark.usefixtures("setting")
async def test_d4_a_deletion_does_not_wait_for_ever(
    connect: Any, connection: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delete, "DELETE_WITHIN_SECONDS", 0.2)
    one = await connect()
    await one.execute("begin")
    await execute(one, steps.RECORD, ACTS["RECORD"].row(step(1), "late"))
    async with DBOSClient(database_url) as client:
        with pytest.raises(DatabaseUnavailableError, match="stayed open.*nothing was committed"):
            await client.delete_workflow("other")
        await one.execute("rollback")
        await client.delete_workflow("other")


async def blocked(connection: Any, other: Any, task: asyncio.Task[Any]) -> None:
    pid = other.get_server_pid()
    waits = "select wait_event_type = 'Lock' from pg_stat_activity where pid = $1"
    await eventually(lambda: task.done() or connection.fetchval(waits, pid))
    assert not task.done()
