"""A workflow with all that it has started: cancelled, deleted, and reached by its deadline; and many workflows at once."""

from __future__ import annotations

import asyncio
import functools
import json
import signal
from typing import Any

import pytest

from dbos_async import (
    DBOS,
    DatabaseUnavailableError,
    DBOSClient,
    InvalidArgumentError,
    SetApplicationVersion,
    SetStartDelay,
    SetWorkflowID,
    SetWorkflowTimeout,
    Start,
    WorkflowCancelledError,
    WorkflowNotEndedError,
    WorkflowNotFoundError,
)
from dbos_async._executor import launched
from dbos_async._messaging.send import SEND_LATER
from dbos_async._workflows import delete, families
from dbos_async._workflows.start import START_CHILD, START_DELAYED
from tests.promises.test_delete import LOOKED
from tests.support.eventually import eventually
from tests.support.families import FAMILY, INSERT, KINDS, make_family, make_tree, statuses
from tests.support.processes import running
from tests.support.races import outcome
from tests.support.statements import ACTS, execute, step
from tests.support.troubles import holding

ENDED = {"ended", "failed"}
CANCELLED = [each for each in FAMILY if each not in ENDED]


@DBOS.workflow(name="member of a family")
async def member(*below: str) -> Any:
    """Starts its children under their ids, and waits."""
    for each in below:
        with SetWorkflowID(each):
            await DBOS.start_workflow(member)
    return await DBOS.recv("go", None)


@DBOS.workflow(name="starts a family")
async def starts_family(ends: bool) -> None:
    with SetWorkflowID("middle"):
        await DBOS.start_workflow(member, "last", "found by its id")
    if not ends:
        await DBOS.recv("go", None)


async def are(found: str, *workflow_ids: str) -> bool:
    listed = await DBOS.list_workflows(workflow_id=list(workflow_ids), status=found)
    return len(listed) == len(workflow_ids)


async def test_w6_a_workflow_is_cancelled_with_all_that_it_has_started(dbos: DBOS) -> None:
    with SetWorkflowID("found by its id"):
        await DBOS.start_workflow(member)
    with SetWorkflowID("first"):
        first = await DBOS.start_workflow(starts_family, False)
    await eventually(lambda: are("PENDING", "middle", "last"))
    waiting = [asyncio.create_task((await DBOS.retrieve_workflow(each)).get_result()) for each in ("middle", "last")]
    await eventually(lambda: _waits("middle"))
    async with asyncio.timeout(1):
        assert await DBOS.cancel_workflow("first", children=True)
        for each in (*waiting, first.get_result()):
            with pytest.raises(WorkflowCancelledError):
                await each
    await eventually(lambda: set(launched.executor().runs) == {"found by its id"})
    assert await are("PENDING", "found by its id"), "another one has started it"
    assert not await DBOS.cancel_workflow("first", children=True)


async def _waits(workflow_id: str) -> bool:
    return any(each.verb == "recv" for each in await DBOS.list_workflow_steps(workflow_id))


async def test_w6_what_stands_below_a_workflow_that_has_ended_is_reached(dbos: DBOS) -> None:
    with SetWorkflowID("first"):
        await (await DBOS.start_workflow(starts_family, True)).get_result()
    await eventually(lambda: are("PENDING", "middle", "last"))
    await DBOS.send("middle", "done", "go")
    await eventually(lambda: are("SUCCESS", "middle"))
    assert await DBOS.cancel_workflows(["first"], children=True) == {
        "first": "ended", "middle": "ended", "last": "cancelled", "found by its id": "cancelled",
    }  # fmt: skip


async def test_w6_every_status_is_reached_and_nobody_else(connection: Any, database_url: str) -> None:
    await make_family(connection)
    async with DBOSClient(database_url) as client:
        outcomes = await client.cancel_workflows(["nobody", "root", "child", "root"], children=True)
        assert list(outcomes)[:3] == ["nobody", "root", "child"], "each once, in their order"
        assert outcomes == {each: "ended" if each in ENDED else "cancelled" for each in FAMILY} | {"nobody": "unknown"}
        expected = {each: KINDS[each][0] if each in ENDED or each not in FAMILY else "CANCELLED" for each in KINDS}
        assert await statuses(connection) == expected | {"fork": "PENDING", "child of the fork": "PENDING"}
        again = await client.cancel_workflows(["root"], children=True)
        assert again == dict.fromkeys(FAMILY, "ended")
        # What was cancelled is resumed, and cancelled anew.
        resumed = await client.resume_workflows([*outcomes, "another"])
        assert resumed == dict.fromkeys(CANCELLED, "resumed") | dict.fromkeys(ENDED, "ended") | {
            "nobody": "unknown", "another": "pending",
        }  # fmt: skip
        assert list(resumed) == [*outcomes, "another"]
        assert await client.cancel_workflow("root", children=True)
        assert (await statuses(connection))["parked"] == "CANCELLED"
        with pytest.raises(WorkflowNotFoundError, match="'nobody'"):
            await client.cancel_workflow("nobody", children=True)


