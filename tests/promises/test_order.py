"""The order of results: workflows whose path depends on which of their tasks receives a result first (W4).

Each program runs once, and is then replayed whole by another launch. What it returns is what its tasks saw, in the order in which
they saw it, so both must be the same.
"""

# ruff: noqa: PERF401 - a list that several tasks append to is what these programs are about

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dbos_async import DBOS, SetWorkflowID
from dbos_async._runs import quiet, recorded_order, watchdog
from tests.support.eventually import eventually

Program = Callable[[list[Any]], Awaitable[None]]

RAN: list[str] = []
CODE = {"is_changed": False}
PROGRAMS: dict[str, Program] = {}

AGAIN = """
    update dbos_async.workflows set status = 'PENDING', owner = null, output = null, error = null, ended_at = null where id = $1
"""


@pytest.fixture(autouse=True)
def _clean() -> None:
    RAN.clear()
    CODE["is_changed"] = False


def program(function: Program) -> Program:
    PROGRAMS[function.__name__] = function
    return function


@DBOS.step()
async def note(what: str) -> str:
    RAN.append(what)
    await asyncio.sleep(random.random() * 0.005)
    return what


@DBOS.step()
def note_in_a_thread(what: str) -> str:
    return what


@DBOS.step()
async def fail(what: str) -> None:
    raise ValueError(what)


@DBOS.step()
async def unwind(what: str) -> str:
    try:
        await asyncio.sleep(0.05)
    finally:
        await asyncio.sleep(0.005)
    return what


@DBOS.workflow(name="child in order")
async def child(n: int) -> int:
    await DBOS.set_event("e", n)
    for value in (n, n + 10):
        await DBOS.write_stream("s", value)
    await DBOS.close_stream("s")
    return n * 100


@program
async def shared_list(seen: list[Any]) -> None:
    async def work(name: str) -> None:
        for n in range(3):
            seen.append(await note(f"{name}{n}"))

    await asyncio.gather(*map(work, "abcd"))


@program
async def all_kinds(seen: list[Any]) -> None:
    me = DBOS.workflow_id or ""

    async def act(name: str, verb: Awaitable[Any]) -> None:
        seen.append((name, await verb))
        await note(f"after {name} at {len(seen)}")

    await asyncio.gather(
        act("step", note("a")),
        act("thread", note_in_a_thread("b")),
        act("send", DBOS.send(me, "m", "t")),
        act("recv", DBOS.recv("t", 5)),
        act("nothing", DBOS.recv("u", 0.01)),
        act("set", DBOS.set_event("e", 1)),
        act("get", DBOS.get_event(me, "e", 5)),
        act("write", DBOS.write_stream("s", 1)),
        act("sleep", DBOS.sleep(0.003)),
    )


@program
async def queue(seen: list[Any]) -> None:
    items: asyncio.Queue[str] = asyncio.Queue()

    async def produce(name: str) -> None:
        for n in range(3):
            await items.put(await note(f"{name}{n}"))

    async def consume(name: str) -> None:
        while (item := await items.get()) != "end":
            seen.append((name, item))
            await note(f"{name} has {item}")

    consumers = [asyncio.create_task(consume(name)) for name in "xy"]
    await asyncio.gather(*map(produce, "ab"))
    for _ in consumers:
        await items.put("end")
    await asyncio.gather(*consumers)


@program
async def races(seen: list[Any]) -> None:
    for n in range(3):
        tasks = [asyncio.create_task(note(f"{n}{name}"), name=name) for name in "abc"]
        done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        seen.append([task.get_name() for task in done])  # in the order of the set
        for task in rest:
            task.cancel()
        seen.append(await asyncio.gather(*rest, return_exceptions=True) == [])
        await note(f"winner {seen[-2]}")


@program
async def completed(seen: list[Any]) -> None:
    for first in asyncio.as_completed([asyncio.create_task(note(name)) for name in "abcde"]):
        seen.append(await first)
        await note(f"{len(seen)} {seen[-1]}")


@program
async def completed_coroutines(seen: list[Any]) -> None:
    async def work(name: str, n: int) -> str:
        seen.append(f"{name}{n} begins")
        return await note(f"{name}{n}")

    for first in asyncio.as_completed([work(name, n) for name in "abc" for n in range(4)]):
        seen.append(await first)
    for first in asyncio.as_completed([note(name) for name in "defgh"]):
        seen.append(await first)
        await note(f"{len(seen)} {seen[-1]}")


