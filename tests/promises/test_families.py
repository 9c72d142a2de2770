"""A workflow with all that it has started is cancelled and deleted; and many workflows at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dbos_async import (
    DBOS,
    DatabaseUnavailableError,
    DBOSClient,
    InvalidArgumentError,
    SetWorkflowID,
    SetWorkflowTimeout,
    WorkflowCancelledError,
    WorkflowNotEndedError,
    WorkflowNotFoundError,
)
from dbos_async._executor import launched
from dbos_async._workflows import delete
from dbos_async._workflows.start import START_CHILD
from tests.support.eventually import eventually
from tests.support.families import (
    CANCELLED,
    ENDED,
    FAMILY,
    INSERT,
    KINDS,
    are,
    is_in,
    make_family,
    make_tree,
    member,
    starts_family,
    statuses,
    waits,
)
from tests.support.races import LOOKED
from tests.support.statements import ACTS, execute, step
from tests.support.troubles import holding


async def test_w6_a_workflow_is_cancelled_with_all_that_it_has_started(dbos: DBOS) -> None:
    with SetWorkflowID("found by its id"):
        await DBOS.start_workflow(member)
    with SetWorkflowID("first"):
        first = await DBOS.start_workflow(starts_family, False)
    await eventually(lambda: are("PENDING", "middle", "last"))
    waiting = [asyncio.create_task((await DBOS.retrieve_workflow(each)).get_result()) for each in ("middle", "last")]
    await eventually(lambda: waits("middle"))
    async with asyncio.timeout(1):
        assert await DBOS.cancel_workflow("first", children=True)
        for each in (*waiting, first.get_result()):
            with pytest.raises(WorkflowCancelledError):
                await each
    await eventually(lambda: set(launched.executor().runs) == {"found by its id"})
    assert await are("PENDING", "found by its id"), "another one has started it"
    assert not await DBOS.cancel_workflow("first", children=True)


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
            await eventually(lambda: is_in(connection, "r.1", "CANCELLED"))
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


@pytest.mark.parametrize("wrong", [1, None, "yes", b""])
def test_d5_children_is_true_or_false(wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="children must be True or False"):
        SetWorkflowTimeout(60, children=wrong)