async def test_w6_a_family_in_a_circle_is_cancelled_and_deleted(connection: Any, database_url: str) -> None:
    for workflow_id, parent_id in (("a", "c"), ("b", "a"), ("c", "b"), ("self", "self")):
        await connection.execute(INSERT, workflow_id, "PENDING", parent_id, False, None)
    async with DBOSClient(database_url) as client:
        assert await client.cancel_workflows(["b", "self"], children=True) == dict.fromkeys("bca", "cancelled") | {
            "self": "cancelled"
        }
        await client.delete_workflow("b", children=True)
        await client.delete_workflow("self", children=True)
    assert await statuses(connection) == {}


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
        await eventually(lambda: _is(one, "w", "CANCELLED"))
        await two.execute("commit")
        assert await cancelling == dict.fromkeys(["w", "late", "below the late one"], "cancelled")


async def _is(connection: Any, workflow_id: str, status: str) -> bool:
    return (await statuses(connection))[workflow_id] == status


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
        assert await _is(one, "child", "CANCELLED")
        await two.execute("commit")
        assert not await client.cancel_workflow("w", children=True), "it goes on where it has stopped"
    assert await one.fetchval("select count(*) from dbos_async.workflows where status = 'PENDING'") == 0


async def test_w6_one_whose_row_is_held_keeps_nobody_else(connection: Any, database_url: str) -> None:
    ids = await make_tree(connection, 2, 2)
    async with DBOSClient(database_url, connect_timeout_seconds=3) as client:
        async with holding(database_url, "select from dbos_async.workflows where id = 'r.0' for update"):
            with pytest.raises(DatabaseUnavailableError):
                await client.cancel_workflows(["r"], children=True)
            assert await statuses(connection) == dict.fromkeys(ids, "CANCELLED") | {"r.0": "PENDING"}
        assert await client.cancel_workflows(["r"], children=True) == dict.fromkeys(ids, "ended") | {"r.0": "cancelled"}
        async with holding(database_url, "select from dbos_async.workflows where id = 'r.0' for update"):
            with pytest.raises(DatabaseUnavailableError):
                await client.delete_workflow("r", children=True)
            assert {"r", "r.0"} <= (await statuses(connection)).keys(), "what stands below it has gone first"
        await client.delete_workflow("r", children=True)
    assert await statuses(connection) == {}


async def test_w4_a_workflow_that_cancels_a_family_tells_what_it_did_also_when_a_row_was_held(
    database_url: str, connection: Any
) -> None:
    ids = await make_tree(connection, 2, 1)
    async with DBOS(database_url, connect_timeout_seconds=3):
        async with holding(database_url, "select from dbos_async.workflows where id = 'r.0' for update"):
            with SetWorkflowID("w"):
                handle = await DBOS.start_workflow(cancels_all, "r")
            await eventually(lambda: _is(connection, "r.1", "CANCELLED"))
            assert not launched.executor().runs["w"].over
        assert await handle.get_result() == dict.fromkeys(ids, "cancelled")


@DBOS.workflow(name="cancels another family")
async def cancels_all(workflow_id: str) -> dict[str, str]:
    return dict(await DBOS.cancel_workflows([workflow_id], children=True))


async def test_w6_writers_that_start_nothing_are_not_waited_for(one: Any, two: Any, database_url: str) -> None:
    await two.execute("begin")
    for name in ("SEND", "RECORD", "SET_EVENT"):
        await execute(two, ACTS[name].statement, ACTS[name].row(step(len(name)), "x"))
    async with DBOSClient(database_url) as client, asyncio.timeout(5):
        assert await client.cancel_workflow("w", children=True)
    await two.execute("rollback")


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


