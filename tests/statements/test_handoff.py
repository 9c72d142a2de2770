"""A send whose receiver waits in the same process takes the message for it, in one statement (M1, M4, M5, M6, W3)."""

from __future__ import annotations

import asyncio
from itertools import permutations
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from dbos_async import DBOS, DBOSClient, SendMessage, SetWorkflowID
from dbos_async._database import wakeups
from dbos_async._database.change_keys import UNOWNED_KEY, message_key
from dbos_async._database.connection_kinds import OwnConnection
from dbos_async._executor import launched
from dbos_async._messaging import recv
from dbos_async._messaging import send as sending
from tests.conftest import Connect
from tests.support.channels import announcements
from tests.support.eventually import eventually
from tests.support.races import CLAIM_BY_HAND, blocked, state
from tests.support.statements import Row, execute, forms, step

NOBODY = None, None, None, None


def message(tag: str, receiver: Row = (1, "", 1), topic: str = "t") -> Row:
    """A send from outside to ``w`` that may hand its message to a step of it."""
    return (*NOBODY, "send", "w", uuid4(), "w", topic, f'"{tag}"', None, b"d", None, *receiver, None)


def take(number: int = 1, attempt: int = 1, seconds: float | None = 60.0) -> Row:
    return (*step(number, attempt), "recv", "t", seconds, False)


async def send(connection: Any, row: Row) -> bool:
    """Whether the message was delivered by the send."""
    (answer,) = await execute(connection, sending.SEND, row)
    assert (answer["outcome"], answer["error"]) == ("done", None)
    return bool(answer["delivered"])


async def it_waits(connection: Any, number: int = 1) -> None:
    """The workflow ``w`` waits at this step: the database knows, and its process has got the answer."""

    async def waits() -> bool:
        is_begun = await connection.fetchval("select count(*) from dbos_async.steps where workflow_id = 'w'")
        return is_begun >= number and launched.executor().runs["w"].tasks_waiting > 0

    await eventually(waits, "it waits")


async def test_m5_a_waiting_receive_is_handed_its_message(one: Any) -> None:
    (answer,) = await execute(one, recv.TAKE, take())
    assert answer["outcome"] == "wait"
    assert await send(one, message("a"))
    assert await state(one) == ([(1, '"a"', True)], [('"a"', True)])
    (answer,) = await execute(one, recv.TAKE, take())
    assert (answer["outcome"], answer["output"]) == ("recorded", '"a"')
    # The next one goes to the queue, since that receive has what it wanted.
    assert not await send(one, message("b"))
    assert await state(one) == ([(1, '"a"', True)], [('"a"', True), ('"b"', False)])


async def test_m5_a_receive_that_has_not_yet_looked_is_handed_its_message(one: Any) -> None:
    assert await send(one, message("a"))
    (answer,) = await execute(one, recv.TAKE, take())
    assert (answer["outcome"], answer["output"]) == ("recorded", '"a"')
    assert answer["message_id"] == await one.fetchval("select id from dbos_async.messages where topic = 't'")


async def test_m4_no_message_overtakes_one_that_waits(one: Any) -> None:
    assert not await send(one, message("older", (None, None, None)))
    assert not await send(one, message("a"))
    assert await state(one) == ([], [('"older"', False), ('"a"', False)])


async def test_m4_of_one_batch_only_the_first_is_handed_over(one: Any) -> None:
    rows = [message("a", (None, None, None)), message("b"), message("c", (1, "", 1), "u")]
    answers = await execute(one, sending.SEND, *rows, calls=3)
    assert [answer["delivered"] for answer in sorted(answers, key=lambda answer: int(answer["n"]))] == [
        False,
        False,
        True,
    ]
    assert (await state(one))[1] == [('"a"', False), ('"b"', False)]


async def test_w3_a_run_that_was_taken_over_is_handed_nothing(one: Any) -> None:
    await execute(one, recv.TAKE, take())
    await one.execute(CLAIM_BY_HAND)
    assert not await send(one, message("a"))
    assert await state(one) == ([(1, None, False)], [('"a"', False)])


