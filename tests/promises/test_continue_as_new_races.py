"""The end of a generation meets everything else: receives under way, late statements, cancels, lost answers (T2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from dbos_async import DBOS, SetWorkflowID, WorkflowCancelledError
from dbos_async._executor import continuing, launched
from dbos_async._executor.continuing import CONTINUE, NextGeneration
from dbos_async._messaging.recv import TAKE
from tests.support.eventually import eventually
from tests.support.generations import INBOX, collect, generation, note, send_all, start
from tests.support.races import CLAIM_BY_HAND, blocked, outcome
from tests.support.statements import execute

HERE: dict[str, asyncio.Event] = {}


async def is_generation(number: int) -> bool:
    return await generation() == number


@DBOS.workflow(name="generations, abandons receives")
async def abandons(most: int, seen: list[int], first: bool) -> list[int]:
    """Its last receive of each generation is abandoned at any moment."""
    waits: list[asyncio.Task[Any]] = []
    while len(waits) < most:
        waits.append(asyncio.create_task(receive_first() if first else DBOS.recv(INBOX, None)))
        seen.append(await waits[-1])
        if seen[-1] == 0:
            return seen
    left = asyncio.create_task(receive_first() if first else DBOS.recv(INBOX, None))
    left.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody else will look at it
    await note("while the receive is under way")
    if left.done():
        seen.append(left.result())
        if seen[-1] == 0:
            return seen
    await DBOS.continue_as_new(most, seen, first)


async def receive_first() -> int:
    got = await DBOS.wait_first(INBOX)
    return int(got.payload)


@pytest.mark.usefixtures("dbos")
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("most", [1, 2])
async def test_m1_m4_t2_receives_that_a_continue_abandons_lose_and_double_nothing(first: bool, most: int) -> None:
    handle = await start(abandons, most, [], first)
    for number in range(1, 200):
        await DBOS.send("w", number, INBOX)
        for _ in range(number % 7):
            await asyncio.sleep(0)
    await DBOS.send("w", 0, INBOX)
    assert await handle.get_result() == [*range(1, 200), 0]
    assert await generation() > 30


@DBOS.workflow(name="generations, stands before the call")
async def stands(turn: int) -> list[Any]:
    if turn == 2:
        return [await DBOS.recv(INBOX, 5), await DBOS.recv(INBOX, 0)]
    left = asyncio.create_task(DBOS.recv("other", None))
    await note("before")
    HERE["stands"].set()
    await HERE["go"].wait()
    left.cancel()
    await DBOS.continue_as_new(2)


async def test_w3_t2_what_an_earlier_run_takes_late_goes_back(
    database_url: str, connection: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = asyncio.Event()
    look = continuing._writers

    async def looks(run: Any) -> Any:
        found = await look(run)
        looked.set()
        return found

    monkeypatch.setattr(continuing, "_writers", looks)
    HERE.update(stands=asyncio.Event(), go=asyncio.Event())
    async with DBOS(database_url, drain_seconds=0):
        await start(stands, 1)
        await send_all(["first"])
        await HERE["stands"].wait()
        attempt = await connection.fetchval("select attempt from dbos_async.workflows where id = 'w'")
    holder, late = await connect(), await connect()
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("select from dbos_async.messages where destination_id = 'w' for update")
    # A receive of the run before, in a task that this run has not started, hangs at the server.
    taking = asyncio.create_task(
        execute(late, TAKE, ("w", attempt, "0.2", 1, "recv", INBOX, None, False), form="new, alone")
    )
    await blocked(late, taking, connection)
    HERE["stands"].clear()
    async with DBOS(database_url):
        await HERE["stands"].wait()
        HERE["go"].set()
        await looked.wait()
        assert await generation() == 1
        await transaction.rollback()
        assert outcome(await taking) == "done"
        assert await (await DBOS.retrieve_workflow("w")).get_result() == ["first", None]
        assert await generation() == 2


@pytest.fixture
def at_store(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[NextGeneration, Callable[[], None]], None]], None]:
    """Sets what happens in the place of storing that a generation is over."""

    def put(around: Callable[[NextGeneration, Callable[[], None]], None]) -> None:
        store = NextGeneration.store
        monkeypatch.setattr(NextGeneration, "store", lambda self: around(self, lambda: store(self)))

    return put


@pytest.mark.usefixtures("dbos")
async def test_t2_a_cancel_before_the_commit_wins(at_store: Any, connection: Any) -> None:
    reached = asyncio.Event()
    held: list[Callable[[], None]] = []

    def hold(_: NextGeneration, store: Callable[[], None]) -> None:
        held.append(store)
        reached.set()

    at_store(hold)
    handle = await start(collect, 1, [])
    await send_all([1])
    await reached.wait()
    await DBOS.cancel_workflow("w")
    held[0]()
    with pytest.raises(WorkflowCancelledError):
        await handle.get_result()
    assert await generation() == 1
    assert len(await DBOS.list_workflow_steps("w")) == 2  # all of the first generation is there, and resumes
    await DBOS.resume_workflow("w")
    await eventually(lambda: len(held) == 2)
    held[1]()
    await eventually(lambda: is_generation(2))


@pytest.mark.usefixtures("dbos")
async def test_t2_a_take_over_before_the_commit_wins(at_store: Any, connection: Any) -> None:
    def after_a_claim(_: NextGeneration, store: Callable[[], None]) -> None:
        tasks.append(asyncio.ensure_future(_claimed(connection, store)))

    tasks: list[asyncio.Future[None]] = []
    at_store(after_a_claim)
    await start(collect, 1, [])
    await send_all([1])
    await eventually(lambda: tasks and tasks[0].done())
    await eventually(lambda: "w" not in launched.executor().runs)
    assert await generation() == 1
    assert len(await DBOS.list_workflow_steps("w")) == 2


async def _claimed(connection: Any, store: Callable[[], None]) -> None:
    await connection.execute(CLAIM_BY_HAND)
    store()


@pytest.mark.usefixtures("dbos")
async def test_t2_a_call_whose_answer_was_lost_finds_the_next_generation_begun(connection: Any) -> None:
    await start(collect, 2, [])
    attempt = await connection.fetchval("select attempt from dbos_async.workflows where id = 'w'")
    await DBOS.send("w", 1, "other")
    await DBOS.shutdown()
    await connection.execute("update dbos_async.workflows set owner = 'me', attempt = $1 where id = 'w'", attempt)
    row = "w", attempt, 1, '{"args":[3,[]],"kwargs":{}}', "me", None, "[]", None
    (first,) = await execute(connection, CONTINUE, row)
    assert first["attempt"] == attempt + 1
    (again,) = await execute(connection, CONTINUE, row)
    assert again["attempt"] == attempt + 1
    assert await connection.fetchval("select generation from dbos_async.workflows where id = 'w'") == 2
    await connection.execute(CLAIM_BY_HAND)
    (late,) = await execute(connection, CONTINUE, row)
    assert late["attempt"] is None


async def test_t2_the_count_of_runs_begins_anew_long_before_it_is_used_up(database_url: str, connection: Any) -> None:
    async with DBOS(database_url, drain_seconds=0):
        await start(collect, 1, [])
    before = await connection.fetchval(
        "update dbos_async.workflows set attempt = attempt - mod(attempt, 1000000) + 899999 where id = 'w' returning attempt"
    )
    async with DBOS(database_url):
        await send_all([1])
        await eventually(lambda: is_generation(2))
        await send_all([2, 3])
        await eventually(lambda: is_generation(4))
        await send_all([0])
        assert await (await DBOS.retrieve_workflow("w")).get_result() == [1, 2, 3, -4]
    after = await connection.fetchval("select attempt from dbos_async.workflows where id = 'w'")
    assert after > before
    assert after % 1_000_000 < 10


@DBOS.workflow(name="generations, changes its code")
async def changes_its_code(turn: int) -> int:
    if turn == 1 and HERE["go"].is_set():
        await DBOS.continue_as_new(2)
    if turn == 1:
        await DBOS.recv(INBOX, None)
        await DBOS.recv(INBOX, None)
    return turn


async def test_w4_t2_code_that_continues_earlier_than_its_record_is_parked(database_url: str, connection: Any) -> None:
    HERE["go"] = asyncio.Event()
    async with DBOS(database_url, drain_seconds=0):
        await start(changes_its_code, 1)
        await send_all([1])
        await eventually(_has_received)
    HERE["go"].set()
    async with DBOS(database_url):
        await eventually(lambda: _has_status("REPLAY_MISMATCH"))
        status = await (await DBOS.retrieve_workflow("w")).get_status()
        assert "continue_as_new" in str(status.error)
        (message,) = await DBOS.list_messages("w")
        assert message.received_at is not None
        HERE["go"].clear()
        await DBOS.resume_workflow("w")
        await send_all([2])
        assert await (await DBOS.retrieve_workflow("w")).get_result() == 1


async def _has_received() -> bool:
    return any(step.completed_at for step in await DBOS.list_workflow_steps("w"))


async def _has_status(status: str) -> bool:
    return (await (await DBOS.retrieve_workflow("w")).get_status()).status == status


async def test_t2_an_executor_that_shuts_down_gives_the_next_generation_to_another(database_url: str) -> None:
    async with DBOS(database_url):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(collect, 1, [])
        await send_all(range(1, 20))
        await eventually(lambda: _is_beyond(3))
    async with DBOS(database_url):
        await send_all([0])
        assert await (await DBOS.retrieve_workflow("w")).get_result() == [*range(1, 20), -20]


async def _is_beyond(number: int) -> bool:
    return await generation() > number
