"""Messages: promises M1 to M9."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from dbos_async import (
    DBOS,
    DBOSClient,
    Envelope,
    InvalidArgumentError,
    InvalidMessageError,
    SendMessage,
    SetWorkflowID,
    Topic,
    WorkflowNotFoundError,
    WrongPlaceError,
)
from tests.support.eventually import eventually

pytestmark = pytest.mark.usefixtures("dbos")


@DBOS.workflow()
async def receive(count: int, topic: str | None = None) -> list[Any]:
    return [await DBOS.recv(topic, None) for _ in range(count)]


@DBOS.workflow()
async def receive_once(topic: str | None, timeout_seconds: float | None) -> Any:
    return await DBOS.recv(topic, timeout_seconds)


@DBOS.workflow()
async def receive_envelope(topic: str | None, timeout_seconds: float) -> Any:
    envelope = await DBOS.recv_envelope(topic, timeout_seconds)
    return None if envelope is None else envelope.model_dump(mode="json")


@DBOS.workflow()
async def idle() -> None:
    await DBOS.recv("the end", None)


@DBOS.workflow()
async def forward(destination_id: str, messages: list[Any]) -> None:
    for message in messages:
        await DBOS.send(destination_id, message)


@DBOS.workflow()
async def forward_bulk(destination_id: str, messages: list[Any]) -> None:
    await DBOS.send_bulk([SendMessage(destination_id, message) for message in messages])


async def test_m1_a_sent_message_is_received() -> None:
    handle = await DBOS.start_workflow(receive, 1)
    await DBOS.send(handle.workflow_id, {"status": "paid"})
    assert await handle.get_result() == [{"status": "paid"}]


async def test_m1_send_returns_after_the_commit(connection: Any) -> None:
    handle = await DBOS.start_workflow(idle)
    await DBOS.send(handle.workflow_id, "kept")
    assert await connection.fetchval("select payload from dbos_async.messages") == '"kept"'


async def test_m2_a_workflow_sends_in_order_exactly_once() -> None:
    receiver = await DBOS.start_workflow(receive, 20)
    await forward(receiver.workflow_id, list(range(10)))
    await forward_bulk(receiver.workflow_id, list(range(10, 20)))
    assert await receiver.get_result() == list(range(20))


async def test_m2_send_bulk_is_all_or_nothing(connection: Any) -> None:
    receiver = await DBOS.start_workflow(idle)
    with pytest.raises(WorkflowNotFoundError, match="nobody"):
        await DBOS.send_bulk([SendMessage(receiver.workflow_id, 1), SendMessage("nobody", 2)])
    assert await connection.fetchval("select count(*) from dbos_async.messages") == 0


async def test_m3_an_idempotency_key_makes_a_repeated_send_a_no_op(connection: Any) -> None:
    first, second = await DBOS.start_workflow(receive, 2), await DBOS.start_workflow(idle)
    for _ in range(3):
        await DBOS.send(first.workflow_id, "once", idempotency_key="k")
    await DBOS.send(second.workflow_id, "another destination", idempotency_key="k")
    await eventually(lambda: connection.fetchval("select bool_or(received_at is not null) from dbos_async.messages"))
    await DBOS.send(first.workflow_id, "again, after it was received", idempotency_key="k")
    await DBOS.send(first.workflow_id, "last")
    assert await first.get_result() == ["once", "last"]
    assert await connection.fetchval("select count(*) from dbos_async.messages") == 3


async def test_m3_set_workflow_id_is_the_key_of_a_send_outside_workflows() -> None:
    handle = await DBOS.start_workflow(receive, 2)
    for _ in range(2):
        with SetWorkflowID("webhook-1"):
            await DBOS.send(handle.workflow_id, "once")
    await DBOS.send(handle.workflow_id, "last")
    assert await handle.get_result() == ["once", "last"]


async def test_m3_set_workflow_id_makes_a_repeated_bulk_a_no_op() -> None:
    handle = await DBOS.start_workflow(receive, 4)
    for _ in range(2):
        with SetWorkflowID("webhook-1"):
            await DBOS.send_bulk([SendMessage(handle.workflow_id, n) for n in range(3)])
    await DBOS.send(handle.workflow_id, "last")
    assert await handle.get_result() == [0, 1, 2, "last"]


async def test_m3_many_senders_repeat_the_same_keys_in_one_batch() -> None:
    handle = await DBOS.start_workflow(receive, 40)
    sends = [DBOS.send(handle.workflow_id, n % 40, idempotency_key=f"k{n % 40}") for n in range(400)]
    await asyncio.gather(*sends)
    assert sorted(await handle.get_result()) == list(range(40))


async def test_m4_topics_are_queues_of_their_own() -> None:
    handle = await DBOS.start_workflow(receive, 1)
    await DBOS.send(handle.workflow_id, "on a topic", "topic")
    await DBOS.send(handle.workflow_id, "on none")
    assert await handle.get_result() == ["on none"]
    with_topic = await DBOS.start_workflow(receive, 2, "a")
    await DBOS.send(with_topic.workflow_id, 0)
    await DBOS.send_bulk([SendMessage(with_topic.workflow_id, n, "b" if n % 2 else "a") for n in range(4)])
    assert await with_topic.get_result() == [0, 2]


async def test_m4_sends_one_after_another_keep_their_order_whoever_sends(database_url: str) -> None:
    handle = await DBOS.start_workflow(receive, 30)
    async with DBOSClient(database_url) as client:
        for n in range(0, 30, 3):
            await DBOS.send(handle.workflow_id, n)
            await client.send(handle.workflow_id, n + 1)
            await forward(handle.workflow_id, [n + 2])
    assert await handle.get_result() == list(range(30))


@DBOS.workflow()
async def receive_side_by_side(count: int) -> list[Any]:
    return await asyncio.gather(*(DBOS.recv("t", 30) for _ in range(count)))


async def test_m5_receives_side_by_side_share_and_lose_nothing() -> None:
    waiting = await DBOS.start_workflow(receive_side_by_side, 20)
    await DBOS.send_bulk([SendMessage(waiting.workflow_id, n, "t") for n in range(20)])
    assert sorted(await waiting.get_result()) == list(range(20))
    with SetWorkflowID("ready"):
        before = DBOS.start_workflow(receive_side_by_side, 20)
        handle = await before
    await asyncio.gather(*(DBOS.send(handle.workflow_id, n, "t") for n in range(20)))
    assert sorted(await handle.get_result()) == list(range(20))


async def test_m6_recv_times_out_with_none_and_leaves_the_message_that_comes_late() -> None:
    assert await receive_once("t", 0.05) is None
    assert await receive_once("t", 0) is None


async def test_m6_timeout_zero_takes_a_message_that_is_there() -> None:
    @DBOS.workflow()
    async def poll() -> list[Any]:
        await DBOS.recv("go", None)
        return [await DBOS.recv("t", 0), await DBOS.recv("t", 0)]

    handle = await DBOS.start_workflow(poll)
    await DBOS.send(handle.workflow_id, "there", "t")
    await DBOS.send(handle.workflow_id, None, "go")
    assert await handle.get_result() == ["there", None]


async def test_m6_the_deadline_is_judged_by_the_clock_of_the_database(connection: Any) -> None:
    handle = await DBOS.start_workflow(receive_once, "t", 3600)
    find = "select deadline - now() from dbos_async.steps"
    await eventually(lambda: connection.fetchval(find))
    assert timedelta(seconds=3590) < await connection.fetchval(find) <= timedelta(seconds=3600)
    await connection.execute("update dbos_async.steps set deadline = now()")
    await DBOS.send(handle.workflow_id, "a wake-up on another topic", "other")
    # Whoever looks again finds that its time is over, although its own process believes in an hour.
    async with asyncio.timeout(45):
        from dbos_async._executor import launched

        launched.executor().database.wakeups.wake_all()
        assert await handle.get_result() is None


async def test_m7_sending_to_nobody_raises_and_stores_nothing(connection: Any) -> None:
    with pytest.raises(WorkflowNotFoundError, match="no workflow with the id 'nobody'"):
        await DBOS.send("nobody", 1)
    assert await connection.fetchval("select count(*) from dbos_async.messages") == 0


async def test_m7_one_bad_call_in_a_crowd_harms_no_other() -> None:
    handle = await DBOS.start_workflow(receive, 99)
    sends = [DBOS.send("nobody" if n == 50 else handle.workflow_id, n) for n in range(100)]
    outcomes = await asyncio.gather(*sends, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes if outcome is not True] == [WorkflowNotFoundError]
    assert sorted(await handle.get_result()) == [n for n in range(100) if n != 50]


async def test_m7_in_a_workflow_the_error_is_recorded_and_can_be_caught() -> None:
    @DBOS.workflow()
    async def send_to_nobody() -> str:
        try:
            await DBOS.send("nobody", 1)
        except WorkflowNotFoundError as error:
            return error.workflow_id
        return ""

    handle = await DBOS.start_workflow(send_to_nobody)
    assert await handle.get_result() == "nobody"
    (step,) = await DBOS.list_workflow_steps(handle.workflow_id)
    assert (step.verb, step.error["args"]) == ("send", ["nobody"])


async def test_m8_steps_send_too(database_url: str) -> None:
    receiver = await DBOS.start_workflow(receive, 2)

    @DBOS.step()
    async def notify() -> None:
        await DBOS.send(receiver.workflow_id, "from a step")

    @DBOS.workflow()
    async def sender() -> None:
        await notify()

    await sender()
    await notify()  # outside of workflows it is a plain call, and so is its send
    assert await receiver.get_result() == ["from a step", "from a step"]


async def test_m9_messages_wait_for_their_receiver_and_for_nobody(connection: Any) -> None:
    @DBOS.workflow()
    async def late() -> Any:
        await DBOS.recv("go", None)
        return await DBOS.recv("t", 0)

    handle = await DBOS.start_workflow(late)
    await DBOS.send(handle.workflow_id, "early", "t")
    await DBOS.send(handle.workflow_id, "never received", "other")
    await DBOS.send(handle.workflow_id, None, "go")
    assert await handle.get_result() == "early"
    await DBOS.send(handle.workflow_id, "after the end")
    left = await connection.fetch("select payload from dbos_async.messages where received_at is null order by seq")
    assert [row["payload"] for row in left] == ['"never received"', '"after the end"']


async def test_an_envelope_has_everything_and_tells_none_from_a_timeout() -> None:
    handle = await DBOS.start_workflow(receive_envelope, "t", 30)
    await DBOS.send(handle.workflow_id, None, "t", headers={"trace": "1"})
    envelope = Envelope[Any].model_validate(await handle.get_result())
    assert isinstance(envelope.id, UUID)
    assert envelope.payload is None
    assert envelope.topic == "t"
    assert envelope.sender_id is None
    assert envelope.headers == {"trace": "1"}
    assert abs(envelope.sent_at - datetime.now(UTC)) < timedelta(minutes=5)
    assert envelope.sent_at.utcoffset() == timedelta(0)
    assert await receive_envelope("t", 0.01) is None


async def test_d2_a_typed_topic_is_checked_at_the_sender(connection: Any) -> None:
    paid = Topic("paid", int)

    @DBOS.workflow()
    async def receive_typed() -> int | None:
        return await DBOS.recv(paid)

    handle = await DBOS.start_workflow(receive_typed)
    with pytest.raises(InvalidMessageError, match="cannot be used"):
        await DBOS.send(handle.workflow_id, "seven", paid)  # type: ignore[misc]  # the mistake under test
    await DBOS.send(handle.workflow_id, 7, paid)
    assert await handle.get_result() == 7
    assert await connection.fetchval("select count(*) from dbos_async.messages") == 1


INCOMPRESSIBLE = "".join(chr(0x1F300 + (n * n * 7919 + n * 104729) % 0x2FF) for n in range(512))

ODD_KEYS = [
    INCOMPRESSIBLE,
    "\\",
    "\\x00",
    "back\\\\slash",
    "a::b",
    "it's",
    '"quoted"',
    "😀" * 512,
    " ",
    "\n",
    "'; drop table x; --",
    "\x7f",
    "a" * 512,
]


@pytest.mark.parametrize("key", ODD_KEYS)
async def test_d3_any_text_is_a_topic_an_id_and_an_idempotency_key(key: str) -> None:
    with SetWorkflowID(key):
        handle = await DBOS.start_workflow(receive, 1, key)
    await DBOS.send(key, key, key, idempotency_key=key)
    await DBOS.send(key, "again", key, idempotency_key=key)
    assert await handle.get_result() == [key]

    @DBOS.workflow()
    async def say() -> list[Any]:
        await DBOS.set_event(key, key)
        await DBOS.write_stream(key, key)
        return [value async for value in DBOS.read_stream(key, "no such stream")]

    with SetWorkflowID(key[:-1] + "!"):
        other = await DBOS.start_workflow(say)
    assert await other.get_result() == []
    assert await DBOS.get_event(other.workflow_id, key) == key
    assert await DBOS.get_all_events(other.workflow_id) == {key: key}
    assert [value async for value in DBOS.read_stream(other.workflow_id, key)] == [key]


@pytest.mark.parametrize("key", ["", "a" * 513, "a\0b", "\ud800", 7])
async def test_d3_a_bad_key_raises_one_sentence_and_stores_nothing(key: Any, connection: Any) -> None:
    handle = await DBOS.start_workflow(idle)
    for call in (
        lambda: DBOS.send(key, 1),
        lambda: DBOS.send(handle.workflow_id, 1, key),
        lambda: DBOS.send(handle.workflow_id, 1, idempotency_key=key),
        lambda: DBOS.get_event(key, "k"),
        lambda: DBOS.get_event("id", key),
    ):
        with pytest.raises(InvalidArgumentError) as raised:
            await call()
        assert str(raised.value).count(". ") == 0
    with pytest.raises(InvalidArgumentError):
        SetWorkflowID(key)
    assert await connection.fetchval("select count(*) from dbos_async.messages") == 0


@pytest.mark.parametrize("seconds", [-1, float("nan"), "5", True])
async def test_a_bad_timeout_raises_before_anything_is_recorded(seconds: Any) -> None:
    @DBOS.workflow()
    async def wait() -> str:
        try:
            await DBOS.recv("t", seconds)
        except InvalidArgumentError as error:
            return str(error)
        return ""

    handle = await DBOS.start_workflow(wait)
    assert "timeout_seconds must be a number of seconds" in await handle.get_result()
    assert await DBOS.list_workflow_steps(handle.workflow_id) == []


async def test_d6_recv_works_in_workflows_only() -> None:
    with pytest.raises(WrongPlaceError, match="outside of workflows"):
        await DBOS.recv()

    @DBOS.step()
    async def receive_in_a_step() -> None:
        await DBOS.recv()

    @DBOS.workflow()
    async def workflow() -> None:
        await receive_in_a_step()

    with pytest.raises(WrongPlaceError, match="inside a step"):
        await workflow()