async def test_m6_a_receive_that_timed_out_is_handed_nothing(one: Any) -> None:
    (answer,) = await execute(one, recv.TAKE, take(seconds=0.0))
    assert (answer["outcome"], answer["output"]) == ("done", None)
    assert not await send(one, message("a"))
    assert await state(one) == ([(1, None, True)], [('"a"', False)])


async def test_w4_another_step_than_the_receive_is_handed_nothing(one: Any) -> None:
    await execute(one, recv.TAKE, (*step(1), "recv", "another topic", 60.0, False))
    assert not await send(one, message("a"))
    assert (await state(one))[1] == [('"a"', False)]


@pytest.mark.parametrize("first_ends_by", ["commit", "rollback"])
async def test_m5_a_handover_waits_for_a_receive_that_is_on_its_way(
    first_ends_by: str, one: Any, two: Any, three: Any
) -> None:
    await one.execute("begin")
    await execute(one, recv.TAKE, take())
    task = asyncio.create_task(send(two, message("a")))
    await blocked(two, task, three)
    await one.execute(first_ends_by)
    assert await task
    assert await state(three) == ([(1, '"a"', True)], [('"a"', True)])


@pytest.mark.parametrize("first_ends_by", ["commit", "rollback"])
async def test_m5_a_receive_waits_for_a_handover_that_is_on_its_way(
    first_ends_by: str, one: Any, two: Any, three: Any
) -> None:
    await one.execute("begin")
    assert await send(one, message("a"))
    task = asyncio.create_task(execute(two, recv.TAKE, take()))
    await blocked(two, task, three)
    await one.execute(first_ends_by)
    (answer,) = await task
    assert answer["outcome"] == ("again" if first_ends_by == "commit" else "wait")
    (answer,) = await execute(two, recv.TAKE, take())
    assert (answer["outcome"], answer["output"]) == (
        ("recorded", '"a"') if first_ends_by == "commit" else ("wait", None)
    )


async def test_m5_a_handover_comes_too_late_for_a_receive_that_takes_another_message(
    one: Any, two: Any, three: Any
) -> None:
    await one.execute("begin")
    await send(one, message("a", (None, None, None)))
    await execute(one, recv.TAKE, take())  # does not see what is not committed, and waits
    await one.execute("commit")
    await one.execute("begin")
    (answer,) = await execute(one, recv.TAKE, take())
    assert answer["output"] == '"a"'
    task = asyncio.create_task(send(two, message("b")))
    done, _ = await asyncio.wait([task], timeout=0.2)
    assert not done or not task.result(), "the queue had an older message, as far as it could see"
    await one.execute("commit")
    assert not await task
    assert await state(three) == ([(1, '"a"', True)], [('"a"', True), ('"b"', False)])


@DBOS.workflow(name="takes two")
async def takes_two() -> list[Any]:
    return [await DBOS.recv("t", None), await DBOS.recv("t", None)]


@DBOS.workflow(name="gives up and takes")
async def gives_up_and_takes() -> list[Any]:
    receive = asyncio.create_task(DBOS.recv("t", None))
    RECEIVES.append(receive)
    await asyncio.wait([receive])
    return [receive.cancelled(), await DBOS.recv("t", None), await DBOS.recv("t", None)]


RECEIVES: list[asyncio.Task[Any]] = []


async def handed_over(connection: Any) -> list[bool]:
    """Of every message whether the transaction that stored it has completed its receiver's step, too."""
    rows = await connection.fetch(
        "select m.born::text::bigint % (1::bigint << 32) = s.xmin::text::bigint as delivered from dbos_async.messages as m "
        "join dbos_async.steps as s on s.message_id = m.id order by m.seq"
    )
    return [bool(row["delivered"]) for row in rows]


