"""A deadline that reaches the children, and children of every kind."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from dbos_async import (
    DBOS,
    SetApplicationVersion,
    SetStartDelay,
    SetWorkflowID,
    SetWorkflowTimeout,
    Start,
    WorkflowCancelledError,
)
from tests.support.eventually import eventually
from tests.support.families import (
    are,
    member,
    starts_family,
    statuses,
    waits,
)


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
    await eventually(lambda: waits("w"))
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
    await eventually(lambda: waits("w"))
    for each in ("plain", "earlier"):
        await eventually(functools.partial(waits, each))
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
    await eventually(lambda: waits("w"))
    found = await deadlines(connection)
    assert set(found.values()) == {(found["w"][0], True)}
    assert await DBOS.cancel_workflows(["w"], children=True) == dict.fromkeys(["w", *children], "cancelled")
    await DBOS.delete_workflow("w", children=True)
    assert await statuses(connection) == {}