async def test_w4_what_became_of_them_is_recorded(dbos: DBOS, connection: Any) -> None:
    @DBOS.workflow(name="clears up")
    async def clears_up() -> list[Any]:
        found: list[Any] = [await DBOS.cancel_workflows(["root"], children=True)]
        found.append(await DBOS.resume_workflows(["child", "ended"]))
        found.append(await DBOS.cancel_workflow("root", children=True))
        found.append(await DBOS.delete_workflows(["root", "another"], children=True))
        try:
            await DBOS.delete_workflow("another", children=True)
        except WorkflowNotEndedError as error:
            found.append(str(error))
        return found

    await make_family(connection)
    with SetWorkflowID("w"):
        first = await (await DBOS.start_workflow(clears_up)).get_result()
    assert first[1] == {"child": "resumed", "ended": "ended"}
    assert first[2] is False
    assert set(first[3]) == {*FAMILY, "another"}
    assert first[3]["another"] == "not ended"
    assert "'another' is PENDING" in first[4] or "'child of another' is PENDING" in first[4]
    copy = await DBOS.fork_workflow("w", 6)
    assert await copy.get_result() == first
    assert (await DBOS.list_workflow_steps("w"))[0].key == "root"


async def test_t3_a_family_is_removed_whole_or_not_at_all(connection: Any, database_url: str) -> None:
    await make_family(connection)
    async with DBOSClient(database_url) as client:
        before = await statuses(connection)
        with pytest.raises(WorkflowNotEndedError, match="'(child|root)' is PENDING"):
            await client.delete_workflow("root", children=True)
        with pytest.raises(WorkflowNotEndedError, match="'parked' is REPLAY_MISMATCH|'below the ended' is PENDING"):
            await client.delete_workflow("ended", children=True)
        assert await statuses(connection) == before
        await client.cancel_workflow("root", children=True)
        await client.resume_workflow("parked")
        with pytest.raises(WorkflowNotEndedError, match="'parked' is PENDING and cannot be deleted: cancel it first"):
            await client.delete_workflow("root", children=True)
        # One that stays keeps its parents, and what stands below them.
        assert await client.delete_workflows(["child", "root", "nobody", "failed"], children=True) == {
            "child": "deleted", "root": "not ended", "nobody": "unknown", "failed": "deleted",
            "grandchild": "deleted", "recovered too often": "deleted",
        }  # fmt: skip
        await client.cancel_workflow("parked")
        await client.delete_workflow("root", children=True)
        assert set(await statuses(connection)) == {"another", "child of another", "fork", "child of the fork"}
        with pytest.raises(WorkflowNotFoundError):
            await client.delete_workflow("root", children=True)


async def test_t3_a_child_that_is_started_while_its_family_is_deleted_is_seen(
    one: Any, two: Any, database_url: str
) -> None:
    await two.execute("begin")
    await execute(two, START_CHILD, ACTS["START_CHILD"].row(step(1), "x"))
    await one.execute("update dbos_async.workflows set status = 'CANCELLED', ended_at = now() where id = 'w'")
    async with DBOSClient(database_url) as client:
        deleting = asyncio.create_task(client.delete_workflow("w", children=True))
        await eventually(lambda: one.fetchval(LOOKED))
        assert not deleting.done()
        await two.execute("commit")
        with pytest.raises(WorkflowNotEndedError, match="'child-"):
            await deleting
    assert "w" in await statuses(one)


async def test_t3_what_is_resumed_while_it_is_deleted_stays_with_its_parents(
    one: Any, two: Any, three: Any, database_url: str
) -> None:
    await one.execute("update dbos_async.workflows set status = 'CANCELLED', ended_at = now()")
    await one.execute("update dbos_async.workflows set parent_id = 'w' where id = 'other'")
    await two.execute("begin")
    await two.execute(
        "update dbos_async.workflows set status = 'PENDING', ended_at = null, attempt = attempt + 1 where id = 'other'"
    )
    async with DBOSClient(database_url) as client:
        deleting = asyncio.create_task(client.delete_workflows(["w"], children=True))
        waits = f"select count(*) from pg_stat_activity where {two.get_server_pid()} = any (pg_blocking_pids(pid))"
        await eventually(lambda: three.fetchval(waits))
        await two.execute("commit")
        assert await deleting == {"w": "not ended"}
    assert await statuses(one) == {"w": "CANCELLED", "other": "PENDING"}


async def test_t3_a_deletion_of_a_family_does_not_wait_for_ever(
    one: Any, two: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delete, "DELETE_WITHIN_SECONDS", 0.2)
    await one.execute("update dbos_async.workflows set status = 'CANCELLED', ended_at = now()")
    await two.execute("begin")
    await execute(two, ACTS["RECORD"].statement, ACTS["RECORD"].row(step(1), "late"))
    async with DBOSClient(database_url) as client:
        with pytest.raises(DatabaseUnavailableError, match="stayed open.*nothing was committed"):
            await client.delete_workflows(["w", "other"])
        await two.execute("rollback")
        assert await client.delete_workflows(["w", "other"]) == {"w": "deleted", "other": "deleted"}


