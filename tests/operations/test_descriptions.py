"""One workflow as a conversation: its steps with the other sides, its messages, and what it waits for now."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dbos_async import (
    DBOS,
    InvalidArgumentError,
    InvalidMessageError,
    Question,
    SetWorkflowID,
    Topic,
    WorkflowNotFoundError,
)
from tests.support.eventually import eventually
from tests.support.workflows import echo, echo_in_a_step, wait_for_ever

NUMBER = Topic("number", int)
HEALTH = Question("health", str, str)


@DBOS.workflow()
async def described_buy() -> str:
    await DBOS.set_event("state", "begun")
    await DBOS.set_event("state", "waits")
    paid = await DBOS.recv("paid", timeout_seconds=600)
    shipping = await DBOS.start_workflow(wait_for_ever)
    await DBOS.send(shipping.workflow_id, paid, "news")
    await DBOS.write_stream("log", "a")
    await DBOS.write_stream("log", "b")
    await DBOS.close_stream("log")
    await DBOS.wait_first("stop", "go")
    return "bought"


@DBOS.workflow()
async def described_pay(order_id: str) -> None:
    await DBOS.send(order_id, {"cents": 5}, "paid")


async def waits_for(workflow_id: str, verb: str) -> None:
    async def holds() -> bool:
        return [wait.verb for wait in (await DBOS.describe_workflow(workflow_id)).waits] == [verb]

    await eventually(holds, f"{workflow_id} waits in {verb}")


async def test_a_description_tells_the_whole_conversation(dbos: DBOS, connection: Any) -> None:
    with SetWorkflowID("order"):
        handle = await DBOS.start_workflow(described_buy)
    await waits_for("order", "recv")
    (wait,) = (await DBOS.describe_workflow("order")).waits
    assert (wait.step, wait.what, wait.peer_id) == ("3", "a message about 'paid'", None)
    assert wait.until is not None
    assert 590 < (wait.until - wait.since).total_seconds() < 601
    with SetWorkflowID("payment"):
        await described_pay("order")
    await waits_for("order", "wait_first")
    await DBOS.send("order", "hello", "other")

    found = await DBOS.describe_workflow("order")
    assert [wait.what for wait in found.waits] == ["the first of: topic stop, topic go"]
    assert found.waits[0].until is None
    (child,) = found.children
    assert [(step.step, step.verb, step.peer_id, step.topic) for step in found.steps] == [
        ("1", "set_event", None, None),
        ("2", "set_event", None, None),
        ("3", "recv", "payment", "paid"),
        ("4", "start_workflow", child.workflow_id, None),
        ("5", "send", child.workflow_id, "news"),
        ("6", "write_stream", None, None),
        ("7", "write_stream", None, None),
        ("8", "close_stream", None, None),
        ("9", "wait_first", None, None),
    ]
    assert found.executor_is_live
    assert found.steps[2].output == {"cents": 5}
    assert found.steps[2].sent_at is not None
    assert (found.step_count, found.children_count, found.cursor) == (9, 1, None)
    assert [(one.key, one.value, one.versions) for one in found.events] == [("state", "waits", 2)]
    assert [(one.key, one.end, one.is_closed) for one in found.streams] == [("log", 2, True)]
    assert [one.payload for one in found.messages] == ["hello"]
    assert (found.waiting, found.rejected, found.delayed) == (1, 0, 0)
    assert (await DBOS.describe_workflow("payment")).steps[0].peer_id == "order"

    await DBOS.send("order", 1, "go")
    assert await handle.get_result() == "bought"
    over = await DBOS.describe_workflow("order")
    assert (over.waits, over.status.status) == ([], "SUCCESS")
    await connection.execute("update dbos_async.executors set lease_until = now() - interval '1 hour'")
    assert not (await DBOS.describe_workflow("order")).executor_is_live
    assert over.steps[-1].topic == "go"


@DBOS.step(retries_allowed=True, interval_seconds=3600)
async def described_fail() -> None:
    raise OSError("the bank is closed")


@DBOS.workflow()
async def described_try_it() -> None:
    await described_fail()


@DBOS.workflow()
async def described_await_result(workflow_id: str) -> Any:
    return await (await DBOS.retrieve_workflow(workflow_id)).get_result()


@DBOS.workflow()
async def described_read_event(workflow_id: str) -> Any:
    return await DBOS.get_event(workflow_id, "k", timeout_seconds=None)


@DBOS.workflow()
async def described_read_stream(workflow_id: str) -> None:
    async for _ in DBOS.read_stream(workflow_id, "k"):
        pass


@DBOS.workflow()
async def described_ask(workflow_id: str) -> Any:
    return await DBOS.ask(workflow_id, HEALTH, "how are you?")


@DBOS.workflow()
async def described_sleep(_: str) -> None:
    await DBOS.sleep(3600)


@pytest.mark.parametrize(
    ("workflow", "verb", "what", "peer_id"),
    [
        (described_await_result, "get_result", "the result of 'other'", "other"),
        (described_read_event, "get_event", "the event k of other", "other"),
        (described_read_stream, "read_stream", "a value of the stream k of other", "other"),
        (described_ask, "ask", "the answer of 'other' about 'health'", "other"),
        (described_sleep, "sleep", "the end of a sleep", None),
    ],
)
async def test_each_wait_is_told_in_words(dbos: DBOS, workflow: Any, verb: str, what: str, peer_id: str | None) -> None:
    with SetWorkflowID("other"):
        await DBOS.start_workflow(wait_for_ever)
    with SetWorkflowID("w"):
        await DBOS.start_workflow(workflow, "other")
    await waits_for("w", verb)
    (wait,) = (await DBOS.describe_workflow("w")).waits
    assert (wait.what, wait.peer_id) == (what, peer_id)


async def test_a_step_that_is_tried_again_is_a_wait_with_its_last_error(dbos: DBOS) -> None:
    with SetWorkflowID("w"):
        await DBOS.start_workflow(described_try_it)

    async def has_failed() -> bool:
        waits = (await DBOS.describe_workflow("w")).waits
        return bool(waits) and waits[0].last_error is not None

    await eventually(has_failed)
    found = await DBOS.describe_workflow("w")
    assert (found.waits[0].what, found.waits[0].last_error) == (
        "the end of step described_fail, attempt 2",
        "OSError: the bank is closed",
    )
    assert found.waits[0].until is not None
    assert [(step.step, step.attempt) for step in found.steps] == [("1", 2)]


@DBOS.workflow()
async def described_several_tasks() -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(DBOS.recv(f"topic {number}", timeout_seconds=None))


@DBOS.workflow()
async def described_gives_up_a_wait() -> None:
    try:
        async with asyncio.timeout(0.05):
            await DBOS.recv("never", timeout_seconds=None)
    except TimeoutError:
        await DBOS.recv("later", timeout_seconds=None)


async def test_each_task_has_its_wait_and_a_cancelled_wait_is_none(dbos: DBOS) -> None:
    with SetWorkflowID("several"):
        await DBOS.start_workflow(described_several_tasks)
    with SetWorkflowID("gives up"):
        await DBOS.start_workflow(described_gives_up_a_wait)

    async def all_wait() -> bool:
        several, gives_up = await DBOS.describe_workflow("several"), await DBOS.describe_workflow("gives up")
        return len(several.waits) == 3 and [wait.key for wait in gives_up.waits] == ["later"]

    await eventually(all_wait)
    found = await DBOS.describe_workflow("several")
    assert {wait.what for wait in found.waits} == {f"a message about 'topic {number}'" for number in range(3)}


@DBOS.workflow()
async def described_many_steps(count: int) -> None:
    for number in range(count):
        await echo_in_a_step(number)


async def test_descriptions_come_in_pages_from_the_end(dbos: DBOS) -> None:
    with SetWorkflowID("w"):
        await described_many_steps(25)
    found: list[Any] = []
    before: str | None = None
    while True:
        page = await DBOS.describe_workflow("w", limit=10, before=before)
        found = [step.output for step in page.steps] + found
        assert page.step_count == 25
        if (before := page.cursor) is None:
            break
    assert found == list(range(25))


async def test_a_large_value_is_left_out_of_a_description(dbos: DBOS) -> None:
    large = "".join(chr(0x4E00 + number * 7919 % 20000) for number in range(100_000))
    with SetWorkflowID("w"):
        await DBOS.start_workflow(wait_for_ever)
    await DBOS.send("w", large, "news")
    with SetWorkflowID("big"):
        await described_echo_workflow(large)
    (message,) = (await DBOS.describe_workflow("w")).messages
    assert message.payload is None
    found = await DBOS.describe_workflow("big")
    assert found.status.input is None
    (step,) = found.steps
    assert (step.output, step.is_cut) == (None, True)


@DBOS.workflow()
async def described_echo_workflow(value: str) -> int:
    return len(await echo_in_a_step(value))


@DBOS.workflow()
async def described_read_number() -> Any:
    try:
        return await DBOS.recv(NUMBER, timeout_seconds=None)
    except InvalidMessageError:
        return None


async def test_a_rejected_message_is_part_of_the_description(dbos: DBOS) -> None:
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(described_read_number)
    await DBOS.send("w", "five", "number")
    assert await handle.get_result() is None
    found = await DBOS.describe_workflow("w")
    assert (found.rejected, [one.payload for one in found.messages]) == (1, ["five"])
    assert found.steps[0].error is not None


async def test_a_description_of_nothing_is_an_error(dbos: DBOS) -> None:
    with pytest.raises(WorkflowNotFoundError):
        await DBOS.describe_workflow("nowhere")
    await echo(1)
    (one,) = await DBOS.list_workflows()
    for wrong in ("", "x", "W10=", 5, "WyIyMDI2LTExLTI2IiwgIiIsIDFd"):
        with pytest.raises(InvalidArgumentError, match="before"):
            await DBOS.describe_workflow(one.workflow_id, before=wrong)  # type: ignore[arg-type]  # 5 is wrong, too
    with pytest.raises(InvalidArgumentError, match="limit"):
        await DBOS.describe_workflow(one.workflow_id, limit=0)


@DBOS.workflow()
async def described_describe_from_within() -> int:
    return (await DBOS.describe_workflow(DBOS.workflow_id or "")).step_count + len(await DBOS.list_executors())


async def test_a_workflow_may_ask_like_anybody_and_its_replay_sees_the_same(dbos: DBOS) -> None:
    with SetWorkflowID("w"):
        assert await described_describe_from_within() == 1
    assert [step.verb for step in await DBOS.list_workflow_steps("w")] == ["describe_workflow", "list_executors"]
