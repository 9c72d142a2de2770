"""T1: transactions in transactions, tasks of their bodies, and connections that are frozen or closed."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool

from dbos_async import DBOS, SetWorkflowID, TransactionError, WrongPlaceError
from dbos_async._transactions.recording import TransactionStep
from tests.support.transactions import Kind, say, written


async def test_t1_a_nested_transaction_is_a_part_of_the_outer_one(kind: Kind, notes: Any) -> None:
    @kind.transaction(name="t1 inner")
    async def inner(target: Any, what: str) -> int:
        await say(target, f"insert into notes values ('{what}')")
        if what == "bad":
            raise LookupError(what)
        return 1

    @kind.transaction(name="t1 strict", isolation="serializable")
    async def strict(target: Any) -> None: ...

    @kind.transaction(name="t1 outer")
    async def outer(target: Any, *, fails: bool) -> str:
        await inner("good")
        with pytest.raises(LookupError):
            await inner("bad")
        with pytest.raises(WrongPlaceError) as raised:
            await strict()
        if fails:
            raise LookupError
        return str(raised.value)

    @DBOS.workflow(name="t1 outer")
    async def workflow() -> str:
        with pytest.raises(LookupError):
            await outer(fails=True)
        return str(await outer(fails=False))

    with SetWorkflowID("w"):
        assert await workflow() == (
            "The transaction 't1 strict' cannot be a part of 't1 outer', in whose body it was called, since it has the isolation "
            "level 'serializable', not 'read committed': call it outside of that body."
        )
    assert await written(notes) == ["good"]
    assert [step.key for step in await DBOS.list_workflow_steps("w")] == ["t1 outer", "t1 outer"]


async def test_t1_tasks_that_outlive_the_body_send_nothing(kind: Kind, notes: Any) -> None:
    left: list[asyncio.Task[Any]] = []
    go_on = asyncio.Event()

    @kind.transaction(name="t1 leaves a task")
    async def write(target: Any) -> None:
        async def late() -> None:
            await go_on.wait()
            await DBOS.send("w", "never")

        left.append(asyncio.create_task(late()))

    @DBOS.workflow(name="t1 waits a while")
    async def workflow() -> Any:
        return await DBOS.recv(timeout_seconds=0.3)

    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(workflow)
    await write()
    go_on.set()
    with pytest.raises(WrongPlaceError, match="has outlived the transaction 't1 leaves a task'"):
        await left[0]
    assert await handle.get_result() is None


@pytest.mark.parametrize("where", ["workflow", "outside"])
async def test_t1_a_task_that_still_uses_the_connection_has_one_clear_error(kind: Kind, notes: Any, where: str) -> None:
    left: list[asyncio.Task[Any]] = []

    @kind.transaction(name="t1 leaves a statement")
    async def write(target: Any) -> None:
        await say(target, "insert into notes values ('never')")
        left.append(asyncio.create_task(say(target, "select 1 from pg_sleep(0.5)")))
        await asyncio.sleep(0.05)

    @DBOS.workflow(name="t1 leaves a statement")
    async def workflow() -> None:
        await write()

    with pytest.raises(TransactionError, match="still uses its connection"):
        await (workflow if where == "workflow" else write)()
    await asyncio.gather(*left, return_exceptions=True)
    assert await written(notes) == []


async def test_t1_a_workflow_is_not_awaited_in_a_transaction(dbos: DBOS) -> None:
    @DBOS.workflow(name="t1 child")
    async def child() -> None: ...

    @DBOS.transaction(name="t1 awaits")
    async def write(connection: asyncpg.Connection[Any]) -> None:
        await child()

    with pytest.raises(WrongPlaceError, match="begins after the commit of the transaction 't1 awaits'"):
        await write()


async def test_t1_inner_transactions_of_several_tasks_take_turns(kind: Kind, notes: Any) -> None:
    """Whoever rolls back to a savepoint takes back all that came after it, so nobody else may come after it."""
    has_begun = asyncio.Event()

    @kind.transaction(name="t1 inner of a task")
    async def inner(target: Any, what: str) -> str:
        await say(target, f"insert into notes values ('{what}')")
        await DBOS.send("receiver", what)
        has_begun.set()
        await asyncio.sleep(0.1)
        if what == "bad":
            raise LookupError(what)
        return what

    @kind.transaction(name="t1 outer of tasks")
    async def outer(target: Any) -> list[str]:
        async def send() -> str:
            await has_begun.wait()
            await DBOS.send("receiver", "sent")
            return "sent"

        async def call() -> str:
            await has_begun.wait()
            return str(await inner("good"))

        results = await asyncio.gather(inner("bad"), send(), call(), return_exceptions=True)
        return [repr(result) for result in results]

    @DBOS.workflow(name="t1 outer of tasks")
    async def workflow() -> list[str]:
        return [*await outer()]

    @DBOS.workflow(name="t1 is sent by tasks")
    async def receives() -> list[Any]:
        return [await DBOS.recv(timeout_seconds=None), await DBOS.recv(timeout_seconds=None)]

    with SetWorkflowID("receiver"):
        receiver = await DBOS.start_workflow(receives)
    assert await workflow() == ["LookupError('bad')", "'sent'", "'good'"]
    assert await written(notes) == ["good"]
    assert await receiver.get_result() == ["sent", "good"]


async def test_t1_w6_the_server_ends_a_transaction_that_is_frozen_between_record_and_commit(
    kind: Kind, notes: Any
) -> None:
    """It holds the row of the workflow, and nobody could claim or cancel that."""
    seen: list[str] = []
    record = TransactionStep.record_inside

    @kind.transaction(name="t1 frozen")
    async def write(target: Any) -> None:
        seen.append(await say(target, "select current_setting('idle_in_transaction_session_timeout')"))

    @DBOS.workflow(name="t1 frozen")
    async def workflow() -> None:
        await write()
        await write()

    async def recorded(step: TransactionStep, connection: Any, output: str) -> str:
        outcome = await record(step, connection, output)
        seen.append(await connection.fetchval("select current_setting('idle_in_transaction_session_timeout')"))
        return outcome

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionStep, "record_inside", recorded)
        await workflow()
    assert seen == [seen[0], "10s", seen[0], "10s"] != ["10s"] * 4


@pytest.mark.parametrize("where", ["workflow", "outside"])
async def test_t1_what_the_pool_of_an_engine_closes_is_not_lost(
    dbos: DBOS, database_url: str, connection: Any, where: str
) -> None:
    """A NullPool closes each connection that it gets back, and any pool does so with those of its overflow."""
    engine = create_async_engine(database_url.replace("postgresql://", "postgresql+asyncpg://"), poolclass=NullPool)
    sessions = async_sessionmaker(engine)
    await connection.execute("create table one (id int primary key deferrable initially deferred)")
    bodies: list[str] = []

    @DBOS.transaction(sessions, name="t1 closed by a pool")
    async def write(session: AsyncSession, how: str) -> int:
        bodies.append(how)
        await say(session, "insert into one values (1)")
        if how == "raises":
            raise LookupError(how)
        if how == "fails at the commit":
            await say(session, "insert into one values (1)")
        if how == "conflicts" and bodies.count(how) == 1:
            await say(session, "do $$ begin raise exception 'conflict' using errcode = '40001'; end $$")
        if how == "closes":
            await session.close()
        return len(bodies)

    @DBOS.workflow(name="t1 closed by a pool")
    async def workflow(how: str) -> int:
        return int(await write(how))

    call: Any = workflow if where == "workflow" else write
    async with asyncio.timeout(10):
        with pytest.raises(LookupError, match="raises"):
            await call("raises")
        with pytest.raises(IntegrityError, match="one_pkey"):
            await call("fails at the commit")
        with pytest.raises(TransactionError, match="closed its connection"):
            await call("closes")
        assert await call("conflicts") == 5
    assert bodies == ["raises", "fails at the commit", "closes", "conflicts", "conflicts"]
    assert await connection.fetchval("select count(*) from one") == 1
    await engine.dispose()
