"""Starts that are delayed, and sends that start their destination: one act each (C4, W1)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from dbos_async import (
    DBOS,
    DBOSClient,
    InvalidArgumentError,
    InvalidValueError,
    RegistrationError,
    SetApplicationVersion,
    SetStartDelay,
    SetWorkflowID,
    SetWorkflowTimeout,
    Start,
    WorkflowCancelledError,
    WorkflowConflictError,
    WorkflowNotEndedError,
)
from dbos_async._messaging import send
from dbos_async._workflows import start as starts
from tests.support.eventually import eventually


@DBOS.workflow(name="begins later")
async def begins(value: Any = None) -> list[Any]:
    return [value, await DBOS.recv("t", None)]


@DBOS.workflow(name="another function")
async def another() -> None: ...


@DBOS.workflow(name="waits later")
async def waits() -> Any:
    return await DBOS.recv("go", None)


@DBOS.step(name="starts in a step")
async def starts_in_step(workflow_id: str) -> None:
    with SetStartDelay(0.2), SetWorkflowID(workflow_id):
        await DBOS.start_workflow(begins, "step")


@DBOS.workflow(name="parent of delayed ones")
async def parent() -> list[Any]:
    with SetStartDelay(0.2):
        handle = await DBOS.start_workflow(begins, "child")
        await DBOS.send(handle.workflow_id, 1, "t")
        await starts_in_step("of a step")
        await DBOS.send("of a step", 2, "t")
        direct = asyncio.create_task(begins("direct"))
        found = await DBOS.list_workflows(status="DELAYED", parent_id=DBOS.workflow_id)
        result = await handle.get_result()  # a delayed one is not parked
        direct.cancel()
    return [result, await (await DBOS.retrieve_workflow("of a step")).get_result(), len(found)]


async def begin(workflow_id: str, seconds: float | None = 3600) -> Any:
    with SetStartDelay(seconds), SetWorkflowID(workflow_id):
        return await DBOS.start_workflow(begins, workflow_id)


async def test_c4_a_delayed_workflow_is_there_at_once_and_begins_when_it_is_due(dbos: DBOS) -> None:
    handle = await begin("w", 0.4)
    status = await handle.get_status()
    assert (status.status, status.executor_id, status.claimed_at, status.unclaimable) == ("DELAYED", None, None, False)
    assert status.due_at is not None
    assert await DBOS.send("w", "early", "t")
    assert [found.workflow_id for found in await DBOS.list_workflows(status="DELAYED")] == ["w"]
    again = await begin("w")  # W1: of the first one
    assert await again.get_result() == ["w", "early"]
    status = await handle.get_status()
    assert status.claimed_at is not None
    assert status.due_at is not None
    assert timedelta(0) <= status.claimed_at - status.due_at < timedelta(seconds=0.9)
    with SetStartDelay(60), SetWorkflowID("w"), pytest.raises(WorkflowConflictError):
        await DBOS.start_workflow(another)


async def test_c4_starts_are_delayed_for_children_in_steps_for_clients_and_in_transactions(
    dbos: DBOS, database_url: str, connection: Any
) -> None:
    result, of_step, listed = await (await DBOS.start_workflow(parent)).get_result()
    assert (result, of_step) == (["child", 1], ["step", 2])
    assert listed >= 1
    async with DBOSClient(database_url, application_version="other") as client:
        with SetStartDelay(0.2):
            with SetWorkflowID("by name"), SetApplicationVersion("1"):
                named = await client.start_workflow("begins later", "named")
            with SetStartDelay(None):
                at_once = await client.start_workflow(begins, "at once")
        async with connection.transaction():
            with SetStartDelay(0.2), SetWorkflowID("inside"):
                inside = await DBOS.start_workflow(begins, "inside", connection=connection)
            await DBOS.send("inside", 3, "t", connection=connection)
        assert await inside.get_result() == ["inside", 3]
        assert (await named.get_status()).application_version == "1"
        assert (await at_once.get_status()).due_at is None
        transaction = connection.transaction()
        await transaction.start()
        with SetStartDelay(0.2), SetWorkflowID("never"):
            await client.start_workflow(begins, connection=connection)
        await transaction.rollback()
        assert await DBOS.list_workflows(id_prefix="never") == []


async def test_c4_w6_a_delayed_workflow_is_cancelled_deleted_and_resumed(dbos: DBOS) -> None:
    handle = await begin("w", 1.5)
    with pytest.raises(WorkflowNotEndedError, match="DELAYED"):
        await DBOS.delete_workflow("w")
    assert await DBOS.cancel_workflow("w")
    with pytest.raises(WorkflowCancelledError):
        await handle.get_result()
    due_at = (await handle.get_status()).due_at
    assert due_at is not None

    async def is_past() -> bool:
        return bool(await DBOS.now() > due_at + timedelta(seconds=0.1))

    await eventually(is_past)
    assert (await handle.get_status()).status == "CANCELLED", (
        "what was cancelled does not begin when it would have been due"
    )
    await DBOS.resume_workflow("w")
    await DBOS.send("w", "resumed", "t")
    assert await handle.get_result() == ["w", "resumed"]
    await begin("deleted")
    await DBOS.cancel_workflow("deleted")
    await DBOS.delete_workflow("deleted")
    assert await DBOS.list_workflows(id_prefix="deleted") == []


async def test_c4_resuming_a_delayed_workflow_begins_it_now_with_all_of_its_time(dbos: DBOS) -> None:
    with SetStartDelay(3600), SetWorkflowTimeout(60):
        handle = await DBOS.start_workflow(begins, 1)
    status = await handle.get_status()
    assert status.due_at is not None
    assert status.deadline is not None
    assert abs(status.deadline - status.due_at - timedelta(seconds=60)) < timedelta(seconds=1), "it counts from then"
    await DBOS.resume_workflow(handle.workflow_id)
    await DBOS.send(handle.workflow_id, 2, "t")
    assert await handle.get_result() == [1, 2]
    status = await handle.get_status()
    assert (status.attempt, status.deadline is not None) == (1, True)
    assert status.deadline is not None
    assert status.deadline - await DBOS.now() < timedelta(seconds=60)


async def test_c4_w6_the_time_of_a_delayed_workflow_counts_from_its_due_time(dbos: DBOS) -> None:
    with SetStartDelay(0.5), SetWorkflowTimeout(0.2):
        handle = await DBOS.start_workflow(waits)
    with pytest.raises(WorkflowCancelledError):
        await handle.get_result()
    status = await handle.get_status()
    assert status.due_at is not None
    assert status.claimed_at is not None, "it has run"
    assert status.ended_at is not None
    assert status.ended_at - status.due_at >= timedelta(seconds=0.2)


async def test_c4_a_fork_is_not_delayed(dbos: DBOS) -> None:
    await begin("w")
    with SetStartDelay(3600):
        fork = await DBOS.fork_workflow("w", 1)
    await DBOS.send(fork.workflow_id, "fork", "t")
    assert await fork.get_result() == ["w", "fork"]
    assert (await fork.get_status()).due_at is None


async def test_c4_delayed_starts_wait_for_an_executor(database_url: str, connection: Any) -> None:
    async with DBOSClient(database_url) as client:
        with SetStartDelay(0.05):
            handle = await client.start_workflow(begins, 1)
        await client.send(handle.workflow_id, 2, "t", delay_seconds=0.01)
        await eventually(lambda: connection.fetchval("select bool_and(due_at < now()) from dbos_async.workflows"))
        assert (await handle.get_status()).status == "DELAYED"
        async with DBOS(database_url):
            assert await handle.get_result() == [1, 2]


# Sends that start


@DBOS.step(name="sends and starts in a step")
async def sends_in_step() -> None:
    await DBOS.send("of a step", 1, "t", start=Start(begins, "step"))


@DBOS.workflow(name="sends and starts")
async def sends(workflow_id: str) -> list[Any]:
    told: list[Any] = [await DBOS.send(workflow_id, 1, "t", start=Start(begins, "a widget")) for _ in range(2)]
    try:
        await DBOS.send(workflow_id, 2, "t", start=Start(another))
    except WorkflowConflictError as error:
        told.append(error.args)
    await sends_in_step()
    return told


async def result(workflow_id: str) -> Any:
    return await (await DBOS.retrieve_workflow(workflow_id)).get_result()


async def test_c4_a_send_starts_its_destination_if_it_is_not_there(dbos: DBOS, database_url: str) -> None:
    assert await DBOS.send("w", 1, "t", start=Start(begins, "a widget"))
    assert await DBOS.send("w", 2, "t", start=Start(begins, "ignored")) in (True, False)
    assert await result("w") == ["a widget", 1]
    assert not await DBOS.send("w", 3, "t", start=Start(begins)), "it has ended, and the message is stored"
    assert [message.payload for message in await DBOS.list_messages("w", status="waiting")] == [2, 3]
    async with DBOSClient(database_url) as client:
        for workflow_id, start in (("by name", Start("begins later", "x")), ("by function", Start(begins, "x"))):
            await client.send(workflow_id, 1, "t", start=start)
            assert await result(workflow_id) == ["x", 1]
            with pytest.raises(WorkflowConflictError):
                await client.send(workflow_id, 1, "t", start=Start("another function"))


async def test_c4_w1_another_function_is_refused_and_nothing_is_stored(dbos: DBOS, connection: Any) -> None:
    await DBOS.send("w", 1, "t", start=Start(begins, "a widget"))
    await result("w")
    for delay in (None, 60):
        with pytest.raises(WorkflowConflictError):
            await DBOS.send("w", 2, "t", start=Start(another), delay_seconds=delay)
    for table in ("messages", "workflows"):
        assert await connection.fetchval(f"select count(*) from dbos_async.{table}") == 1
    assert await connection.fetchval("select count(*) from dbos_async.delayed_messages") == 0


async def test_c4_with_a_delay_the_start_is_now_and_the_message_later(dbos: DBOS) -> None:
    await DBOS.send("w", 1, "t", start=Start(begins, "a"), delay_seconds=0.3, idempotency_key="k")
    await DBOS.send("w", 2, "t", start=Start(begins, "b"), delay_seconds=0.1, idempotency_key="k")
    handle = await DBOS.retrieve_workflow("w")
    await eventually(lambda: DBOS.list_workflow_steps("w"))
    assert await handle.get_result() == ["a", 1]
    with SetStartDelay(0.3), SetWorkflowTimeout(60):
        await DBOS.send("delayed", 1, "t", start=Start(begins, "c"))
    status = await (await DBOS.retrieve_workflow("delayed")).get_status()
    assert (status.status, status.deadline is not None) == ("DELAYED", True)
    assert await result("delayed") == ["c", 1]


async def test_c4_from_workflows_and_steps_a_send_starts_exactly_once(dbos: DBOS, connection: Any) -> None:
    handle = await DBOS.start_workflow(sends, "w")
    assert await handle.get_result() == [True, True, ["w", "begins later", "another function"]]
    assert (await result("w"), await result("of a step")) == (["a widget", 1], ["step", 1])
    for workflow_id in ("w", "of a step"):
        assert (await (await DBOS.retrieve_workflow(workflow_id)).get_status()).parent_id == handle.workflow_id
    fork = await DBOS.fork_workflow(handle.workflow_id, 4)
    assert await fork.get_result() == [True, True, ["w", "begins later", "another function"]]
    assert len(await DBOS.list_messages("w")) == 2


async def test_c4_in_a_transaction_the_start_and_the_message_come_with_the_commit(dbos: DBOS, connection: Any) -> None:
    transaction = connection.transaction()
    await transaction.start()
    await DBOS.send("w", 1, "t", start=Start(begins, "rolled back"), connection=connection)
    await transaction.rollback()
    assert await DBOS.list_workflows() == []
    async with connection.transaction():
        await DBOS.send("w", 1, "t", start=Start(begins, "a"), connection=connection)
        with pytest.raises(WorkflowConflictError):
            await DBOS.send("w", 2, "t", start=Start(another), connection=connection)
        assert await DBOS.list_workflows() == []
    assert await result("w") == ["a", 1]


async def test_c4_many_senders_side_by_side_start_one_workflow(dbos: DBOS, database_url: str) -> None:
    @DBOS.workflow(name="counts what starts it")
    async def counts(count: int) -> list[int]:
        return sorted([await DBOS.recv("t", None) for _ in range(count)])

    async def starts_plainly() -> None:
        with SetWorkflowID("w"):
            await DBOS.start_workflow(counts, 60)

    async with DBOSClient(database_url) as client:
        crowd = [(DBOS, client)[n % 2].send("w", n, "t", start=Start(counts, 60)) for n in range(60)]
        await asyncio.gather(*crowd, *(starts_plainly() for _ in range(5)))
        assert await result("w") == list(range(60))


def test_d5_a_start_is_checked_where_it_is_made() -> None:
    wrongs: tuple[Any, ...] = (None, 5, len, "", "a\0b")
    for wrong in wrongs:
        with pytest.raises((RegistrationError, InvalidArgumentError)):
            Start(wrong)
    with pytest.raises(InvalidValueError):
        Start(begins, object())
    with pytest.raises(AttributeError):
        Start(begins).name = "other"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def test_c4_the_statements_of_plain_sends_and_starts_know_nothing_of_delays() -> None:
    for statement in (send.SEND, send.SEND_EXTERNAL, starts.START, starts.START_BY_ID, starts.START_CHILD):
        for text in (statement.sql.batch, statement.sql.one_row):
            assert "delay" not in text
