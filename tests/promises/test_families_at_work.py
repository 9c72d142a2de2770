"""A family that is cancelled while it starts something, or by one of its own, or by a process that is killed."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import Any

import pytest

from dbos_async import (
    DBOS,
    DatabaseUnavailableError,
    DBOSClient,
    SetWorkflowID,
)
from dbos_async._executor import launched
from dbos_async._messaging.send_later import SEND_LATER
from dbos_async._workflows import families
from dbos_async._workflows.start import START_CHILD, START_DELAYED
from tests.support.eventually import eventually
from tests.support.families import (
    INSERT,
    are,
    is_in,
    make_tree,
    member,
    statuses,
)
from tests.support.processes import running
from tests.support.races import outcome
from tests.support.statements import ACTS, execute, step

STARTS: dict[str, tuple[Any, Any]] = {
    "START_CHILD": (START_CHILD, ACTS["START_CHILD"].row),
    "START_DELAYED": (START_DELAYED, ACTS["START_DELAYED"].row),
    "SEND_LATER": (SEND_LATER, ACTS["SEND_LATER with a start"].row),
}
NOT_PARENTS = "select array_agg(status) from dbos_async.workflows where id not in ('w', 'other')"


@pytest.mark.parametrize("ends_by", ["commit", "rollback"])
@pytest.mark.parametrize("start", STARTS)
async def test_w6_a_start_under_way_is_waited_for_and_reached(
    start: str, ends_by: str, one: Any, two: Any, database_url: str
) -> None:
    """It has read the fence of its parent before the parent was cancelled, and commits the child after that."""
    statement, row = STARTS[start]
    await two.execute("begin")
    await execute(two, statement, row(step(1), "x"))
    async with DBOSClient(database_url) as client:
        cancelling = asyncio.create_task(client.cancel_workflow("w", children=True))
        looks = "select count(*) from pg_stat_activity where query like '%count(distinct relation)%' and pid <> pg_backend_pid()"
        await eventually(lambda: one.fetchval(looks))
        assert (await statuses(one))["w"] == "CANCELLED"
        assert not cancelling.done()
        await two.execute(ends_by)
        assert await cancelling
    expected = ["CANCELLED"] if ends_by == "commit" else None
    assert await one.fetchval(NOT_PARENTS) == expected
    late = await execute(two, statement, row(step(2), "late"))
    assert outcome(late) == "lost", "after that it starts nothing any more"
    assert await one.fetchval(NOT_PARENTS) == expected


@pytest.mark.parametrize("start", STARTS)
async def test_w6_a_start_inside_a_step_is_waited_for_and_reached(
    start: str, one: Any, two: Any, three: Any, database_url: str
) -> None:
    """It has no step whose row decides, and so it locks the row of its parent."""
    statement, row = STARTS[start]
    await two.execute("begin")
    await execute(two, statement, row(step(None), "x"))
    async with DBOSClient(database_url) as client:
        cancelling = asyncio.create_task(client.cancel_workflow("w", children=True))
        waits = f"select count(*) from pg_stat_activity where {two.get_server_pid()} = any (pg_blocking_pids(pid))"
        await eventually(lambda: three.fetchval(waits))
        await two.execute("commit")
        assert await cancelling
    assert await one.fetchval(NOT_PARENTS) == ["CANCELLED"]


async def test_w6_children_that_a_late_child_has_started_are_reached(one: Any, two: Any, database_url: str) -> None:
    late = list(ACTS["START_CHILD"].row(step(1), "x"))
    late[5] = "late"
    await two.execute("begin")
    await execute(two, START_CHILD, tuple(late))
    await two.execute(INSERT, "below the late one", "PENDING", "late", False, None)
    async with DBOSClient(database_url) as client:
        cancelling = asyncio.create_task(client.cancel_workflows(["w"], children=True))
        await eventually(lambda: is_in(one, "w", "CANCELLED"))
        await two.execute("commit")
        assert await cancelling == dict.fromkeys(["w", "late", "below the late one"], "cancelled")


async def test_d4_a_cancellation_of_a_family_does_not_wait_for_ever(
    one: Any, two: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(families, "STARTS_WITHIN_SECONDS", 0.2)
    await one.execute(INSERT, "child", "PENDING", "w", False, None)
    await two.execute("begin")
    await execute(two, START_CHILD, ACTS["START_CHILD"].row(step(1), "x"))
    async with DBOSClient(database_url) as client:
        with pytest.raises(DatabaseUnavailableError, match="stayed open; all others are cancelled"):
            await client.cancel_workflow("w", children=True)
        assert await is_in(one, "child", "CANCELLED")
        await two.execute("commit")
        assert not await client.cancel_workflow("w", children=True), "it goes on where it has stopped"
    assert await one.fetchval("select count(*) from dbos_async.workflows where status = 'PENDING'") == 0


@DBOS.workflow(name="cancels its family")
async def rebels(target: str, bulk: bool) -> None:
    with SetWorkflowID("of the rebel"):
        await DBOS.start_workflow(member)
    if bulk:
        await DBOS.cancel_workflows([str(DBOS.workflow_id), "nobody", target], children=True)
    else:
        await DBOS.cancel_workflow(target, children=True)
    raise AssertionError("it is cancelled itself")


@DBOS.workflow(name="has a rebel")
async def has_rebel(target: str, bulk: bool) -> None:
    for each in ("before", "after"):
        with SetWorkflowID(each):
            await DBOS.start_workflow(member, f"below {each}")
        if each == "before":
            with SetWorkflowID("rebel"):
                await DBOS.start_workflow(rebels, target, bulk)
    await DBOS.recv("go", None)


@pytest.mark.parametrize("bulk", [False, True])
@pytest.mark.parametrize("target", ["parent", "rebel"])
async def test_w6_a_workflow_that_cancels_its_own_family_goes_last(
    target: str, bulk: bool, dbos: DBOS, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(families, "AT_A_TIME", 1)
    family = {"rebel", "of the rebel"}
    if target == "parent":
        family |= {"parent", "before", "below before"}
    with SetWorkflowID("parent"):
        await DBOS.start_workflow(has_rebel, target, bulk)
    await eventually(lambda: are("CANCELLED", *family), "all of them are cancelled")
    ended = await connection.fetch("select id from dbos_async.workflows where status = 'CANCELLED' order by ended_at")
    assert ended[-1]["id"] == "rebel"
    # What its parent had not started by then, it never starts; what it had is cancelled.
    others = set(await statuses(connection)) - family
    if target == "parent":
        await eventually(lambda: are("CANCELLED", *others), "also what was started meanwhile")
    else:
        assert await are("PENDING", "parent", "before")
    await eventually(lambda: "rebel" not in launched.executor().runs)


@DBOS.workflow(name="cancels itself with its children")
async def cancels_itself() -> None:
    await DBOS.cancel_workflow(str(DBOS.workflow_id), children=True)


async def test_w6_what_the_caller_starts_while_it_is_cancelled_is_reached(
    dbos: DBOS, connect: Any, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another task of the caller begins a start when all others are cancelled, and commits it when the caller has ended."""
    other = await connect()
    cancellation = families._Cancellation  # pyright: ignore[reportPrivateUsage]
    cancel_caller = cancellation._cancel_caller  # pyright: ignore[reportPrivateUsage]

    async def with_start(self: Any, own_id: str, *, children: bool) -> None:
        attempt = await connection.fetchval("select attempt from dbos_async.workflows where id = 'w'")
        await other.execute("begin")
        await execute(other, START_CHILD, ACTS["START_CHILD"].row(("w", attempt, "1.1", 1), "x"))
        await cancel_caller(self, own_id, children=children)

    monkeypatch.setattr(cancellation, "_cancel_caller", with_start)
    with SetWorkflowID("w"):
        await DBOS.start_workflow(cancels_itself)
    await eventually(lambda: are("CANCELLED", "w"))
    await eventually(lambda: not launched.executor().runs)
    await other.execute("commit")
    await eventually(lambda: _all_cancelled(connection))
    assert len(await statuses(connection)) == 2


