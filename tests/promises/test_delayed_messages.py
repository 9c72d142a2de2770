"""Messages that are due later: received not before their time, in the order of their due times, once (C4)."""

from __future__ import annotations

import asyncio
import random
from datetime import datetime, timedelta
from typing import Any

import pytest

from dbos_async import (
    DBOS,
    DBOSClient,
    InvalidArgumentError,
    InvalidMessageError,
    Message,
    SendMessage,
    SetWorkflowID,
    Topic,
    WorkflowNotFoundError,
)
from tests.support.eventually import eventually

NUMBER = Topic("number", int)


@DBOS.workflow(name="receives later")
async def receives(count: int) -> list[Any]:
    """What was received, and whether that was not before its time."""
    got: list[Any] = []
    while len(got) < count:
        got.append(await DBOS.recv("t", None))
    return got


@DBOS.step(name="sends later in a step")
async def sends_in_step(to: str, delay: float) -> None:
    await DBOS.send(to, "step", "t", delay_seconds=delay)


@DBOS.workflow(name="sends later")
async def sends(to: str) -> list[bool]:
    told = [await DBOS.send(to, "workflow", "t", delay_seconds=1.6)]
    await sends_in_step(to, 1.5)
    await DBOS.send_bulk([SendMessage(to, "bulk", "t", delay_seconds=1.4), SendMessage(to, "at once", "t")])
    return told


async def start(count: int, workflow_id: str = "w") -> Any:
    with SetWorkflowID(workflow_id):
        return await DBOS.start_workflow(receives, count)


async def delayed(workflow_id: str = "w") -> list[Message]:
    return await DBOS.list_messages(workflow_id, status="delayed")


async def test_c4_messages_of_every_sender_come_in_the_order_of_their_due_times(
    dbos: DBOS, database_url: str, connection: Any
) -> None:
    handle = await start(8)
    async with DBOSClient(database_url) as client, connection.transaction():
        # The clock of what was sent in a transaction runs from the send, not from the commit.
        await DBOS.send("w", "connection", "t", delay_seconds=1.9, connection=connection)
        assert await DBOS.send("w", "outside", "t", delay_seconds=1.7)
        await client.send("w", "client", "t", delay_seconds=1.8)
        assert await (await DBOS.start_workflow(sends, "w")).get_result() == [True]
    await DBOS.send("w", "in between", "t")
    waiting = sorted((message.due_at, message.payload) for message in await delayed() if message.due_at is not None)
    assert len(waiting) == 6
    assert await handle.get_result() == ["at once", "in between", *(payload for _, payload in waiting)]


async def test_c4_a_delayed_message_is_received_not_before_its_time(dbos: DBOS, connection: Any) -> None:
    handle = await start(20)
    chance = random.Random(1)
    for n in range(20):
        await DBOS.send("w", n, "t", delay_seconds=chance.uniform(0.01, 1.5))
    due = {message.id: message.due_at for message in await delayed()}
    got = await handle.get_result()
    received = await connection.fetch("select id, payload::text::int as value, received_at from dbos_async.messages")
    early = [row["value"] for row in received if row["id"] in due and row["received_at"] < due[row["id"]]]
    assert (early, sorted(got)) == ([], list(range(20)))


async def test_c4_messages_that_are_due_at_the_same_time_keep_the_order_of_sending(dbos: DBOS, connection: Any) -> None:
    handle = await start(300)
    for n in range(0, 300, 100):
        await DBOS.send_bulk([SendMessage("w", n + m, "t", delay_seconds=3600) for m in range(100)])
    await connection.execute("update dbos_async.delayed_messages set due_at = now()")
    assert await handle.get_result() == list(range(300))


async def test_c4_m3_a_repetition_is_a_no_op_while_the_first_waits_and_after_it_was_delivered(dbos: DBOS) -> None:
    handle = await start(2)
    for value in ("first", "second"):
        await DBOS.send("w", value, "t", delay_seconds=1.5, idempotency_key="k")
    await DBOS.send_bulk([SendMessage("w", "bulk", "t", "k"), SendMessage("w", "bulk", "t", "k", None, 0.1)])
    with SetWorkflowID("k"):
        await DBOS.send("w", "by ticket", "t", delay_seconds=0.1)
    assert len(await delayed()) == 1
    await eventually(lambda: DBOS.list_messages("w", status="received"))
    await DBOS.send("w", "late", "t", delay_seconds=0.01, idempotency_key="k")
    await DBOS.send("w", "end", "t", delay_seconds=0.02)
    assert await handle.get_result() == ["first", "end"]
    assert await delayed() == []