@program
async def stopped_by_a_message(seen: list[Any]) -> None:
    me = DBOS.workflow_id or ""

    async def answer() -> None:
        try:
            for n in range(20):
                seen.append(await note(str(n)))
        except asyncio.CancelledError:
            seen.append("half")
            await note(f"half after {len(seen)}")
            raise

    async def stop() -> None:
        await note("wait")
        await note("a bit")
        await DBOS.send(me, "stop", "control")

    stopping, answering = asyncio.create_task(stop()), asyncio.create_task(answer())
    await DBOS.recv("control", None)
    answering.cancel()
    await asyncio.gather(stopping, answering, return_exceptions=True)


@program
async def failing_group(seen: list[Any]) -> None:
    async def work(n: int) -> None:
        try:
            await note(f"{n}")
            if n == 1:
                await fail("1")
            await asyncio.Event().wait() if n % 2 else await note(f"{n} again")
        except BaseException as error:
            seen.append((n, type(error).__name__))
            await note(f"{n} ends at {len(seen)}")
            raise

    try:
        async with asyncio.TaskGroup() as group:
            for n in range(7):
                group.create_task(work(n))
    except* ValueError:
        seen.append("failed")


@program
async def locks(seen: list[Any]) -> None:
    lock, two, condition, box = asyncio.Lock(), asyncio.Semaphore(2), asyncio.Condition(), list[str]()

    async def work(name: str) -> None:
        async with two:
            seen.append(await note(name))
        async with lock:
            seen.append(await note(name * 2))
        async with condition:
            box.append(name)
            condition.notify()

    async def take() -> None:
        async with condition:
            await condition.wait_for(lambda: box)
            seen.append(f"took {box.pop()}")
        await note(seen[-1])

    await asyncio.gather(*map(work, "abcd"), *(take() for _ in range(4)))


@program
async def shields(seen: list[Any]) -> None:
    inner = [asyncio.create_task(note(name)) for name in "abc"]

    async def outer(n: int) -> None:
        try:
            seen.append(await asyncio.shield(inner[n]))
        except asyncio.CancelledError:
            seen.append(("cancelled", n))
            await note(f"cancelled {n}")
            raise

    outside = [asyncio.create_task(outer(n)) for n in range(3)]
    await note("begin")
    outside[0].cancel()
    outside[2].cancel()
    await asyncio.gather(*outside, *inner, return_exceptions=True)


@program
async def cancelled_steps(seen: list[Any]) -> None:
    tasks = [asyncio.create_task(unwind(str(n))) for n in range(3)]
    others = [asyncio.create_task(note(f"other {n}")) for n in range(3)]
    await note("begin")
    tasks[0].cancel()
    seen.append(await note("cancelled 0"))
    tasks[1].cancel()
    found = await asyncio.gather(*tasks, *others, return_exceptions=True)
    seen.extend(type(one).__name__ if isinstance(one, BaseException) else one for one in found)


@program
async def abandoned_receives(seen: list[Any]) -> None:
    me = DBOS.workflow_id or ""

    async def receive() -> None:
        while True:
            seen.append(await DBOS.recv("t", None))
            await note(f"has {seen[-1]}")

    for round_number in range(2):
        receiving = asyncio.create_task(receive())
        for n in range(3):
            await DBOS.send(me, f"{round_number}.{n}", "t")
            seen.append("sent")
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)
    while (left := await DBOS.recv("t", 0)) is not None:
        seen.append(("left", left))


@program
async def two_receivers(seen: list[Any]) -> None:
    me = DBOS.workflow_id or ""

    async def receive(name: str) -> None:
        for _ in range(3):
            seen.append((name, await DBOS.recv("t", 5)))
            await note(f"{seen[-1]}")

    async def send(name: str) -> None:
        for n in range(3):
            await DBOS.send(me, f"{name}{n}", "t")
            seen.append(name)

    await asyncio.gather(receive("x"), receive("y"), send("a"), send("b"))


@program
async def children(seen: list[Any]) -> None:
    async def run(n: int) -> None:
        handle = await DBOS.start_workflow(child, n)
        seen.append(await DBOS.get_event(handle.workflow_id, "e", 5))
        async for value in DBOS.read_stream(handle.workflow_id, "s"):
            seen.append(value)
        seen.append(await handle.get_result())

    await asyncio.gather(*map(run, range(3)))


