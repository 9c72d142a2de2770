"""A sender of another process completes the receive that waits for its message (M1, M2, M4, M5, M6, M9, D2, W2, W3, W4)."""

from __future__ import annotations

import asyncio
import random
from typing import Any
from uuid import UUID

import pytest

from dbos_async import DBOS, DBOSClient, Envelope, SendMessage, SetWorkflowID, Topic
from dbos_async._database.batches import Batches
from dbos_async._database.change_keys import message_key
from dbos_async._executor import launched
from dbos_async._messaging import handoff
from dbos_async._messaging.recv import CLOSE, PUT_BACK, TAKE, TAKE_WAITING
from dbos_async._messaging.send import SEND_EXTERNAL
from dbos_async.errors import InvalidMessageError
from tests.conftest import Connect
from tests.support.eventually import eventually
from tests.support.races import CLAIM_BY_HAND, blocked
from tests.support.statements import Row, execute, step

NUMBER = Topic("number", int)
OPEN = (
    "select count(*) = 1 from dbos_async.steps where workflow_id = 'w' and completed_at is null and output is not null"
)
COUNTED: dict[str, int] = {}


@DBOS.workflow(name="handed: takes")
async def takes(count: int) -> list[Any]:
    return [await DBOS.recv("t", timeout_seconds=60) for _ in range(count)]


@DBOS.workflow(name="handed: takes envelopes")
async def takes_envelopes() -> list[Any]:
    first: Envelope[Any] | None = await DBOS.recv_envelope("t", timeout_seconds=60)
    second = await DBOS.wait_first(Topic("t", Any), timeout_seconds=60)
    return [first and first.payload, second and second.payload]


@DBOS.workflow(name="handed: takes numbers")
async def takes_numbers() -> str:
    try:
        number: int | None = await DBOS.recv(NUMBER, timeout_seconds=60)
        return str(number)
    except InvalidMessageError as error:
        COUNTED["misfits"] = COUNTED.get("misfits", 0) + 1
        return type(error).__name__


@DBOS.workflow(name="handed: gives up now and then")
async def gives_up(count: int, seed: int) -> list[Any]:
    chance = random.Random(seed)
    found: list[Any] = []
    while len(found) < count:
        try:
            async with asyncio.timeout(chance.choice((0.0005, 0.002, 0.005, 0.02)) * chance.random() * 2):
                found.append(await DBOS.recv("t", timeout_seconds=60))
        except TimeoutError:
            if chance.random() < 0.3:
                await DBOS.sleep(0.001)
            elif chance.random() < 0.5:
                await asyncio.sleep(0.002)
    return found


@DBOS.workflow(name="handed: another task acts meanwhile")
async def acts_meanwhile() -> list[Any]:
    seen: list[Any] = []
    tasks: list[asyncio.Task[None]] = []

    async def act() -> None:
        await DBOS.set_event("acted", True)
        seen.append("acted")

    asyncio.get_running_loop().call_later(0.2, lambda: tasks.append(asyncio.get_running_loop().create_task(act())))
    seen.append(await DBOS.recv("t", timeout_seconds=60))
    await tasks[0]
    return seen


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    COUNTED.clear()
    run = Batches.execute

    def execute_counted(self: Batches, call: Any) -> Any:
        COUNTED[call.statement.name] = COUNTED.get(call.statement.name, 0) + 1
        return run(self, call)

    monkeypatch.setattr(Batches, "execute", execute_counted)
    return COUNTED


async def begin(workflow: Any, *args: Any) -> Any:
    with SetWorkflowID("w"):
        return await DBOS.start_workflow(workflow, *args)


@pytest.mark.listens("nothing is handed to a process that polls")
async def test_m5_a_send_from_another_process_completes_the_receive_that_waits(
    counted: dict[str, int], dbos: DBOS, database_url: str, connection: Any
) -> None:
    handle = await begin(takes, 4)
    async with DBOSClient(database_url) as client:
        for number, message in enumerate(["a", {"ä": "😀"}, "x" * 5000, "y" * 9000]):
            await eventually(lambda: connection.fetchval(OPEN), "it waits on record")
            before = dict(counted)
            await client.send("w", message, "t")
            await eventually(lambda done=number + 1: connection.fetchval(  # type: ignore[misc]
                "select count(*) = $1 from dbos_async.steps where workflow_id = 'w' and message_id is not null", done
            ))  # fmt: skip
            if number < 3:
                assert counted.get("TAKE_WAITING") == before.get("TAKE_WAITING"), "it has not polled for it"
        assert await handle.get_result() == ["a", {"ä": "😀"}, "x" * 5000, "y" * 9000]
    assert counted.get("TAKE_WAITING", 0) <= 1, "the long message was not in the notification"
    assert await connection.fetchval("select bool_and(received_at is not null) from dbos_async.messages")