async def test_w6_many_at_once(connection: Any, database_url: str) -> None:
    ids = [f"m{n}" for n in range(2500)]
    await connection.execute(
        "insert into dbos_async.workflows (id, name, input, start_id, attempt, parent_id) "
        "select 'm' || n, 'nobody knows it', '{}', gen_random_uuid(), 0, case when n > 0 then 'm0' end "
        "from generate_series(0, 2499) as n"
    )
    async with DBOSClient(database_url) as client:
        assert await client.cancel_workflows(["m0"], children=True) == dict.fromkeys(ids, "cancelled")
        assert await client.cancel_workflows(reversed(ids)) == dict.fromkeys(ids, "ended")
        assert await client.resume_workflows(ids) == dict.fromkeys(ids, "resumed")
        assert await client.cancel_workflows(iter(ids)) == dict.fromkeys(ids, "cancelled")
        await client.resume_workflow("m7")
        outcomes = await client.delete_workflows(ids)
        assert outcomes.pop("m7") == "not ended"
        assert set(outcomes.values()) == {"deleted"}
        assert await statuses(connection) == {"m7": "PENDING"}
        for nothing in (client.cancel_workflows, client.delete_workflows):
            assert await nothing([], children=True) == {}
        assert await client.resume_workflows([]) == {}
        for wrong in ("m7", [""], ["a", 5], None):
            with pytest.raises(InvalidArgumentError, match="workflow_ids"):
                await client.cancel_workflows(wrong)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_w6_a_family_of_other_versions_and_delayed_ones_is_reached(dbos: DBOS) -> None:
    @DBOS.workflow(name="starts in all ways")
    async def starts_in_all_ways() -> None:
        with SetWorkflowID("of version 2"), SetApplicationVersion("2"):
            await DBOS.start_workflow(member)
        with SetWorkflowID("delayed"), SetStartDelay(3600):
            await DBOS.start_workflow(member)
        await DBOS.send("sent to", 1, start=Start(member))
        await in_a_step()
        await DBOS.recv("go", None)

    @DBOS.step(name="starts inside of a step")
    async def in_a_step() -> None:
        with SetWorkflowID("from a step"):
            await DBOS.start_workflow(member)

    started = ["of version 2", "delayed", "sent to", "from a step"]
    with SetWorkflowID("w"):
        await DBOS.start_workflow(starts_in_all_ways)
    await eventually(lambda: _waits("w"))
    assert await DBOS.cancel_workflows(["w"], children=True) == dict.fromkeys(["w", *started], "cancelled")


async def deadlines(connection: Any) -> dict[str, Any]:
    found = await connection.fetch("select id, deadline, deadline_reaches_children from dbos_async.workflows")
    return {each["id"]: (each["deadline"], each["deadline_reaches_children"]) for each in found}


@DBOS.workflow(name="hands its deadline on")
async def hands_on() -> None:
    with SetWorkflowID("plain"), SetWorkflowTimeout(None):
        await DBOS.start_workflow(member, "grandchild")
    with SetWorkflowID("earlier"), SetWorkflowTimeout(30):
        await DBOS.start_workflow(member, "below the earlier one")
    with SetWorkflowID("later"), SetWorkflowTimeout(300):
        await DBOS.start_workflow(member)
    with SetWorkflowID("delayed"), SetStartDelay(50):
        await DBOS.start_workflow(member)
    with SetWorkflowID("delayed, with its own"), SetStartDelay(20), SetWorkflowTimeout(10):
        await DBOS.start_workflow(member)
    await DBOS.send("sent to", 1, start=Start(member))
    with SetStartDelay(50), SetWorkflowTimeout(30):
        await DBOS.send("sent to later", 1, start=Start(member))
    with SetWorkflowTimeout(10):
        await DBOS.send("sent to with its own", 1, start=Start(member))
    with SetWorkflowID("there before"):
        await DBOS.start_workflow(member)
    await starts_in_step()
    await DBOS.recv("go", None)


@DBOS.step(name="starts a child in a step")
async def starts_in_step() -> None:
    with SetWorkflowID("from a step"):
        await DBOS.start_workflow(member)