@program
async def sleeps(seen: list[Any]) -> None:
    async def sleep(n: int) -> None:
        for _ in range(2):
            await DBOS.sleep(0.002 * (n % 3))
            seen.append(n)
            await note(f"{n} at {len(seen)}")

    await asyncio.gather(*map(sleep, range(5)))


@program
async def sleeping_main_task(seen: list[Any]) -> None:
    async def work() -> None:
        for n in range(5):
            seen.append(await note(str(n)))

    task = asyncio.create_task(work())
    await DBOS.sleep(0.008)
    seen.append("awake")
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await note(f"end {len(seen)}")


@program
async def slow_helper(seen: list[Any]) -> None:
    """A task that calls no verb and takes many turns of the loop."""
    items: asyncio.Queue[int] = asyncio.Queue()

    async def help_slowly() -> None:
        while True:
            item = await items.get()
            for _ in range(item * 12):
                await asyncio.sleep(0)
            seen.append(("helper", item))

    task = asyncio.create_task(help_slowly())
    for n in range(6):
        items.put_nowait(n)
        seen.append(await note(str(n)))
    task.cancel()


@DBOS.workflow(name="order")
async def run_program(name: str) -> list[str]:
    seen: list[Any] = []
    await PROGRAMS[name](seen)
    return list(map(repr, seen))


async def outcome(connection: Any, workflow_id: str) -> tuple[str, str | None]:
    """The status and the result, once the workflow has ended or is parked."""

    async def has_ended() -> bool:
        sql = "select status <> 'PENDING' from dbos_async.workflows where id = $1"
        return bool(await connection.fetchval(sql, workflow_id))

    await eventually(has_ended, f"{workflow_id} ends", give_up_after_seconds=30)
    found = await connection.fetchrow("select status, output from dbos_async.workflows where id = $1", workflow_id)
    return found["status"], found["output"]


async def steps(connection: Any, workflow_id: str) -> list[Any]:
    return list(
        await connection.fetch(
            "select branch, number, verb, key, output::text, error::text, place, asked_after from dbos_async.steps "
            "where workflow_id = $1 order by branch, number",
            workflow_id,
        )
    )


async def replays_alike(database_url: str, connection: Any, names: list[str]) -> None:
    ids = [f"{name} {n}" for name in names for n in range(3)]
    async with DBOS(database_url):
        for workflow_id in ids:
            with SetWorkflowID(workflow_id):
                await DBOS.start_workflow(run_program, workflow_id.split()[0])
        first = {workflow_id: await outcome(connection, workflow_id) for workflow_id in ids}
        recorded = {workflow_id: await steps(connection, workflow_id) for workflow_id in ids}
    assert {status for status, _ in first.values()} == {"SUCCESS"}
    for workflow_id in ids:
        await connection.execute(AGAIN, workflow_id)
    async with DBOS(database_url):
        again = {workflow_id: await outcome(connection, workflow_id) for workflow_id in ids}
    assert again == first
    assert {workflow_id: await steps(connection, workflow_id) for workflow_id in ids} == recorded


@pytest.mark.parametrize("name", list(PROGRAMS))
async def test_w4_a_replay_takes_the_same_path(name: str, database_url: str, connection: Any) -> None:
    await replays_alike(database_url, connection, [name])


async def test_w4_it_does_too_where_the_event_loop_hides_its_callbacks(
    database_url: str, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quiet, "ready_callbacks", lambda _: None)
    await replays_alike(database_url, connection, list(PROGRAMS))


