"""What the next generation keeps of what this one has received and written: keys, questions, events and streams (T2)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dbos_async import (
    DBOS,
    Asked,
    Question,
    SetApplicationVersion,
    SetWorkflowID,
    Topic,
)
from tests.support.eventually import eventually
from tests.support.generations import INBOX, collect, counts, generation, note, send_all, start

pytestmark = pytest.mark.usefixtures("dbos")

QUOTE = Question("generations quote", str, int)
AGES = Topic("generations ages", int)


async def is_generation(number: int) -> bool:
    return await generation() == number


async def keyed(number: int) -> None:
    await DBOS.send("w", number, INBOX, idempotency_key=f"key {number}")


async def test_m3_t2_a_key_is_remembered_through_the_generation_after_the_one_that_received_it(connection: Any) -> None:
    handle = await start(collect, 1, [])
    await keyed(1)
    await eventually(lambda: is_generation(2))
    await keyed(1)
    await keyed(2)
    await eventually(lambda: is_generation(3))
    assert (await counts(connection))["messages"] == 1  # the key 1 is forgotten, and 2 is kept
    await keyed(2)
    await keyed(1)
    await eventually(lambda: is_generation(4))
    await send_all([0])
    assert await handle.get_result() == [1, 2, 1, -4]


@DBOS.workflow(name="generations, answers later")
async def answers_later(asked: Asked[str, int] | None, turns: int) -> str:
    if asked is None:
        asked = await DBOS.recv_envelope(QUOTE, None)
        assert asked is not None
    await DBOS.recv(INBOX, None)
    if turns == 0:
        await asked.answer(len(asked.payload))
        await DBOS.recv(INBOX, None)
        return "answered"
    await DBOS.continue_as_new(asked, turns - 1)


@DBOS.workflow(name="generations, asks")
async def asks(workflow_id: str) -> int:
    return await DBOS.ask(workflow_id, QUOTE, "four", timeout_seconds=None)


@pytest.mark.parametrize("place", ["outside", "workflow", "later"])
async def test_c2_t2_a_question_is_answered_by_a_later_generation(place: str, connection: Any) -> None:
    handle = await start(answers_later, None, 3)
    asking: asyncio.Task[int] | None = None
    if place == "workflow":
        with SetWorkflowID("asker"):
            asker = await DBOS.start_workflow(asks, "w")
        asking = asyncio.create_task(asker.get_result())
    else:
        asking = asyncio.create_task(DBOS.ask("w", QUOTE, "four", timeout_seconds=None))
    await eventually(_has_received)
    (question,) = await DBOS.list_messages("w")
    if place == "later":
        asking.cancel()
    for number in range(3):
        await send_all([number])
    await eventually(lambda: is_generation(4))
    assert (await counts(connection))["messages"] == 1
    await send_all([4])
    if place == "later":
        assert await DBOS.get_answer(question.id, QUOTE, timeout_seconds=20) == 4
    else:
        assert await asking == 4
    await send_all([5])
    assert await handle.get_result() == "answered"


async def _has_received() -> bool:
    return any(step.verb == "recv_envelope" and step.completed_at for step in await DBOS.list_workflow_steps("w"))


@DBOS.workflow(name="generations, answers and goes on")
async def answers_and_goes_on(turn: int) -> None:
    asked = await DBOS.recv_envelope(QUOTE, None)
    assert asked is not None
    await asked.answer(turn)
    await DBOS.continue_as_new(turn + 1)


async def test_c2_t2_an_answer_waits_for_a_workflow_that_asked_as_long_as_that_does(
    database_url: str, connection: Any
) -> None:
    """The asker is stopped by hand before it has read its answer: it has no executor while others go on."""
    await start(answers_and_goes_on, 1)
    with SetWorkflowID("asker"):
        asker = await DBOS.start_workflow(asks, "w")
    assert await asker.get_result() == 1
    await connection.execute("""
        update dbos_async.steps set completed_at = null, place = null,
            output = (select json_build_object('message_id', id) from dbos_async.messages where sender_id = 'asker')
        where workflow_id = 'asker' and verb = 'ask';
        update dbos_async.workflows set status = 'CANCELLED', ended_at = null, output = null where id = 'asker'
    """)
    for turn in range(2, 6):
        assert await DBOS.ask("w", QUOTE, "x") == turn
    await eventually(lambda: is_generation(6))
    assert await connection.fetchval("select count(*) from dbos_async.messages where sender_id = 'asker'") == 1
    assert await (await DBOS.resume_workflow("asker")).get_result() == 1
    assert await DBOS.ask("w", QUOTE, "x") == 6
    assert await DBOS.ask("w", QUOTE, "x") == 7
    await eventually(lambda: is_generation(8))
    assert await connection.fetchval("select count(*) from dbos_async.messages where sender_id = 'asker'") == 0


async def test_c2_t2_an_answered_question_stays_for_one_more_generation(connection: Any) -> None:
    await start(answers_and_goes_on, 1)
    seen = [await DBOS.ask("w", QUOTE, "x") for _ in range(5)]
    assert seen == [1, 2, 3, 4, 5]
    await eventually(lambda: is_generation(6))
    assert (await counts(connection))["messages"] == 1
    (message,) = await DBOS.list_messages("w")
    assert await DBOS.get_answer(message.id, QUOTE) == 5


@DBOS.workflow(name="generations, rejects")
async def rejects(turn: int) -> str:
    if turn == 3:
        return f"is {await DBOS.recv(INBOX, None)}"
    try:
        await DBOS.recv(AGES, None)
    except Exception:
        await DBOS.set_event("rejected", turn)
    await DBOS.recv(INBOX, None)
    await DBOS.continue_as_new(turn + 1)


async def test_d2_t2_a_rejected_message_stays_and_is_redelivered(connection: Any) -> None:
    handle = await start(rejects, 1)
    await DBOS.send("w", "no age", AGES.name)
    await DBOS.send("w", 1, INBOX)
    await eventually(lambda: is_generation(2))
    await DBOS.send("w", 3, AGES)
    await DBOS.send("w", 2, INBOX)
    await eventually(lambda: is_generation(3))
    (message,) = await DBOS.list_messages("w")
    assert message.rejected is not None
    await DBOS.redeliver(message.id)
    (copy,) = await DBOS.list_messages("w", status="waiting")
    assert copy.payload == "no age"
    await DBOS.send("w", "over", INBOX)
    assert await handle.get_result() == "is over"
    await DBOS.delete_workflow("w")
    assert await counts(connection) == dict.fromkeys(("steps", "messages", "events", "stream_entries"), 0)


@DBOS.step(name="generations, writes")
async def writes(turn: int, *, fails: bool) -> None:
    async with DBOS.stream_writer("tokens") as out:
        await out.write(f"{turn} a")
        await out.write(f"{turn} b")
    if fails:
        raise ValueError("once more")


@DBOS.workflow(name="generations, streams")
async def streams(turn: int) -> int:
    await writes(turn, fails=False)
    async with DBOS.stream_writer("body") as out:
        await out.write(turn)
        await DBOS.set_event("turn", turn)
        await DBOS.set_event("turn", turn + 0.5)
        if turn == 4:
            await DBOS.recv(INBOX, None)
            return turn
        await DBOS.continue_as_new(turn + 1)


async def test_s8_t2_streams_and_events_go_on_through_the_generations(connection: Any) -> None:
    read = asyncio.create_task(_read("tokens"))
    entries = asyncio.create_task(_entries("tokens"))
    watched = asyncio.create_task(_watched("turn"))
    handle = await start(streams, 1)
    await eventually(lambda: is_generation(4))
    await eventually(lambda: _is_set(4.5))
    versions = "select value::text from dbos_async.events where workflow_id = 'w' order by seq"
    assert [row[0] for row in await connection.fetch(versions)] == ["3.5", "4", "4.5"]
    await send_all([0])
    assert await handle.get_result() == 4
    expected = [f"{turn} {letter}" for turn in (1, 2, 3, 4) for letter in "ab"]
    assert await read == expected
    assert await entries == expected
    assert [value async for value in DBOS.read_stream("w", "body")] == [1, 2, 3, 4]
    seen = await watched
    assert seen == sorted(seen)
    assert seen[-1] == 4.5


async def _is_set(value: float) -> bool:
    return bool(await DBOS.get_event("w", "turn") == value)


async def _existing() -> None:
    await eventually(_exists)


async def _exists() -> bool:
    return bool(await DBOS.list_workflows(workflow_id="w"))


async def _read(key: str) -> list[Any]:
    await _existing()
    return [value async for value in DBOS.read_stream("w", key)]


async def _entries(key: str) -> list[Any]:
    await _existing()
    return [getattr(entry, "value", entry) async for entry in DBOS.read_stream_entries("w", key)]


async def _watched(key: str) -> list[Any]:
    await _existing()
    return [version.value async for version in DBOS.watch_event("w", key)]


async def test_t2_a_fork_copies_the_present_generation_with_all_that_was_written_before(connection: Any) -> None:
    await start(streams, 1)
    await eventually(lambda: is_generation(4))
    await eventually(lambda: _is_set(4.5))
    await DBOS.send("w", "kept", "other", idempotency_key="k")
    for step in (1, 2, 5):
        with SetWorkflowID(f"fork {step}"):
            fork = await DBOS.fork_workflow("w", step)
        await DBOS.send(fork.workflow_id, 0, INBOX)
        assert await fork.get_result() == 4
        assert (await fork.get_status()).generation == 1
        for key, expected in (("body", [1, 2, 3, 4]), ("tokens", [f"{t} {x}" for t in (1, 2, 3, 4) for x in "ab"])):
            assert [value async for value in DBOS.read_stream(fork.workflow_id, key)] == expected
        assert await DBOS.get_event(fork.workflow_id, "turn") == 4.5
        with SetWorkflowID(f"fork of fork {step}"):
            second = await DBOS.fork_workflow(fork.workflow_id, 2)
        await DBOS.send(second.workflow_id, 0, INBOX)
        assert await second.get_result() == 4
        assert [value async for value in DBOS.read_stream(second.workflow_id, "body")] == [1, 2, 3, 4]


@DBOS.workflow(name="generations, move")
async def moves(turn: int) -> int:
    await note("here")
    if turn == 2:
        return turn
    with SetApplicationVersion("2"):
        await DBOS.continue_as_new(turn + 1)


async def test_t2_w2_the_next_generation_moves_to_another_version(database_url: str) -> None:
    await DBOS.shutdown()
    async with DBOS(database_url, application_version="1"):
        handle = await start(moves, 1)
        await eventually(lambda: is_generation(2))
        status = await handle.get_status()
        assert (status.application_version, status.executor_id, status.status) == ("2", None, "PENDING")
    async with DBOS(database_url, application_version="2"):
        assert await (await DBOS.retrieve_workflow("w")).get_result() == 2


async def test_t2_a_forgotten_fork_keeps_what_was_received_before_as_received(connection: Any) -> None:
    await start(collect, 1, [])
    await keyed(1)
    await eventually(lambda: is_generation(2))
    with SetWorkflowID("copy"):
        fork = await DBOS.fork_workflow("w", 1)
    await DBOS.send("copy", 1, INBOX, idempotency_key="key 1")  # known to the copy, too
    await DBOS.send("copy", 0, INBOX)
    assert await fork.get_result() == [1, -2]
    await DBOS.delete_workflow("copy")
    assert await counts(connection, "copy") == dict.fromkeys(("steps", "messages", "events", "stream_entries"), 0)


async def test_c4_t2_a_delayed_message_comes_to_a_later_generation() -> None:
    handle = await start(collect, 1, [])
    await DBOS.send("w", 0, INBOX, delay_seconds=1)
    await send_all([1, 2])
    await eventually(lambda: is_generation(3))
    assert await handle.get_result() == [1, 2, -3]