async def test_c4_m3_a_send_without_a_delay_takes_the_place_of_a_delayed_one_of_its_key(dbos: DBOS) -> None:
    handle = await start(2)
    await DBOS.send("w", "delayed", "t", delay_seconds=0.3, idempotency_key="k")
    await DBOS.send("w", "at once", "t", idempotency_key="k")
    await DBOS.send("w", "end", "t", delay_seconds=0.6)
    assert await handle.get_result() == ["at once", "end"]
    assert await delayed() == []


async def test_c4_m9_a_message_to_a_workflow_that_has_ended_is_stored_when_it_is_due(dbos: DBOS) -> None:
    handle = await start(1)
    await DBOS.send("w", "too late", "t", delay_seconds=0.2)
    await DBOS.send("w", "end", "t")
    assert await handle.get_result() == ["end"]
    assert not await DBOS.send("w", "later still", "t", delay_seconds=0.4)
    assert await DBOS.send_bulk([SendMessage("w", "bulk", "t", delay_seconds=0.5)]) == ["w"]

    async def stored() -> list[Any]:
        return [message.payload for message in await DBOS.list_messages("w", status="waiting")]

    async def are_stored() -> bool:
        return await stored() == ["too late", "later still", "bulk"]

    await eventually(are_stored)


async def test_c4_delayed_messages_go_with_their_destination(dbos: DBOS, connection: Any) -> None:
    handle = await start(1)
    await DBOS.send("w", "never", "t", delay_seconds=0.3, idempotency_key="k")
    await DBOS.send("w", "end", "t")
    await handle.get_result()
    await DBOS.delete_workflow("w")
    assert await connection.fetchval("select count(*) from dbos_async.delayed_messages") == 0
    again = await start(1)
    await DBOS.send("w", "another life", "t", delay_seconds=0.4, idempotency_key="k")
    assert await again.get_result() == ["another life"]


async def test_c4_a_fork_has_none_of_the_delayed_messages(dbos: DBOS) -> None:
    handle = await start(1)
    await DBOS.send("w", "original", "t", delay_seconds=0.3)
    with SetWorkflowID("fork"):
        fork = await DBOS.fork_workflow("w", 1)
    assert (len(await delayed()), await delayed("fork")) == (1, [])
    assert await handle.get_result() == ["original"]
    await DBOS.send("fork", "fork", "t")
    assert await fork.get_result() == ["fork"]


async def test_c4_without_an_executor_delayed_messages_wait(database_url: str, connection: Any) -> None:
    async with DBOS(database_url):
        await start(3)
    async with DBOSClient(database_url) as client:
        for n, delay in enumerate((0.9, 0.3, 0.6)):
            await client.send("w", n, "t", delay_seconds=delay)
        is_due = "select bool_and(due_at < now()) from dbos_async.delayed_messages"
        await eventually(lambda: connection.fetchval(is_due))
        assert len(await client.list_messages("w", status="delayed")) == 3
        async with DBOS(database_url):
            assert await (await client.retrieve_workflow("w")).get_result() == [1, 2, 0]


async def test_c4_delayed_messages_are_listed_in_pages_and_under_their_status(dbos: DBOS, database_url: str) -> None:
    await start(1)
    sent: list[tuple[int, str, float]] = [(n, "t" if n % 2 else "u", 3600 - n) for n in range(7)]
    await DBOS.send_bulk([SendMessage("w", n, topic, delay_seconds=delay) for n, topic, delay in sent])
    assert await DBOS.list_messages("w") == []
    for newest_first in (False, True):
        seen: list[Any] = []
        cursor = None
        while page := await DBOS.list_messages(
            "w", status="delayed", limit=3, cursor=cursor, newest_first=newest_first
        ):
            seen += page
            cursor = page[-1].cursor
        assert [message.payload for message in seen] == list(range(7))[:: -1 if newest_first else 1]
    first = await DBOS.list_messages("w", status="delayed", limit=2)
    rest = await DBOS.list_messages("w", status="delayed", after=first[-1].id, topic="u")
    assert [message.payload for message in rest] == [2, 4, 6]
    async with DBOSClient(database_url) as client:  # of which another process has read the first page
        rest = await client.list_messages("w", status="delayed", after=first[-1].id, payloads=False)
    assert [(message.payload, message.received_at) for message in rest] == [(None, None)] * 5
    now = await DBOS.now()
    assert all(message.due_at is not None and message.due_at > now for message in first)


