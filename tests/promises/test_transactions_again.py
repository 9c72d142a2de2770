"""T1: transactions that are repeated, and runs that have lost their workflow."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from dbos_async import DBOS, InvalidArgumentError, SetWorkflowID
from dbos_async._transactions.recording import TransactionStep
from dbos_async.errors import TransactionError
from tests.support.databases import execute, new_database
from tests.support.eventually import eventually
from tests.support.examined import new_role
from tests.support.transactions import SESSIONS, TAKE_OVER, Kind, engine_of, replay, say, written

COUNTERS = "create table counters (id int primary key, n int not null); insert into counters values (1, 0), (2, 0)"


REFUSES = """
    create function public.refuse() returns trigger language plpgsql as $$
    begin raise insufficient_privilege; end $$;
    create trigger refuses before insert on dbos_async.steps execute function public.refuse()
"""

REFUSES_THREE = """
    create sequence public.refusals;
    create function public.refuse() returns trigger language plpgsql as $$
    begin if nextval('public.refusals') <= 3 then raise insufficient_privilege; end if; return new; end $$;
    create trigger refuses before insert on dbos_async.steps execute function public.refuse()
"""


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
@pytest.mark.parametrize("where", ["workflow", "outside"])
async def test_t1_a_serialization_failure_repeats_the_whole(kind: Kind, notes: Any, isolation: str, where: str) -> None:
    await notes.execute(COUNTERS)
    attempts: list[int] = []

    @kind.transaction(name="t1 conflict", isolation=isolation)
    async def add(target: Any) -> int:
        attempts.append(await say(target, "select n from counters where id = 1"))
        await say(target, "insert into notes values ('written')")
        await DBOS.send("receiver", len(attempts))
        if len(attempts) == 1:
            await notes.execute("update counters set n = 10 where id = 1")  # another connection
        await say(target, "update counters set n = n + 1 where id = 1")
        return int(await say(target, "select n from counters where id = 1"))

    @DBOS.workflow(name="t1 conflict")
    async def workflow() -> int:
        return int(await add())

    @DBOS.workflow(name="t1 conflict receives")
    async def receives() -> list[Any]:
        return [await DBOS.recv(timeout_seconds=None), await DBOS.recv(timeout_seconds=0)]

    with SetWorkflowID("receiver"):
        receiver = await DBOS.start_workflow(receives)
    if where == "workflow":
        with SetWorkflowID("w"):
            assert await workflow() == 11
        assert await replay(notes, "w") == 11
    else:
        assert await add() == 11
    assert attempts == [0, 10]
    assert await written(notes) == ["written"]
    assert await receiver.get_result() == [2, None]


async def test_t1_a_conflict_at_the_commit_repeats_the_whole(kind: Kind, notes: Any) -> None:
    """Write skew: each of two transactions reads what the other one writes, and only the commit can tell."""
    await notes.execute(COUNTERS)
    attempts: list[int] = []
    both_have_read = asyncio.Barrier(2)

    @kind.transaction(name="t1 skew", isolation="serializable")
    async def move(target: Any, mine: int) -> int:
        attempts.append(mine)
        total = int(await say(target, "select sum(n) from counters"))
        if len(attempts) <= 2:
            await both_have_read.wait()
        await say(target, f"update counters set n = {total + 1} where id = {mine}")
        return total

    @DBOS.workflow(name="t1 skew")
    async def workflow() -> list[int]:
        return [*await asyncio.gather(move(1), move(2))]

    with SetWorkflowID("w"):
        totals = await workflow()
    assert sorted(totals) == [0, 1]  # one after the other
    assert len(attempts) == 3
    assert await replay(notes, "w") == totals


async def test_t1_a_deadlock_repeats_the_whole(kind: Kind, notes: Any) -> None:
    await notes.execute(COUNTERS)
    attempts: list[int] = []
    both_have_one = asyncio.Barrier(2)

    @kind.transaction(name="t1 deadlock")
    async def lock(target: Any, first: int, second: int) -> int:
        attempts.append(first)
        await say(target, f"update counters set n = n + 1 where id = {first}")
        if len(attempts) <= 2:
            await both_have_one.wait()
        await say(target, f"update counters set n = n + 1 where id = {second}")
        return first

    @DBOS.workflow(name="t1 deadlock")
    async def workflow() -> list[int]:
        return [*await asyncio.gather(lock(1, 2), lock(2, 1))]

    assert await workflow() == [1, 2]
    assert len(attempts) == 3
    assert [row["n"] for row in await notes.fetch("select n from counters")] == [2, 2]


async def test_t1_the_last_of_max_attempts_is_the_error(kind: Kind, notes: Any) -> None:
    attempts: list[int] = []

    @kind.transaction(name="t1 gives up", max_attempts=3)
    async def conflict(target: Any) -> None:
        attempts.append(1)
        await say(target, "insert into notes values ('never')")
        await say(target, f"do $$ begin raise exception 'no. {len(attempts)}' using errcode = '40001'; end $$")

    @DBOS.workflow(name="t1 gives up")
    async def workflow() -> str:
        try:
            await conflict()
        except Exception as error:
            return f"{error}"
        return ""

    with SetWorkflowID("w"):
        found = await workflow()
    assert "no. 3" in found
    assert await replay(notes, "w") == found
    assert len(attempts) == 3
    assert await written(notes) == []


@pytest.mark.parametrize("moment", ["before", "send"])
async def test_t1_w3_a_run_that_lost_its_workflow_changes_nothing(
    kind: Kind, notes: Any, database_url: str, moment: str
) -> None:
    @DBOS.workflow(name="t1 lost receives")
    async def receives() -> Any:
        return await DBOS.recv(timeout_seconds=0.5)

    bodies: list[str] = []

    @kind.transaction(name="t1 lost")
    async def write(target: Any) -> str:
        bodies.append(moment)
        await say(target, f"insert into notes values ('{len(bodies)}')")
        if len(bodies) == 1:
            if moment == "before":
                await DBOS.send("receiver", "early")
                return "late"
            await notes.execute("update dbos_async.workflows set attempt = attempt + 1, owner = null where id = 'w'")
            await DBOS.send("receiver", "late")
        return "taken over"

    @DBOS.workflow(name="t1 lost")
    async def workflow() -> str:
        return str(await write())

    with SetWorkflowID("receiver"):
        receiver = await DBOS.start_workflow(receives)
    record = TransactionStep.record_inside

    async def taken_over_before(step: TransactionStep, connection: Any, output: str) -> str:
        if len(bodies) > 1:
            return await record(step, connection, output)
        # The send of the body holds the row of the workflow. The take-over comes first all the same, as after a rollback.
        taken_over = "update dbos_async.workflows set attempt = attempt + 1, owner = null where id = 'w'"
        await connection.execute(taken_over)
        outcome = await record(step, connection, output)
        await connection.execute("rollback")
        await execute(database_url, taken_over)
        return outcome

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionStep, "record_inside", taken_over_before)
        with SetWorkflowID("w"):
            handle = await DBOS.start_workflow(workflow)
        if moment == "before":
            await eventually(
                lambda: notes.fetchval("select attempt % 1000000 = 2 from dbos_async.workflows where id = 'w'")
            )
            await DBOS.resume_workflow("w")
        assert await handle.get_result() in ("taken over", "late")
    assert await receiver.get_result() is None
    assert len(await written(notes)) == 1


async def test_t1_w3_a_claim_waits_for_a_commit_that_has_begun(kind: Kind, notes: Any, connect: Any) -> None:
    """The record holds the row of the workflow: a take-over comes before the record, or after the commit."""
    claim: list[asyncio.Task[Any]] = []
    other = await connect()
    record = TransactionStep.record_inside

    @kind.transaction(name="t1 holds")
    async def write(target: Any) -> str:
        await say(target, "insert into notes values ('once')")
        return "done"

    @DBOS.workflow(name="t1 holds")
    async def workflow() -> str:
        return str(await write())

    async def then_claimed(step: TransactionStep, connection: Any, output: str) -> str:
        outcome = await record(step, connection, output)
        if not claim:
            claim.append(asyncio.create_task(other.execute(TAKE_OVER, "w")))
            blocked = "select cardinality(pg_blocking_pids($1)) > 0"

            async def waits() -> bool:
                return bool(await notes.fetchval(blocked, other.get_server_pid()))

            await eventually(waits)
        return outcome

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionStep, "record_inside", then_claimed)
        with SetWorkflowID("w"):
            handle = await DBOS.start_workflow(workflow)
        await eventually(lambda: claim and claim[0].done())
    assert await written(notes) == ["once"]
    assert await notes.fetchval("select output::text from dbos_async.steps where workflow_id = 'w'") == '"done"'
    await notes.execute("update dbos_async.workflows set owner = null where id = 'w'")
    await DBOS.resume_workflow("w")
    assert await handle.get_result() == "done"
    assert await written(notes) == ["once"]


async def test_t1_a_step_that_another_run_has_recorded_is_not_written_again(kind: Kind, notes: Any) -> None:
    bodies: list[int] = []

    @kind.transaction(name="t1 recorded")
    async def write(target: Any) -> str:
        bodies.append(1)
        await say(target, "insert into notes values ('never')")
        await notes.execute(
            "insert into dbos_async.steps (workflow_id, branch, number, verb, key, output, completed_at) "
            "values ('w', '', 1, 'step', 't1 recorded', '\"by another\"', now())"
        )
        return "never"

    @DBOS.workflow(name="t1 recorded")
    async def workflow() -> str:
        return str(await write())

    with SetWorkflowID("w"):
        assert await workflow() == "by another"
    assert await written(notes) == []
    assert bodies == [1]


async def test_t1_another_database_has_one_clear_error(dbos: DBOS, server_url: str, template: str) -> None:
    @DBOS.transaction(SESSIONS, name="t1 elsewhere")
    async def write(session: Any) -> int:
        return int(await say(session, "select 1"))

    @DBOS.workflow(name="t1 elsewhere")
    async def workflow() -> str:
        try:
            return str(await write())
        except InvalidArgumentError as error:
            return str(error)

    async with contextlib.AsyncExitStack() as stack:
        for name, made_from, words in (("t1_empty", None, "has no tables"), ("t1_full", template, "is another one")):
            options = {} if made_from is None else {"template": made_from}
            url = await stack.enter_async_context(new_database(server_url, name, **options))
            engine = engine_of(url)
            SESSIONS.configure(bind=engine)
            assert words in await workflow()
            await engine.dispose()


@pytest.mark.parametrize("change", ["set local role {role}", "set role {role}", "set transaction read only"])
async def test_t1_a_body_that_makes_its_record_impossible_is_an_error(
    kind: Kind, notes: Any, database_url: str, change: str
) -> None:
    attempts: list[int] = []

    @kind.transaction(name="t1 spoils its record")
    async def spoil(target: Any, role: str) -> None:
        attempts.append(len(attempts))
        await say(target, "insert into notes values ('written')")
        await say(target, change.format(role=role))

    @DBOS.workflow(name="t1 spoils its record")
    async def workflow(role: str) -> str:
        try:
            await spoil(role)
        except TransactionError as error:
            return str(error)
        return "recorded"

    async with new_role(database_url) as (role, _):
        with SetWorkflowID("w"):
            said = await workflow(role)
    assert said.startswith("The body of the transaction 't1 spoils its record' has made its record impossible (")
    assert 4 <= len(attempts) <= 6, "an engine may hand out a connection once more that was ended"
    assert await written(notes) == []
    assert await replay(notes, "w") == said


async def test_t1_a_record_that_is_refused_for_a_while_is_repeated_in_spite_of_the_body(
    kind: Kind, notes: Any, database_url: str
) -> None:
    attempts: list[int] = []

    @kind.transaction(name="t1 is refused for a while")
    async def insert(target: Any) -> None:
        attempts.append(len(attempts))
        await say(target, "insert into notes values ('written')")
        if len(attempts) == 6:
            await notes.execute("drop trigger refuses on dbos_async.steps")

    @DBOS.workflow(name="t1 is refused for a while")
    async def workflow() -> str:
        await insert()
        return "recorded"

    await notes.execute(REFUSES)
    assert await workflow() == "recorded"
    assert len(attempts) == 6
    assert await written(notes) == ["written"]


async def test_t1_a_body_is_not_blamed_for_a_refusal_that_has_just_ended(kind: Kind, notes: Any) -> None:
    attempts: list[int] = []

    @kind.transaction(name="t1 was refused three times")
    async def insert(target: Any) -> None:
        attempts.append(len(attempts))
        await say(target, "insert into notes values ('written')")

    @DBOS.workflow(name="t1 was refused three times")
    async def workflow() -> str:
        await insert()
        return "recorded"

    await notes.execute(REFUSES_THREE)
    assert await workflow() == "recorded"
    assert len(attempts) == 4
    assert await written(notes) == ["written"]


async def test_t1_a_body_that_is_suspected_holds_no_connection(database_url: str) -> None:
    @DBOS.transaction(name="t1 spoils with few connections")
    async def spoil(connection: Any) -> None:
        await connection.execute("set transaction read only")

    @DBOS.workflow(name="t1 spoils with few connections")
    async def workflow() -> str:
        try:
            await spoil()
        except TransactionError:
            return "an error"
        return "recorded"

    async with DBOS(database_url, max_transactions=1), asyncio.timeout(20):
        handles = [await DBOS.start_workflow(workflow) for _ in range(2)]
        assert [await handle.get_result() for handle in handles] == ["an error", "an error"]