@pytest.mark.parametrize("sender", ["outside", "a step", "a workflow"])
async def test_m5_a_send_to_a_workflow_that_waits_here_is_one_transaction(
    sender: str, dbos: DBOS, connection: Any
) -> None:
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(takes_two)
    for n in range(2):
        await it_waits(connection, n + 1)
        if sender == "outside":
            await DBOS.send("w", n, "t")
        else:
            await sends_one(n, sender == "a step")
    assert await handle.get_result() == [0, 1]
    assert await handed_over(connection) == [True, True]


@DBOS.step(name="sends one in a step")
async def sends_in_a_step(n: int) -> None:
    await DBOS.send("w", n, "t")


@DBOS.workflow(name="sends one")
async def sends_one(n: int, in_a_step: bool) -> None:
    await (sends_in_a_step(n) if in_a_step else DBOS.send("w", n, "t"))


async def test_m1_m4_what_is_handed_to_an_abandoned_receive_goes_back(
    dbos: DBOS, connection: Any, connect: Connect
) -> None:
    RECEIVES.clear()
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(gives_up_and_takes)
    await it_waits(connection)
    locks = await connect()
    await locks.execute("begin")
    await locks.execute("select from dbos_async.steps where workflow_id = 'w' for update")
    sending = asyncio.create_task(DBOS.send("w", "a", "t"))

    async def hangs() -> bool:
        return bool(
            await connection.fetchval(
                "select count(*) from pg_stat_activity where cardinality(pg_blocking_pids(pid)) > 0"
            )
        )

    await eventually(hangs, "the handover waits for the step")
    RECEIVES[0].cancel()
    await DBOS.send("w", "b", "t")
    assert not sending.done()
    await locks.execute("commit")
    await sending
    assert await handle.get_result() == [True, "a", "b"]
    assert await connection.fetchval("select count(*) from dbos_async.messages where received_at is null") == 0


async def test_d4_a_lost_notification_costs_time_and_nothing_else(
    database_url: str, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeups, "RECHECK_TICK_SECONDS", 0.05)
    async with DBOS(database_url):
        with SetWorkflowID("w"):
            handle = await DBOS.start_workflow(takes_two)
        await it_waits(connection)
        for n in (1, 2):  # stored, and nobody is told
            await connection.execute(
                "insert into dbos_async.messages (id, seq, destination_id, topic, payload) "
                "values (gen_random_uuid(), nextval('dbos_async.message_seq'), 'w', 't', to_json($1::int))",
                n,
            )
        async with asyncio.timeout(10):
            assert await handle.get_result() == [1, 2]


@DBOS.workflow(name="takes three with a pause")
async def takes_three(gate: str) -> list[Any]:
    first = await DBOS.recv("t", None)
    await opened(gate)
    return [first, await DBOS.recv("t", 60), await DBOS.recv("t", 0)]


GATES: dict[str, asyncio.Event] = {}


@DBOS.step(name="opened")
async def opened(gate: str) -> None:
    await GATES[gate].wait()


@pytest.mark.parametrize("announced", [True, False])
async def test_m1_m6_after_a_handover_whatever_else_comes_is_received(
    announced: bool, dbos: DBOS, connection: Any
) -> None:
    """After a hand-off the queue was empty; a message from another process is neither missed nor waited for."""
    GATES["g"] = asyncio.Event()
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(takes_three, "g")
    await it_waits(connection)
    await DBOS.send("w", 1, "t")
    notify = "dbos_async.announce($2)" if announced else "$2::bytea"
    await connection.execute(
        "with sent as (insert into dbos_async.messages (id, seq, destination_id, topic, payload) "
        f"values (gen_random_uuid(), nextval('dbos_async.message_seq'), 'w', 't', to_json($1::int))) select {notify}",
        2,
        message_key("w", "t"),
    )
    GATES["g"].set()
    async with asyncio.timeout(10):
        assert await handle.get_result() == [1, 2, None]
    assert await handed_over(connection) == [True, False]