async def test_w6_a_deadline_that_reaches_children_is_handed_on(dbos: DBOS, connection: Any) -> None:
    with SetWorkflowID("there before"):
        await DBOS.start_workflow(member)
    with SetWorkflowID("w"), SetWorkflowTimeout(60, children=True):
        await DBOS.start_workflow(hands_on)
    await eventually(lambda: _waits("w"))
    for each in ("plain", "earlier"):
        await eventually(functools.partial(_waits, each))
    found = await deadlines(connection)
    own, _ = found.pop("w")
    assert found.pop("there before") == (None, None), "it was started by another one"
    assert {reaches for _, reaches in found.values()} == {True}
    after = {each: round((deadline - own).total_seconds()) for each, (deadline, _) in found.items()}
    assert after == {
        "plain": 0, "grandchild": 0, "earlier": -30, "below the earlier one": -30, "later": 0, "delayed": 0,
        "delayed, with its own": -30, "sent to": 0, "sent to later": 0, "sent to with its own": -50, "from a step": 0,
    }  # fmt: skip
    assert found["plain"][0] == found["grandchild"][0] == own
    # One that begins earlier has what it was given itself, and the deadline of its parent stays where it is.
    await DBOS.resume_workflow("delayed")
    await DBOS.resume_workflow("delayed, with its own")
    resumed = await deadlines(connection)
    assert resumed["delayed"][0] == own
    assert round((resumed["delayed, with its own"][0] - own).total_seconds()) == -50
    assert (await DBOS.fork_workflow("plain", 1)).workflow_id
    forked = await connection.fetchrow(
        "select deadline, deadline_reaches_children from dbos_async.workflows where forked_from = 'plain'"
    )
    assert tuple(forked) == (None, None)


async def test_w6_at_the_deadline_the_whole_family_is_cancelled(dbos: DBOS) -> None:
    with SetWorkflowID("first"), SetWorkflowTimeout(0.7, children=True):
        await (await DBOS.start_workflow(starts_family, True)).get_result()
    await eventually(lambda: are("PENDING", "middle", "last"))
    for each in ("middle", "last"):
        with pytest.raises(WorkflowCancelledError):
            await (await DBOS.retrieve_workflow(each)).get_result(timeout_seconds=10)
    assert await are("SUCCESS", "first")


async def test_w6_a_resumed_workflow_hands_no_deadline_on(dbos: DBOS, connection: Any) -> None:
    @DBOS.workflow(name="starts a child when it is told to")
    async def starts_when_told() -> None:
        await DBOS.recv("go", None)
        with SetWorkflowID("child"):
            await DBOS.start_workflow(member)

    with SetWorkflowID("w"), SetWorkflowTimeout(0.1, children=True):
        handle = await DBOS.start_workflow(starts_when_told)
    with pytest.raises(WorkflowCancelledError):
        await handle.get_result()
    await DBOS.resume_workflow("w")
    await DBOS.send("w", 1, "go")
    await handle.get_result()
    assert (await deadlines(connection))["child"] == (None, None)


async def test_w6_a_fork_takes_a_deadline_for_its_children_from_its_block(dbos: DBOS, connection: Any) -> None:
    with SetWorkflowID("w"):
        await DBOS.start_workflow(member)
    with SetWorkflowTimeout(60, children=True):
        copy = await DBOS.fork_workflow("w", 1)
    assert (await deadlines(connection))[copy.workflow_id][1] is True


@pytest.mark.parametrize("wrong", [1, None, "yes", b""])
def test_d5_children_is_true_or_false(wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="children must be True or False"):
        SetWorkflowTimeout(60, children=wrong)


@DBOS.workflow(name="starts a child in each generation")
async def goes_on(generation: int) -> None:
    with SetWorkflowID(f"child {generation}"):
        await DBOS.start_workflow(member)
    if generation < 3:
        await DBOS.continue_as_new(generation + 1)
    await DBOS.recv("go", None)


async def test_w6_t2_the_children_of_all_generations_are_reached(dbos: DBOS, connection: Any) -> None:
    with SetWorkflowID("w"), SetWorkflowTimeout(60, children=True):
        await DBOS.start_workflow(goes_on, 1)
    children = [f"child {generation}" for generation in (1, 2, 3)]
    await eventually(lambda: are("PENDING", *children))
    await eventually(lambda: _waits("w"))
    found = await deadlines(connection)
    assert set(found.values()) == {(found["w"][0], True)}
    assert await DBOS.cancel_workflows(["w"], children=True) == dict.fromkeys(["w", *children], "cancelled")
    await DBOS.delete_workflow("w", children=True)
    assert await statuses(connection) == {}