async def _all_cancelled(connection: Any) -> bool:
    return set((await statuses(connection)).values()) == {"CANCELLED"}


@pytest.mark.parametrize("act", ["cancel", "delete"])
async def test_w6_w2_a_workflow_that_acts_on_a_family_is_killed_between_any_two_parts(
    act: str, database_url: str, connection: Any
) -> None:
    ids = await make_tree(connection, 2, 2, "PENDING" if act == "cancel" else "SUCCESS")
    kills = 0
    for number in range(1, 200, 2):
        async with running("families", database_url, act, number) as program:
            code = await program.code()
        if code == 0:
            break
        assert code == -signal.SIGKILL, program.errors
        kills += 1
        left = await statuses(connection)
        for each in left:
            if act == "delete" and each in ids:
                assert "." not in each or each.rpartition(".")[0] in left, "children go first"
    assert kills > 3
    async with running("families", database_url, act) as program:
        assert program.process.stdout is not None
        outcomes = json.loads(await program.process.stdout.readline())
    assert outcomes["nobody"] == "unknown"
    stand = await statuses(connection)
    if act == "cancel":
        assert {each: stand.pop(each) for each in ids} == dict.fromkeys(ids, "CANCELLED")
        assert outcomes.keys() == {*ids, "nobody"}
    assert stand == {"w": "SUCCESS"}
    assert await connection.fetchval("select count(*) from dbos_async.steps where workflow_id = 'w'") == 1