async def test_a_send_is_announced_to_whoever_runs_elsewhere_and_not_to_those_who_run_here(
    dbos: DBOS, database_url: str, connection: Any
) -> None:
    this_executor, other = await connection.fetchval("select id from dbos_async.executors"), "another executor"
    announced = await announcements(connection, this_executor, other)
    to_this, to_other = f"_to_{this_executor[-12:]}", f"_to_{other[-12:]}"
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(takes_two)
    await connection.execute(
        "insert into dbos_async.executors (id, executor_id, workflow_names, lease_until, keeps_session) "
        "values ($1, $1, '{}', now() + interval '1 hour', false)",
        other,
    )  # else its workflows are freed
    await connection.execute(
        "insert into dbos_async.workflows (id, name, input, start_id, owner, attempt) "
        "values ('elsewhere', 'unknown here', '{}', gen_random_uuid(), $1, 1),"
        "       ('nowhere', 'unknown here', '{}', gen_random_uuid(), null, 1)",
        other,
    )
    here, elsewhere = message_key("w", "x"), message_key("elsewhere", "x")
    await DBOS.send("w", 1, "x")
    assert await announced.of(here) == set()
    await DBOS.send("elsewhere", 1, "x")
    assert await announced.of(elsewhere) == {to_other}
    await DBOS.send("nowhere", 1, "x")
    assert await announced.of(message_key("nowhere", "x")) == {"_x"}
    await DBOS.send_bulk([SendMessage("w", 2, "x"), SendMessage("elsewhere", 2, "x"), SendMessage("elsewhere", 2, "y")])
    payloads = await announced.end()
    assert [suffix for suffix, _ in payloads] == [to_other], "one notification for each process"
    assert payloads[0][1] in (a + b for a, b in permutations([elsewhere.hex(), message_key("elsewhere", "y").hex()]))
    async with connection.transaction():
        await DBOS.send("w", 3, "x", connection=connection)
        await DBOS.send("elsewhere", 3, "x", connection=connection)
    assert await announced.of(here) == {"_x"}, "nobody here was woken, since it was not committed then"
    async with DBOSClient(database_url) as client:
        await client.send("w", 1, "t")
        assert await announced.of(message_key("w", "t")) == {to_this}
    await DBOS.send("w", 2, "t")
    assert await handle.get_result() == [1, 2]


async def test_m1_w2_what_its_last_owner_sent_at_the_moment_of_a_claim_is_found_soon(
    database_url: str, connection: Any
) -> None:
    """A sender that believed the workflow to run beside it announced nothing: the executor that claimed it polls a second time."""
    async with DBOS(database_url):
        await connection.execute(
            "insert into dbos_async.workflows (id, name, input, start_id, attempt) "
            "values ('w', 'takes two', $1, gen_random_uuid(), 1000001)",
            '{"args":[],"kwargs":{}}',
        )
        await connection.execute("select dbos_async.announce($1)", UNOWNED_KEY)
        await it_waits(connection)
        await connection.execute(
            "insert into dbos_async.messages (id, seq, destination_id, topic, payload) "
            "select gen_random_uuid(), nextval('dbos_async.message_seq'), 'w', 't', to_json(n) from generate_series(1, 2) as n"
        )
        async with asyncio.timeout(10):
            assert await (await DBOS.retrieve_workflow("w")).get_result() == [1, 2]


async def test_m1_m4_what_was_handed_over_by_a_send_whose_answer_was_lost_goes_back_too(
    dbos: DBOS, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    RECEIVES.clear()
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(gives_up_and_takes)
    await it_waits(connection)
    fetch = OwnConnection.fetch
    lost: list[bool] = []

    async def loses_one_answer(self: Any, sql: str, *args: Any) -> Any:
        answer = await fetch(self, sql, *args)
        if sql == forms(sending.SEND)["new, alone"] and not lost:
            lost.append(answer[0]["delivered"])
            RECEIVES[0].cancel()
            raise asyncpg.ConnectionDoesNotExistError("the connection was lost behind the commit")
        return answer

    monkeypatch.setattr(OwnConnection, "fetch", loses_one_answer)
    await DBOS.send("w", "a", "t")
    await DBOS.send("w", "b", "t")
    async with asyncio.timeout(10):
        assert await handle.get_result() == [True, "a", "b"]
    assert lost == [True]
