"""C1: `wait_first` takes the first ready one in the order of its arguments, once and for all; losers are untouched."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import pytest

from dbos_async import (
    DBOS,
    Envelope,
    Event,
    EventEnd,
    EventOf,
    EventValue,
    InvalidArgumentError,
    InvalidEventValueError,
    InvalidMessageError,
    SendMessage,
    SetWorkflowID,
    StepCancelledError,
    StepHandle,
    Stream,
    StreamEnd,
    StreamOf,
    StreamValue,
    Topic,
    WorkflowHandle,
    WorkflowNotFoundError,
    WrongPlaceError,
)
from tests.support.eventually import eventually

STOP = Topic("stop", str)
SAID = Topic("said", int)
PRICE = Event("price", int)
WORDS = Stream("words", str)

CALLS: list[str] = []


@DBOS.step(name="thinks for the first")
async def think(name: str, seconds: float = 3600) -> str:
    CALLS.append(name)
    await asyncio.sleep(seconds)
    return f"thought of {name}"


@DBOS.step(name="fails for the first")
async def fail(name: str) -> str:
    raise ValueError(name)


@DBOS.workflow(name="waits for the first of two topics")
async def two_topics(timeout_seconds: float | None = None) -> list[Any]:
    won = await DBOS.wait_first(STOP, SAID, timeout_seconds=timeout_seconds)
    return [None if won is None else won.topic, None if won is None else won.payload]


@DBOS.workflow(name="talks for the first")
async def talk(words: int = 1) -> str:
    await DBOS.set_event(PRICE, 5)
    for n in range(words):
        await DBOS.write_stream(WORDS, f"word {n}")
    await DBOS.recv("go on", None)
    return "talked"


async def start(workflow: Any, workflow_id: str, *args: Any) -> WorkflowHandle[Any]:
    with SetWorkflowID(workflow_id):
        return await DBOS.start_workflow(workflow, *args)


async def topics_left(connection: Any) -> list[str]:
    return [
        row["topic"]
        for row in await connection.fetch(
            "select topic from dbos_async.messages where received_at is null order by seq"
        )
    ]


@pytest.mark.usefixtures("dbos")
async def test_c1_the_order_of_the_arguments_is_the_priority(connection: Any) -> None:
    @DBOS.workflow(name="waits until both are there")
    async def both() -> list[Any]:
        await DBOS.recv("begin", None)
        first = await DBOS.wait_first(STOP, SAID)
        left = await DBOS.wait_first(SAID, STOP)
        return [first.topic, left.topic, await DBOS.wait_first(SAID, STOP, timeout_seconds=0.01)]

    handle = await start(both, "w")
    await DBOS.send("w", 1, SAID)
    await DBOS.send("w", "stop", STOP)
    await DBOS.send("w", None, "begin")
    assert await handle.get_result() == ["stop", "said", None]
    assert await topics_left(connection) == []


@pytest.mark.usefixtures("dbos")
@pytest.mark.parametrize("topic", [STOP, SAID])
async def test_c1_losers_are_untouched(topic: Any, connection: Any) -> None:
    handle = await start(two_topics, "w")
    await eventually(lambda: _waits(connection, "w"))
    await DBOS.send("w", "a" if topic is STOP else 1, topic)
    assert await handle.get_result() == [topic.name, "a" if topic is STOP else 1]
    (row,) = await connection.fetch("select verb, key, message_id is not null as has_message from dbos_async.steps")
    assert (row["verb"], row["has_message"]) == ("wait_first", True)
    assert row["key"] == '["topic stop","topic said"]'


async def _waits(connection: Any, workflow_id: str) -> bool:
    found: bool = await connection.fetchval(
        "select exists (select from dbos_async.steps where workflow_id = $1 and verb = 'wait_first' and completed_at is null)",
        workflow_id,
    )
    return found


@pytest.mark.usefixtures("dbos")
async def test_c1_a_time_limit_brings_none() -> None:
    assert await two_topics(0.05) == [None, None]


@pytest.mark.usefixtures("dbos")
async def test_c1_each_kind_brings_its_own() -> None:
    @DBOS.workflow(name="waits for each kind")
    async def each() -> list[Any]:
        found: list[Any] = []
        price = await DBOS.wait_first(EventOf("talk", PRICE))
        assert isinstance(price, EventValue)
        found.append([price.workflow_id, price.key, price.value, price.set_at.tzinfo is not None])
        for offset in range(2):
            word = await DBOS.wait_first(StreamOf("talk", WORDS, offset))
            assert isinstance(word, StreamValue)
            found.append([word.offset, word.value])
        await DBOS.send("talk", None, "go on")
        talking: WorkflowHandle[str] = await DBOS.retrieve_workflow("talk")
        handle = await DBOS.wait_first(STOP, talking)
        assert handle is talking
        found.append(await talking.get_result())
        end = await DBOS.wait_first(EventOf("talk", PRICE, after=price.version))
        assert end == EventEnd("talk", "price")
        assert await DBOS.wait_first(StreamOf("talk", WORDS, 2)) == StreamEnd("talk", "words", 2)
        step = await DBOS.start_step(think, "short", 0.01)
        assert await DBOS.wait_first(STOP, step) is step
        found.append(await step.get_result())
        failing = await DBOS.start_step(fail, "short")
        assert await DBOS.wait_first(STOP, failing) is failing
        with pytest.raises(ValueError, match="short"):
            await failing.get_result()
        assert failing.done
        plain = await DBOS.wait_first("plain", STOP)
        found.append(plain.payload)
        return found

    await start(talk, "talk", 2)
    handle = await start(each, "w")
    await DBOS.send("w", {"a": 1}, "plain")
    assert await handle.get_result() == [
        ["talk", "price", 5, True], [0, "word 0"], [1, "word 1"], "talked", "thought of short", {"a": 1},
    ]  # fmt: skip


async def test_c1_a_replay_brings_the_same_winners(database_url: str, connection: Any) -> None:
    CALLS.clear()

    @DBOS.workflow(name="replays its winners")
    async def work() -> list[Any]:
        found: list[Any] = []
        slow = await DBOS.start_step(think, "slow")
        while True:
            won = await DBOS.wait_first(STOP, SAID, slow, EventOf("talk", PRICE, after=2**62))
            if isinstance(won, Envelope):
                found.append(won.payload)
            if isinstance(won, Envelope) and won.topic == "stop":
                await slow.cancel()
                break
        with pytest.raises(StepCancelledError, match="was cancelled"):
            await slow.get_result()
        found.append(slow.done)
        await DBOS.recv("end", None)
        return found

    async with DBOS(database_url):
        await start(talk, "talk")
        await start(work, "w")
        for n in range(3):
            await DBOS.send("w", n, SAID)
        await eventually(lambda: _all_received(connection))
        await DBOS.send("w", "enough", STOP)
        await eventually(lambda: _has(connection, "recv", "end"))
    before = await connection.fetch(
        "select * from dbos_async.steps where completed_at is not null order by branch, number"
    )
    async with DBOS(database_url):
        await DBOS.send("w", None, "end")
        assert await (await DBOS.retrieve_workflow("w")).get_result() == [0, 1, 2, "enough", True]
    after = await connection.fetch(
        "select * from dbos_async.steps where completed_at is not null and key <> 'end' order by branch, number"
    )
    assert [row["output"] for row in after] == [row["output"] for row in before]
    assert CALLS == ["slow"]


async def _all_received(connection: Any) -> bool:
    return not await topics_left(connection)


async def _has(connection: Any, verb: str, key: str) -> bool:
    found: bool = await connection.fetchval(
        "select exists (select from dbos_async.steps where verb = $1 and key = $2)", verb, key
    )
    return found


@pytest.mark.usefixtures("dbos")
async def test_c1_a_message_that_does_not_fit_is_recorded_before_it_is_raised(connection: Any) -> None:
    @DBOS.workflow(name="receives a wrong first")
    async def work() -> list[Any]:
        with pytest.raises(InvalidMessageError):
            await DBOS.wait_first(STOP, SAID)
        won = await DBOS.wait_first(STOP, SAID)
        return [won.payload]

    handle = await start(work, "w")
    await DBOS.send("w", "no number", "said")
    await DBOS.send("w", 7, SAID)
    assert await handle.get_result() == [7]
    assert await connection.fetchval("select count(*) from dbos_async.messages where rejected is not null") == 1


@pytest.mark.usefixtures("dbos")
async def test_c1_an_abandoned_winner_goes_back(connection: Any) -> None:
    @DBOS.workflow(name="abandons its wait")
    async def work() -> list[int]:
        found: list[int] = []
        abandoned = 0
        while len(found) < 5:
            try:
                async with asyncio.timeout(0.0005 * 2**abandoned):
                    won = await DBOS.wait_first(STOP, SAID)
            except TimeoutError:
                abandoned += 1
                continue
            assert isinstance(won.payload, int)
            found.append(won.payload)
        return found

    handles = [await start(work, f"w{n}") for n in range(20)]
    for n in range(5):
        await DBOS.send_bulk([SendMessage(f"w{w}", n, SAID) for w in range(20)])
    for handle in handles:
        assert await handle.get_result() == list(range(5))
    assert await topics_left(connection) == []


@pytest.mark.usefixtures("dbos")
async def test_c1_waits_side_by_side_never_share_a_message() -> None:
    @DBOS.workflow(name="waits side by side")
    async def work() -> list[int]:
        async def one() -> int:
            won = await DBOS.wait_first(STOP, SAID)
            assert isinstance(won.payload, int)
            return won.payload

        async def other() -> int:
            value = await DBOS.recv(SAID, None)
            assert value is not None
            return value

        return sorted(await asyncio.gather(*(one() if n % 2 else other() for n in range(20))))

    handle = await start(work, "w")
    for n in range(20):
        await DBOS.send("w", n, SAID)
    assert await handle.get_result() == list(range(20))


@pytest.mark.usefixtures("dbos")
async def test_c1_a_stream_of_nobody_raises() -> None:
    @DBOS.workflow(name="waits for a stream of nobody")
    async def work() -> None:
        await DBOS.wait_first(STOP, StreamOf("nobody", WORDS))

    with pytest.raises(WorkflowNotFoundError, match="nobody"):
        await work()


@pytest.mark.usefixtures("dbos")
async def test_d5_wrong_waits_are_told() -> None:
    @DBOS.workflow(name="waits for what cannot be waited for")
    async def work(kind: str) -> None:
        waits: dict[str, Any] = {"none": [], "number": [STOP, 3], "event": [PRICE], "empty": [""], "nobody": [None]}
        await DBOS.wait_first(*waits[kind])

    for kind, words in {"none": "something to wait for", "number": "Argument 2", "event": "Argument 1", "empty": "not be empty",
                        "nobody": "Argument 1"}.items():  # fmt: skip
        with pytest.raises(InvalidArgumentError, match=words):
            await work(kind)
    with pytest.raises(WrongPlaceError, match="workflows only"):
        await DBOS.wait_first(STOP)
    with pytest.raises(WrongPlaceError, match="workflows only"):
        await DBOS.start_step(think, "a")


@pytest.mark.usefixtures("dbos")
async def test_c1_a_step_that_was_cancelled_before_it_began_does_nothing() -> None:
    CALLS.clear()

    @DBOS.workflow(name="cancels at once")
    async def work() -> list[Any]:
        steps: list[StepHandle[str]] = [await DBOS.start_step(think, f"{n}", 0) for n in range(3)]
        await asyncio.gather(*(step.cancel() for step in steps))
        again = await DBOS.start_step(think, "again", 0)
        kept = await again.get_result()
        await again.cancel()
        assert await again.get_result() == kept
        return [await asyncio.gather(*(step.get_result() for step in steps), return_exceptions=True), kept]

    errors, kept = await work()
    assert len(errors) == 3
    assert kept == "thought of again"


UNHASHABLE = Topic[Any]("unhashable", Annotated[int, []])


@pytest.mark.usefixtures("dbos")
async def test_c1_each_type_of_a_topic_will_do_and_a_topic_may_come_twice() -> None:
    @DBOS.workflow(name="waits for odd topics")
    async def work() -> list[Any]:
        return [(await DBOS.wait_first(UNHASHABLE, "other", "other")).payload for _ in range(3)]

    handle = await start(work, "w")
    for topic, value in (("other", 1), (UNHASHABLE, 2), ("other", 3)):
        await DBOS.send("w", value, topic)
    assert sorted(await handle.get_result()) == [1, 2, 3]


@pytest.mark.usefixtures("dbos")
async def test_c1_a_version_that_does_not_fit_is_told_and_what_is_gone_has_ended() -> None:
    @DBOS.workflow(name="waits for a wrong version")
    async def work() -> list[Any]:
        with pytest.raises(InvalidEventValueError) as wrong:
            await DBOS.wait_first(STOP, EventOf("talk", Event("price", dict)))
        after = wrong.value.version
        ended = await DBOS.wait_first(STOP, EventOf("talk", PRICE, after=after), await DBOS.retrieve_workflow("talk"))
        await DBOS.set_event("has ended", True)
        await DBOS.recv("deleted", None)
        return [ended, await DBOS.wait_first(STOP, EventOf("talk", PRICE, after=after))]

    await start(talk, "talk")
    handle = await start(work, "w")
    await DBOS.send("talk", None, "go on")
    await (await DBOS.retrieve_workflow("talk")).get_result()
    assert await DBOS.get_event("w", "has ended")
    await DBOS.delete_workflow("talk")
    await DBOS.send("w", None, "deleted")
    assert await handle.get_result() == [{"workflow_id": "talk", "key": "price"}] * 2