@DBOS.workflow(name="handed: answers each")
async def answers_each(count: int) -> None:
    for _ in range(count):
        await DBOS.write_stream("said", await DBOS.recv("asked"))


@pytest.mark.listens("it counts polls in the place of notifications")
async def test_m5_a_receive_of_a_conversation_polls_once_for_a_message_of_another_process(
    counted: dict[str, int], dbos: DBOS, database_url: str, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handoff, "GRACE_SECONDS", 5.0)
    handle = await begin(answers_each, 8)
    await eventually(lambda: connection.fetchval(OPEN), "it waits on record")
    await eventually(lambda: launched.executor().runs["w"].tasks_waiting, "and its process knows it")
    wakeups = launched.executor().database.wakeups
    async with DBOSClient(database_url) as client:
        said = client.read_stream("w", "said")
        for number in range(8):
            await eventually(lambda: wakeups.subscriptions(message_key("w", "asked")), "it receives")
            await client.send("w", number, "asked")
            assert await anext(said) == number
        await handle.get_result()
    assert (counted["TAKE"], counted.get("TAKE_WAITING", 0)) == (8, 0)


@pytest.mark.parametrize("another_comes", [True, False])
async def test_m6_several_messages_that_one_wakeup_brings_cost_one_grace_period(
    dbos: DBOS, database_url: str, connection: Any, monkeypatch: pytest.MonkeyPatch, another_comes: bool
) -> None:
    monkeypatch.setattr(handoff, "GRACE_SECONDS", 1.0)
    handle = await begin(takes, 21)
    await eventually(lambda: connection.fetchval(OPEN), "it waits on record")
    async with DBOSClient(database_url) as client:
        await client.send_bulk([SendMessage("w", number, "t") for number in range(20)])
        received = "select count(received_at) from dbos_async.messages"
        await eventually(lambda: connection.fetchval(f"select ({received}) > 0"))
        began = asyncio.get_running_loop().time()
        if not another_comes:
            await eventually(lambda: connection.fetchval(f"select ({received}) = 20"))
        await client.send("w", 20, "t")
        assert await handle.get_result() == [*range(21)]
    assert asyncio.get_running_loop().time() - began < 10, "not one for each of them"


async def test_m4_what_is_no_recv_is_not_handed(dbos: DBOS, database_url: str, connection: Any) -> None:
    handle = await begin(takes_envelopes)
    async with DBOSClient(database_url) as client:
        for message in ("a", "b"):
            await eventually(lambda: launched.executor().runs["w"].tasks_waiting)
            assert not await connection.fetchval(OPEN)
            await client.send("w", message, "t")
            await eventually(lambda: "w" not in launched.executor().runs or connection.fetchval(
                "select count(*) = 1 from dbos_async.steps where workflow_id = 'w' and completed_at is not null"
            ))  # fmt: skip
        assert await handle.get_result() == ["a", "b"]


@pytest.mark.parametrize("seed", range(3))
async def test_m1_m4_abandoned_receives_lose_nothing_that_another_process_sends(
    dbos: DBOS, database_url: str, connection: Any, seed: int
) -> None:
    count, chance = 60, random.Random(seed)
    handle = await begin(gives_up, count, seed)
    async with DBOSClient(database_url) as client:
        for number in range(count):
            await client.send("w", number, "t")
            await asyncio.sleep(chance.choice((0, 0.001, 0.004, 0.03)) * chance.random())
        async with asyncio.timeout(60):
            assert await handle.get_result() == [*range(count)]
    assert await connection.fetchval("select bool_and(received_at is not null) from dbos_async.messages")


@pytest.mark.listens("nothing is handed to a process that polls")
async def test_w2_what_was_handed_to_a_workflow_whose_executor_has_died_is_replayed(
    database_url: str, connection: Any
) -> None:
    async with DBOS(database_url, drain_seconds=0):
        await begin(takes, 2)
        await eventually(lambda: connection.fetchval(OPEN), "it waits on record")
    async with DBOSClient(database_url) as client:
        await connection.execute("update dbos_async.workflows set owner = 'an executor that is gone'")
        await client.send("w", 1, "t")
        await connection.execute("update dbos_async.workflows set owner = null")
        await client.send("w", 2, "t")
    assert await connection.fetchval("select count(*) = 1 from dbos_async.steps where message_id is not null")
    assert await connection.fetchval("select count(*) = 1 from dbos_async.messages where received_at is null")
    async with DBOS(database_url):
        assert await (await DBOS.retrieve_workflow("w")).get_result() == [1, 2]


