"""The order of results: workflows whose path depends on which of their tasks receives a result first (W4).

Each program runs once, and is then replayed whole by another launch. What it returns is what its tasks saw, in the order in which
they saw it, so both must be the same.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import tests.support.concurrent_corners  # noqa: F401 - registers its programs
from dbos_async import DBOS, SetWorkflowID
from dbos_async._runs import patience, quiet, recorded_order
from tests.support.concurrent import PROGRAMS, RAN, note
from tests.support.eventually import eventually

CODE = {"is_changed": False, "is_fast": False}

AGAIN = """
    update dbos_async.workflows set status = 'PENDING', owner = null, output = null, error = null, ended_at = null where id = $1
"""


@pytest.fixture(autouse=True)
def _clean() -> None:
    RAN.clear()
    CODE["is_changed"] = CODE["is_fast"] = False


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
    monkeypatch.setattr(patience, "LOOK_EVERY_SECONDS", 0.05)
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
    assert named[0].endswith("it waits for step 'note' (0.3.1), and the code asks for nothing but recv 't' (0.2.1).")
    assert (
        "Step 0.3.1 of workflow 'w' was recorded as step 'note' and the code now asks for nothing but recv"
        in caplog.text
    )


@DBOS.workflow(name="cut off")
async def cut_off() -> list[str]:
    seen: list[str] = []
    acts: list[Callable[[], Awaitable[object]]] = [lambda: DBOS.recv("a", None), slow, lambda: DBOS.sleep(30)]
    for act in acts:
        try:
            async with asyncio.timeout(None if CODE["is_changed"] else 0.1):
                seen.append(str(await act()))
        except TimeoutError:
            seen.append("cut off")
    await note("told")
    return seen


@DBOS.step(name="slow")
async def slow() -> str:
    await asyncio.sleep(0.0 if CODE["is_fast"] else 30)
    return "slow"


async def test_w4_a_call_that_a_timer_has_cut_off_is_cut_off_again(database_url: str, connection: Any) -> None:
    """The world is another one by then: the message is there, and the step would be fast."""
    await cut_off_and_replayed(database_url, connection)
    assert (await outcome(connection, "w")) == ("SUCCESS", '["cut off","cut off","cut off"]')


async def test_w4_without_that_timer_the_workflow_is_parked(
    database_url: str, connection: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(patience, "LOOK_EVERY_SECONDS", 0.05)
    await cut_off_and_replayed(database_url, connection, is_changed=True)
    status, _ = await outcome(connection, "w")
    assert status == "REPLAY_MISMATCH"
    assert "Step 1 of workflow 'w' was recorded as recv 'a', cancelled before it had a result" in caplog.text


async def cut_off_and_replayed(database_url: str, connection: Any, *, is_changed: bool = False) -> None:
    async with DBOS(database_url):
        with SetWorkflowID("w"):
            await (await DBOS.start_workflow(cut_off)).get_result()
        await DBOS.send("w", "late", "a")
    await connection.execute(AGAIN, "w")
    CODE["is_fast"], CODE["is_changed"] = True, is_changed
    async with DBOS(database_url):
        await outcome(connection, "w")


@DBOS.workflow(name="reads a stream beside a step")
async def reads_beside() -> list[Any]:
    seen: list[Any] = []

    async def reader() -> None:
        async for value in DBOS.read_stream("writer", "s"):
            seen.append(value)
            seen.append(await note(f"after {value}"))

    async def other() -> None:
        for n in range(3):
            what = await note(f"beside {n}")
            seen.append(what)

    await asyncio.gather(reader(), other())
    return seen


@DBOS.workflow(name="writes a stream for a reader")
async def writes() -> None:
    for n in range(3):
        await DBOS.write_stream("s", n)


async def test_w4_d4_a_replay_that_waits_for_a_slow_database_is_not_parked(
    database_url: str, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "LOOK_EVERY_SECONDS", 0.05)
    async with DBOS(database_url):
        with SetWorkflowID("writer"):
            await (await DBOS.start_workflow(writes)).get_result()
        with SetWorkflowID("w"):
            await DBOS.start_workflow(reads_beside)
        first = await outcome(connection, "w")
    await connection.execute(AGAIN, "w")
    await connection.execute("begin; lock table dbos_async.stream_entries in access exclusive mode")
    async with DBOS(database_url):
        try:
            await eventually(lambda: blocked(connection), "the replay waits for the stream")
            await asyncio.sleep(1.0)  # twice as long as a replay may stand still here
        finally:
            await connection.execute("rollback")
        assert await outcome(connection, "w") == first


async def blocked(connection: Any) -> bool:
    return bool(await connection.fetchval("select exists (select from pg_locks where not granted)"))


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
