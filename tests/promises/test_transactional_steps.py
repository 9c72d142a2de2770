"""T1: the writes of a transactional step, what it sends, and its record are one commit."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dbos_async import (
    DBOS,
    InvalidValueError,
    SetWorkflowID,
    TransactionError,
)
from tests.support.eventually import eventually
from tests.support.transactions import Kind, replay, say, written

ADD = "insert into notes values ('{}')"


async def test_t1_a_step_writes_once_and_its_result_is_replayed(kind: Kind, notes: Any) -> None:
    ran: list[str] = []

    @kind.transaction(name="t1 writes")
    async def write(target: Any, what: str, *, loud: bool = False) -> dict[str, int]:
        ran.append(what)
        await say(target, ADD.format(what.upper() if loud else what))
        return {"notes": await say(target, "select count(*) from notes")}

    @DBOS.workflow(name="t1 writes")
    async def workflow() -> list[Any]:
        return [await write("a"), await write("b", loud=True)]

    with SetWorkflowID("w"):
        assert await workflow() == [{"notes": 1}, {"notes": 2}]
    assert await replay(notes, "w") == [{"notes": 1}, {"notes": 2}]
    assert ran == ["a", "b"]
    assert await written(notes) == ["B", "a"]
    steps = await DBOS.list_workflow_steps("w")
    assert [(step.step, step.verb, step.key) for step in steps] == [
        ("1", "step", "t1 writes"),
        ("2", "step", "t1 writes"),
    ]


async def test_t1_an_exception_rolls_back_and_is_recorded_with_its_type(kind: Kind, notes: Any) -> None:
    @kind.transaction(name="t1 raises")
    async def write(target: Any) -> None:
        await say(target, ADD.format("never"))
        await DBOS.send("w", "never")
        raise LookupError("on purpose")

    @DBOS.workflow(name="t1 raises")
    async def workflow() -> Any:
        with pytest.raises(LookupError, match="on purpose"):
            await write()
        return await DBOS.recv(timeout_seconds=0)

    with SetWorkflowID("w"):
        assert await workflow() is None
    assert await replay(notes, "w") is None
    assert await written(notes) == []


async def test_t1_messages_starts_and_events_come_with_the_commit(kind: Kind, notes: Any) -> None:
    go_on = asyncio.Event()

    @DBOS.workflow(name="t1 receives")
    async def receives(count: int) -> list[Any]:
        return [await DBOS.recv(timeout_seconds=None) for _ in range(count)]

    @kind.transaction(name="t1 sends")
    async def write(target: Any) -> str:
        await say(target, ADD.format("a"))
        await asyncio.gather(DBOS.send("receiver", 1), DBOS.send("receiver", 2, idempotency_key="k"))
        await DBOS.set_event("said", "a")
        child = await DBOS.start_workflow(receives, 1)
        await DBOS.send(child.workflow_id, "for the child")
        await go_on.wait()
        return child.workflow_id

    @DBOS.workflow(name="t1 sends")
    async def workflow() -> str:
        return str(await write())

    with SetWorkflowID("receiver"):
        receiver = await DBOS.start_workflow(receives, 2)
    with SetWorkflowID("w"):
        sender = await DBOS.start_workflow(workflow)

    async def waits() -> bool:
        return bool(await notes.fetchval("select count(*) from pg_stat_activity where state = 'idle in transaction'"))

    await eventually(waits)
    assert await notes.fetchval("select count(*) from dbos_async.messages") == 0
    go_on.set()
    child = await DBOS.retrieve_workflow(await sender.get_result())
    assert sorted(await receiver.get_result()) == [1, 2]
    assert await child.get_result() == ["for the child"]
    assert (await child.get_status()).parent_id == "w"
    assert await DBOS.get_event("w", "said") == "a"
    assert await written(notes) == ["a"]


async def test_t1_a_result_that_cannot_be_stored_rolls_back(kind: Kind, notes: Any) -> None:
    @kind.transaction(name="t1 no json")
    async def write(target: Any) -> Any:
        await say(target, ADD.format("never"))
        return object()

    @DBOS.workflow(name="t1 no json")
    async def workflow() -> None:
        await write()

    with SetWorkflowID("w"), pytest.raises(InvalidValueError, match="The result of step 't1 no json'"):
        await workflow()
    with pytest.raises(InvalidValueError):
        await replay(notes, "w")
    assert await written(notes) == []


async def test_t1_a_result_that_is_too_large_rolls_back(kind: Kind, database_url: str, connection: Any) -> None:
    @kind.transaction(name="t1 large")
    async def write(target: Any) -> str:
        await say(target, "create table notes (what text)")
        return "x" * 2000

    @DBOS.workflow(name="t1 large")
    async def workflow() -> None:
        await write()

    async with DBOS(database_url, max_payload_bytes=1000):
        with pytest.raises(InvalidValueError, match="too large|bytes"):
            await workflow()
    assert await connection.fetchval("select to_regclass('notes')") is None


@pytest.mark.parametrize("by", ["sql", "session"])
@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_t1_a_body_that_ends_its_transaction_has_one_clear_error(
    kind: Kind, notes: Any, ending: str, by: str
) -> None:
    @kind.transaction(name="t1 ends it")
    async def write(target: Any) -> None:
        await say(target, ADD.format("x"))
        await (getattr(target, ending)() if kind.name == "sqlalchemy" and by == "session" else say(target, ending))

    @DBOS.workflow(name="t1 ends it")
    async def workflow() -> None:
        await write()

    with SetWorkflowID("w"), pytest.raises(TransactionError, match="has ended it"):
        await workflow()
    with pytest.raises(TransactionError):
        await replay(notes, "w")
    with pytest.raises(TransactionError, match="has ended it"):
        await write()


async def test_t1_a_body_that_closes_its_connection_has_one_clear_error(kind: Kind, notes: Any) -> None:
    @kind.transaction(name="t1 closes it")
    async def write(target: Any) -> None:
        await say(target, ADD.format("x"))
        await target.close()

    @DBOS.workflow(name="t1 closes it")
    async def workflow() -> None:
        await write()

    with pytest.raises(TransactionError, match="closed its connection"):
        await workflow()
    assert await written(notes) == []


async def test_t1_a_body_that_swallows_an_error_of_postgres_has_one_clear_error(kind: Kind, notes: Any) -> None:
    @kind.transaction(name="t1 swallows")
    async def write(target: Any) -> str:
        await say(target, ADD.format("x"))
        try:
            await say(target, "select 1 / 0")
        except Exception:
            return "fine"
        return "unreachable"

    @DBOS.workflow(name="t1 swallows")
    async def workflow() -> str:
        return str(await write())

    with pytest.raises(TransactionError, match="swallowed that error"):
        await workflow()
    assert await written(notes) == []
    with pytest.raises(TransactionError, match="swallowed that error"):
        await write()  # outside of workflows, too, it is not taken for a commit


async def test_t1_an_error_in_a_savepoint_leaves_the_rest(kind: Kind, notes: Any) -> None:
    @kind.transaction(name="t1 savepoint")
    async def write(target: Any) -> None:
        await say(target, ADD.format("kept"))
        with pytest.raises(Exception, match="zero"):
            async with target.begin_nested() if kind.name == "sqlalchemy" else target.transaction():
                await say(target, ADD.format("undone"))
                await say(target, "select 1 / 0")

    @DBOS.workflow(name="t1 savepoint")
    async def workflow() -> None:
        await write()

    await workflow()
    assert await written(notes) == ["kept"]