@pytest.mark.listens("nothing is handed to a process that polls")
async def test_d2_what_does_not_fit_is_the_recorded_outcome_when_it_is_handed(
    database_url: str, connection: Any
) -> None:
    COUNTED.clear()
    async with DBOS(database_url), DBOSClient(database_url) as client:
        handle = await begin(takes_numbers)
        await eventually(lambda: connection.fetchval(OPEN), "it waits on record")
        await client.send("w", "no number", "number")
        assert await handle.get_result() == "InvalidMessageError"
    assert await connection.fetchval("select rejected is not null and received_at is not null from dbos_async.messages")
    assert await connection.fetchval("select error is not null from dbos_async.steps where verb = 'recv'")


@pytest.mark.listens("nothing is handed to a process that polls")
async def test_w4_a_receive_is_closed_before_another_task_acts(
    counted: dict[str, int], dbos: DBOS, database_url: str, connection: Any
) -> None:
    handle = await begin(acts_meanwhile)
    await eventually(lambda: connection.fetchval(OPEN), "it waits on record")
    async with DBOSClient(database_url) as client:
        assert await client.get_event("w", "acted", timeout_seconds=60)
        assert not await connection.fetchval(OPEN)
        await client.send("w", "m", "t")
        assert await handle.get_result() == ["acted", "m"]
    assert counted["CLOSE"] == 1
    rows = await connection.fetch("select branch, place from dbos_async.steps where workflow_id = 'w' order by place")
    assert [(row["branch"] == "", row["place"] is None) for row in rows] == [(False, False), (True, False)]


def take(number: int = 1, attempt: int = 1, seconds: float | None = 60.0) -> Row:
    return (*step(number, attempt), "recv", "t", seconds, True)


def post(tag: str = "m", executor: str | None = None) -> Row:
    return UUID(int=ord(tag[0])), "w", "t", f'"{tag}"', None, b"12345678", executor


async def handed(connection: Any) -> list[tuple[int, str | None]]:
    """The main task's steps that are complete, and what they have."""
    rows = await connection.fetch(
        "select number, output from dbos_async.steps where workflow_id = 'w' and completed_at is not null order by number"
    )
    return [(row["number"], row["output"]) for row in rows]


async def send(connection: Any, row: Row) -> None:
    (answer,) = await execute(connection, SEND_EXTERNAL, row, form="usual, alone")
    assert answer["outcome"] == "done"
    assert answer["error"] is None


async def unreceived(connection: Any) -> list[str]:
    rows = await connection.fetch(
        "select payload from dbos_async.messages where destination_id = 'w' and topic = 't' and received_at is null order by seq"
    )
    return [row["payload"] for row in rows]


async def test_m4_only_the_receive_that_is_open_is_handed_a_message(one: Any) -> None:
    await send(one, post("a"))
    assert await unreceived(one) == ['"a"'], "there is no receive"
    await execute(one, TAKE, take())
    await execute(one, TAKE, take(2))
    await send(one, post("b"))
    assert await handed(one) == [(1, '"a"'), (2, '"b"')]
    await execute(one, TAKE, (*take(3)[:-1], False))
    await send(one, post("c"))
    assert await unreceived(one) == ['"c"'], "the receive is not open"
    (answer,) = await execute(one, TAKE_WAITING, take(3))
    assert answer["output"] == '"c"'
    await execute(one, TAKE, take(4))
    await send(one, post("d", executor="me"))
    assert await unreceived(one) == ['"d"'], "the sender runs the workflow itself"
    await send(one, post("e"))
    assert await unreceived(one) == ['"d"', '"e"'], "no message overtakes one that waits"
    for expected in ("d", "e"):
        (answer,) = await execute(one, TAKE_WAITING, take(4 if expected == "d" else 5))
        assert answer["output"] == f'"{expected}"'