async def test_c4_m2_all_of_a_bulk_is_stored_or_nothing(dbos: DBOS, connection: Any) -> None:
    await start(1)
    with pytest.raises(WorkflowNotFoundError):
        await DBOS.send_bulk([SendMessage("w", 1, delay_seconds=60), SendMessage("nobody", 1, delay_seconds=60)])
    with pytest.raises(WorkflowNotFoundError):
        await DBOS.send("nobody", 1, delay_seconds=60)
    with pytest.raises(InvalidMessageError):
        await DBOS.send("w", "seven", NUMBER, delay_seconds=60)  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    transaction = connection.transaction()
    await transaction.start()
    await DBOS.send("w", 1, delay_seconds=60, connection=connection)
    await transaction.rollback()
    assert await delayed() == []


@pytest.mark.parametrize("seconds", [-1, "1", float("nan"), float("inf"), True, 10**10])
async def test_d5_a_delay_that_is_none_is_refused(dbos: DBOS, seconds: Any) -> None:
    await start(1)
    with pytest.raises(InvalidArgumentError, match="delay_seconds must be a number of seconds"):
        await DBOS.send("w", 1, delay_seconds=seconds)


async def test_c4_no_delay_is_no_delay(dbos: DBOS) -> None:
    handle = await start(2)
    await DBOS.send("w", 1, "t", delay_seconds=0)
    await DBOS.send("w", 2, "t", delay_seconds=None)
    assert await handle.get_result() == [1, 2]


async def test_c4_a_process_that_delays_a_message_moves_it_at_once(dbos: DBOS, connection: Any) -> None:
    """Not within the second in which another process would find it."""
    handle = await start(30)
    for n in range(30):
        await DBOS.send("w", n, "t", delay_seconds=0.8 + n * 0.02)
    due = {message.id: message.due_at for message in await delayed()}
    assert await handle.get_result() == list(range(30))
    late: list[timedelta] = []
    for message in await DBOS.list_messages("w"):
        at: datetime | None = due.get(message.id)
        if at is not None and message.received_at is not None:
            late.append(message.received_at - at)
    assert sorted(late)[len(late) // 2] < timedelta(seconds=0.3), "a look a second would be late by half a second"


ABANDONED: list[str] = []


@DBOS.workflow(name="impatient later")
async def impatient(count: int, seed: int) -> None:
    """Abandon each verb so often at any moment."""
    chance = random.Random(seed)
    while len(ABANDONED) < count:
        what = len(ABANDONED) % 4
        try:
            async with asyncio.timeout(chance.choice((0.0, 0.0005, 0.001, 0.002, 0.004)) * chance.random()):
                if what == 0:
                    await DBOS.send("receiver", 1, "t", delay_seconds=3600)
                elif what == 1:
                    await DBOS.now()
                elif what == 2:
                    await DBOS.sleep_until(await DBOS.now() + timedelta(hours=1))
                else:
                    await DBOS.random()
        except TimeoutError:
            ABANDONED.append("")


async def test_c4_m2_a_thousand_cancellations_store_what_is_recorded_and_nothing_else(
    dbos: DBOS, connection: Any
) -> None:
    await start(1, "receiver")
    handle = await DBOS.start_workflow(impatient, 1000, 7)
    async with asyncio.timeout(60):
        await handle.get_result()
    recorded = "select count(*) from dbos_async.steps where verb = 'send'"
    stored = "select count(*) from dbos_async.delayed_messages"

    async def are_as_many() -> bool:
        return bool(await connection.fetchval(recorded) == await connection.fetchval(stored) > 0)

    await eventually(are_as_many)
    assert len(ABANDONED) == 1000