async def test_w4_it_does_too_when_the_order_is_read_in_pages(
    database_url: str, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql = recorded_order.ORDER.sql
    small = type(sql)(*(text.replace("5000", "3") for text in sql))
    monkeypatch.setattr(
        recorded_order, "ORDER", type(recorded_order.ORDER)("ORDER", small, recorded_order.ORDER.parallelism)
    )
    await replays_alike(database_url, connection, list(PROGRAMS))


@pytest.mark.parametrize("seed", range(4))
async def test_w4_several_crashes_leave_one_order(seed: int, database_url: str, connection: Any) -> None:
    chance = random.Random(seed)
    for workflow_id, name in ids_of_all(seed):
        async with DBOS(database_url):
            with SetWorkflowID(workflow_id):
                await DBOS.start_workflow(run_program, name)
            await asyncio.sleep(chance.random() * 0.04)
    for _ in range(2):
        async with DBOS(database_url, drain_seconds=0):
            await asyncio.sleep(chance.random() * 0.2)
    async with DBOS(database_url):
        first = {workflow_id: await outcome(connection, workflow_id) for workflow_id, _ in ids_of_all(seed)}
    assert {status for status, _ in first.values()} == {"SUCCESS"}
    for workflow_id, _ in ids_of_all(seed):
        await connection.execute(AGAIN, workflow_id)
    async with DBOS(database_url):
        assert {workflow_id: await outcome(connection, workflow_id) for workflow_id, _ in ids_of_all(seed)} == first


def ids_of_all(seed: int) -> list[tuple[str, str]]:
    return [(f"{name} {seed}", name) for name in PROGRAMS]


@DBOS.workflow(name="sequence in order")
async def sequence() -> None:
    await note("a")
    await DBOS.send(DBOS.workflow_id or "", 1, "t")
    await DBOS.recv("t")
    await DBOS.sleep(0.001)


async def test_w4_a_sequence_records_no_order(database_url: str, connection: Any) -> None:
    async with DBOS(database_url):
        handle = await DBOS.start_workflow(sequence)
        await handle.get_result()
    rows = await steps(connection, handle.workflow_id)
    assert [(row["place"], row["asked_after"]) for row in rows] == [(None, None)] * 4


@DBOS.workflow(name="changed in order")
async def changed() -> list[str]:
    seen: list[str] = []
    is_open = asyncio.Event()

    async def first() -> None:
        seen.append(await note("first"))
        is_open.set()

    async def second() -> None:
        if not CODE["is_changed"]:
            await is_open.wait()
        seen.append(await note("second"))

    await asyncio.gather(first(), second())
    return seen


async def test_w4_a_step_that_is_asked_for_at_another_moment_is_parked(database_url: str, connection: Any) -> None:
    async with DBOS(database_url):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(changed)
        assert (await outcome(connection, "w"))[0] == "SUCCESS"
    await connection.execute(AGAIN, "w")
    CODE["is_changed"] = True
    async with DBOS(database_url):
        assert (await outcome(connection, "w"))[0] == "REPLAY_MISMATCH"
    error = await connection.fetchval("select error ->> 'message' from dbos_async.workflows where id = 'w'")
    assert "step 'note' after result 1" in error
    assert "the same after result 0" in error


@DBOS.workflow(name="stands still")
async def stands_still() -> None:
    await asyncio.gather(note("a"), DBOS.recv("t", None), *([] if CODE["is_changed"] else [note("b")]))


async def test_w4_a_replay_that_stands_still_is_named_and_then_parked(
    database_url: str, connection: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watchdog, "WARN_AFTER_SECONDS", 0.1)
    monkeypatch.setattr(watchdog, "PARK_AFTER_SECONDS", 0.5)
    async with DBOS(database_url):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(stands_still)

        async def is_recorded() -> bool:
            return len([row for row in await steps(connection, "w") if row["place"]]) == 2

        await eventually(is_recorded, "both steps are recorded")
    CODE["is_changed"] = True
    async with DBOS(database_url):
        assert (await outcome(connection, "w"))[0] == "REPLAY_MISMATCH"
    named = [record.message for record in caplog.records if "stands still" in record.message]
    assert len(named) == 1
    assert "was recorded as step 'note' (0.3.1)" in named[0]
    assert "recv 't' (0.2.1)" in named[0]


async def test_w4_histories_without_places_replay_as_before(database_url: str, connection: Any) -> None:
    async with DBOS(database_url):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(run_program, "shared_list")
        await outcome(connection, "w")
    await connection.execute("update dbos_async.steps set place = null, asked_after = null where workflow_id = 'w'")
    await connection.execute(AGAIN, "w")
    RAN.clear()
    async with DBOS(database_url):
        assert (await outcome(connection, "w"))[0] == "SUCCESS"
    assert RAN == []


async def test_w4_a_fork_of_concurrent_tasks_continues_from_that_moment(database_url: str, connection: Any) -> None:
    async with DBOS(database_url):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(run_program, "shared_list")
        _, original = await outcome(connection, "w")
        rows = await steps(connection, "w")
        start = next(row for row in rows if row["branch"] == "0.2" and row["number"] == 3)
        RAN.clear()
        handle = await DBOS.fork_workflow("w", "0.2.3")
        _, copy = await outcome(connection, handle.workflow_id)
    kept = [row for row in rows if row["place"] <= start["asked_after"]]
    assert len(RAN) == len(rows) - len(kept)
    assert original is not None
    assert copy is not None
    assert copy.split(",")[: len(kept) - 1] == original.split(",")[: len(kept) - 1]
