"""T1: how transactional steps are cancelled, limited in time, isolated, called in tasks and outside of workflows."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import asyncpg
import pytest

from dbos_async import (
    DBOS,
    SetWorkflowID,
    StepTimeoutError,
    WorkflowCancelledError,
)
from dbos_async._database.connection_kinds import ConnectionKind
from dbos_async._database.connections import Postgres
from tests.support.eventually import eventually
from tests.support.transactions import Kind, replay, say, written

ADD = "insert into notes values ('{}')"


async def test_t1_a_time_limit_rolls_back(kind: Kind, notes: Any) -> None:
    @kind.transaction(name="t1 slow", timeout_seconds=0.1)
    async def write(target: Any) -> None:
        await say(target, ADD.format("never"))
        await say(target, "select pg_sleep(60)")

    @DBOS.workflow(name="t1 slow")
    async def workflow() -> None:
        await write()

    with SetWorkflowID("w"), pytest.raises(StepTimeoutError):
        await workflow()
    with pytest.raises(StepTimeoutError):
        await replay(notes, "w")
    with pytest.raises(StepTimeoutError):
        await write()
    assert await written(notes) == []


async def test_t1_w6_a_cancellation_rolls_back(kind: Kind, notes: Any) -> None:
    @kind.transaction(name="t1 cancelled")
    async def write(target: Any) -> None:
        await say(target, ADD.format("never"))
        await say(target, "select pg_sleep(60)")

    @DBOS.workflow(name="t1 cancelled")
    async def workflow() -> None:
        await write()

    handle = await DBOS.start_workflow(workflow)
    sleeping = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()"

    async def sleeps() -> bool:
        return bool(await notes.fetchval(sleeping))

    await eventually(sleeps)
    await DBOS.cancel_workflow(handle.workflow_id)
    with pytest.raises(WorkflowCancelledError):
        await handle.get_result()

    async def is_gone() -> bool:
        return not await notes.fetchval(sleeping)

    await eventually(is_gone)
    assert await written(notes) == []
    assert await DBOS.list_workflow_steps(handle.workflow_id) == []


async def test_t1_read_only_transactions_are_recorded_and_refuse_writes_and_sends(kind: Kind, notes: Any) -> None:
    ran: list[int] = []

    @kind.transaction(name="t1 reads", read_only=True, isolation="repeatable read")
    async def read(target: Any, what: str) -> Any:
        ran.append(1)
        if what == "send":
            await DBOS.send("w", 1)
        if what == "write":
            await say(target, ADD.format("never"))
        return await say(target, "select current_setting('transaction_isolation')")

    @DBOS.workflow(name="t1 reads")
    async def workflow() -> list[Any]:
        found = [await read("read")]
        for what in ("send", "write"):
            try:
                await read(what)
            except Exception as error:
                found.append(str(error))
        return found

    with SetWorkflowID("w"):
        found = await workflow()
    assert found[0] == "repeatable read"
    assert found[1] == (
        "send writes, and the transaction 't1 reads' is read-only: leave read_only=True out, or call send outside of it."
    )
    assert "read-only transaction" in found[2]
    assert await replay(notes, "w") == found
    assert len(ran) == 3


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_t1_isolation_levels(kind: Kind, notes: Any, isolation: str) -> None:
    @kind.transaction(name="t1 isolation", isolation=isolation)
    async def read(target: Any) -> Any:
        return await say(target, "select current_setting('transaction_isolation')")

    @DBOS.workflow(name="t1 isolation")
    async def workflow() -> Any:
        return await read()

    assert await workflow() == isolation
    assert await read() == isolation


@pytest.mark.direct("behind a pooler nothing resets the process of the server, which others use next")
async def test_t1_a_connection_is_clean_after_every_transaction(dbos: DBOS) -> None:
    @DBOS.transaction(name="t1 settings")
    async def change(connection: Any) -> Any:
        before = await connection.fetchval("select current_setting('search_path')")
        await connection.execute("set search_path = nowhere")
        return before

    first = await change()
    assert [await change() for _ in range(5)] == [first] * 5


@pytest.mark.direct("behind a pooler nothing resets the process of the server, which others use next")
async def test_t1_a_role_does_not_outlast_its_transaction(dbos: DBOS, connection: Any) -> None:
    role = f"t1_role_{uuid.uuid4().hex}"
    await connection.execute(f"create role {role} superuser")

    @DBOS.transaction(name="t1 roles")
    async def change(target: Any, how: str) -> Any:
        before = await target.fetchval("select array[session_user, current_user]::text[]")
        await target.execute(f"set {how} {role}")
        return before

    @DBOS.workflow(name="t1 roles")
    async def workflow() -> list[Any]:
        return [await change(how) for how in ["role", "session authorization", "role"]]

    try:
        first, *others = [*await workflow(), await change("role"), await change("role")]
        assert others == [first] * 4
    finally:
        await connection.execute(f"drop role {role}")


async def test_t1_outside_of_workflows_it_is_a_plain_transaction(kind: Kind, notes: Any) -> None:
    @kind.transaction(name="t1 plain")
    async def write(target: Any, *, fails: bool) -> str:
        await say(target, ADD.format(f"fails={fails}"))
        await DBOS.send("w", f"fails={fails}")
        if fails:
            raise LookupError
        return "not decoded"

    @DBOS.step(name="t1 a step that writes")
    async def in_a_step() -> str:
        return str(await write(fails=False))

    @DBOS.workflow(name="t1 plain")
    async def workflow() -> list[Any]:
        return [await in_a_step(), await DBOS.recv(timeout_seconds=None), await DBOS.recv(timeout_seconds=None)]

    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(workflow)
    with pytest.raises(LookupError):
        await write(fails=True)
    assert await write(fails=False) == "not decoded"
    assert await handle.get_result() == ["not decoded", "fails=False", "fails=False"]
    assert await written(notes) == ["fails=False", "fails=False"]


async def test_t1_w4_transactions_in_tasks_replay_in_the_order_of_their_results(kind: Kind, notes: Any) -> None:
    @kind.transaction(name="t1 in tasks")
    async def write(target: Any, what: int) -> int:
        await say(target, ADD.format(what))
        await asyncio.sleep(0.001 * (what % 3))
        return what

    @DBOS.workflow(name="t1 in tasks")
    async def workflow() -> list[int]:
        order: list[int] = []

        async def branch(what: int) -> None:
            for turn in range(3):
                order.append(await write(10 * turn + what))
                await DBOS.set_event("order", order)

        await asyncio.gather(*[branch(what) for what in range(6)])
        return order

    with SetWorkflowID("w"):
        order = await workflow()
    assert await replay(notes, "w") == order
    assert len(await written(notes)) == 18
    places = await notes.fetch("select place from dbos_async.steps where verb = 'step' order by place")
    assert len({row["place"] for row in places}) == 18


async def test_t1_a_fork_keeps_the_record_and_writes_nothing_again(kind: Kind, notes: Any) -> None:
    @kind.transaction(name="t1 forked")
    async def write(target: Any, what: str) -> str:
        await say(target, ADD.format(what))
        return what

    @DBOS.workflow(name="t1 forked")
    async def workflow() -> list[Any]:
        return [await write("a"), await write("b")]

    with SetWorkflowID("w"):
        await workflow()
    fork = await DBOS.fork_workflow("w", 2)
    assert await fork.get_result() == ["a", "b"]
    assert await written(notes) == ["a", "b", "b"]


async def test_a_connection_that_has_just_opened_for_a_cancelled_transaction_is_closed(
    dbos: DBOS, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    connect = Postgres.connect_plain

    @DBOS.transaction(name="t1 is cancelled when its connection opens")
    async def nothing(connection: asyncpg.Connection[Any]) -> None:
        """Only its connection matters."""

    async def connect_and_cancel(postgres: Postgres, kind: ConnectionKind[Any]) -> Any:
        opened.append(await connect(postgres, kind))
        asyncio.get_running_loop().call_soon(call.cancel)
        return opened[0]

    monkeypatch.setattr(Postgres, "connect_plain", connect_and_cancel)
    call = asyncio.ensure_future(nothing())
    await asyncio.wait([call])
    assert call.cancelled()
    await eventually(opened[0].is_closed, "nobody uses it")


async def test_t1_more_transactions_than_connections_take_turns(database_url: str, connection: Any) -> None:
    at_once: list[int] = []
    running = 0

    @DBOS.transaction(name="t1 crowd")
    async def write(target: asyncpg.Connection[Any]) -> None:
        nonlocal running
        running += 1
        at_once.append(running)
        await target.execute("select pg_sleep(0.01)")
        running -= 1

    @DBOS.workflow(name="t1 crowd")
    async def workflow() -> None:
        await asyncio.gather(*[write() for _ in range(12)])

    async with DBOS(database_url, max_transactions=3):
        await workflow()
    assert max(at_once) <= 3
    assert len(at_once) == 12


async def test_t1_started_steps_may_be_transactions(kind: Kind, notes: Any) -> None:
    @kind.transaction(name="t1 started")
    async def write(target: Any, what: str) -> str:
        await say(target, ADD.format(what))
        if what == "slow":
            await asyncio.sleep(3600)
        return what

    @DBOS.workflow(name="t1 started")
    async def workflow() -> list[Any]:
        slow = await DBOS.start_step(write, "slow")
        quick = await DBOS.start_step(write, "quick")
        found = [await quick.get_result()]
        await slow.cancel()
        try:
            await slow.get_result()
        except Exception as error:
            found.append(type(error).__name__)
        return found

    with SetWorkflowID("w"):
        found = await workflow()
    assert found == ["quick", "StepCancelledError"]
    assert await replay(notes, "w") == found

    async def only_quick() -> bool:
        return await written(notes) == ["quick"]

    await eventually(only_quick)