@pytest.mark.parametrize(
    "change",
    [
        CLAIM_BY_HAND,
        "update dbos_async.workflows set status = 'CANCELLED', ended_at = now() where id = 'w'",
        "insert into dbos_async.steps (workflow_id, branch, number, verb, key) values ('w', '', 2, 'sleep', '')",
        "update dbos_async.steps set output = null where workflow_id = 'w'",
        "update dbos_async.steps set key = 'other' where workflow_id = 'w'",
    ],
)
async def test_m4_w3_a_receive_that_is_not_there_any_more_gets_nothing(one: Any, change: str) -> None:
    await execute(one, TAKE, take())
    await one.execute(change)
    await execute(one, SEND_EXTERNAL, post("a"), form="usual, alone")
    assert await handed(one) == []
    assert await unreceived(one) == ['"a"']


@pytest.mark.parametrize("first", ["timeout", "other sender", "closed", "next generation", "deleted"])
async def test_m5_m6_the_row_of_the_step_decides(one: Any, two: Any, three: Any, first: str) -> None:
    """The sender has seen the receive wait, and meets whoever was there before at the row of the step."""
    await execute(one, TAKE, take(seconds=0.05 if first == "timeout" else 60.0))
    if first == "timeout":
        await asyncio.sleep(0.06)
    await one.execute("begin")
    if first == "timeout":
        (answer,) = await execute(one, TAKE_WAITING, take(seconds=0.05))
        assert (answer["outcome"], answer["output"]) == ("done", None)
    elif first == "other sender":
        await send(one, post("a"))
    elif first == "closed":
        (answer,) = await execute(one, CLOSE, ("w", "", 1))
        assert answer["message_id"] is None
    else:
        await one.execute("delete from dbos_async.steps where workflow_id = 'w'")
        if first == "next generation":
            await one.execute("update dbos_async.workflows set attempt = attempt + 1 where id = 'w'")
            await execute(one, TAKE, take(attempt=2))
    sending = asyncio.create_task(send(two, post("b")))
    await blocked(two, sending, three)
    await one.execute("commit")
    await sending
    assert await unreceived(one) == ['"b"']
    expected: dict[str, list[tuple[int, str | None]]] = {"timeout": [(1, None)], "other sender": [(1, '"a"')]}
    assert await handed(one) == expected.get(first, [])


async def test_m1_m5_an_abandoned_receive_tells_what_it_was_handed(one: Any, two: Any, three: Any) -> None:
    """Closing waits for the sender that has come first, and what that has delivered goes back."""
    await execute(one, TAKE, take())
    await one.execute("begin")
    await send(one, post("a"))
    closing = asyncio.create_task(execute(two, CLOSE, ("w", "", 1)))
    await blocked(two, closing, three)
    await one.execute("commit")
    ((_, message_id),) = await closing
    assert message_id == UUID(int=ord("a"))
    await execute(two, PUT_BACK, (*step(1), "recv", "t", message_id))
    assert await unreceived(one) == ['"a"']
    await send(one, post("b"))
    assert await unreceived(one) == ['"a"', '"b"'], "the step is not open any more"
    assert await handed(one) == []


async def test_m6_the_sender_comes_first_and_the_poll_finds_it_recorded(one: Any, two: Any, connect: Connect) -> None:
    three = await connect()
    await execute(one, TAKE, take(seconds=0.05))
    await asyncio.sleep(0.06)
    await one.execute("begin")
    await send(one, post("a"))
    polling = asyncio.create_task(execute(two, TAKE_WAITING, take(seconds=0.05)))
    await blocked(two, polling, three)
    await one.execute("commit")
    (answer,) = await polling
    assert answer["outcome"] == "again"
    (answer,) = await execute(two, TAKE_WAITING, take(seconds=0.05))
    assert (answer["outcome"], answer["output"], answer["message_id"]) == ("recorded", '"a"', UUID(int=ord("a")))


async def test_m1_nothing_is_handed_to_a_process_that_does_not_listen(database_url: str, connection: Any) -> None:
    """Its polls look for messages that wait."""
    async with DBOS(database_url, listen=False), DBOSClient(database_url) as client:
        with SetWorkflowID("w"):
            handle = await DBOS.start_workflow(takes, 2)
        waits = "select count(*) = {} from dbos_async.steps where workflow_id = 'w'"
        for number in (1, 2):
            await eventually(lambda number=number: connection.fetchval(waits.format(number)), "it waits on record")  # type: ignore[misc]  # mypy infers no default
            assert not await connection.fetchval(OPEN)
            await client.send("w", number, "t")
        async with asyncio.timeout(10):
            assert await handle.get_result() == [1, 2]
