"""Cancelling with time to clean up, and acting on families, as a browser without scripts does it."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from dbos_async import DBOS, SetWorkflowID, WorkflowCancelledError
from dbos_async._page import bulk
from dbos_async._workflows import families
from tests.support.eventually import eventually
from tests.support.page_app import Page, Visitor


@DBOS.workflow(name="page cleans up")
async def cleans_up(*below: str) -> None:
    for each in below:
        with SetWorkflowID(each):
            await DBOS.start_workflow(cleans_up)
    try:
        await DBOS.recv("paid", timeout_seconds=None)
    except asyncio.CancelledError:
        await DBOS.recv("done", timeout_seconds=None)
        raise


async def start(workflow_id: str, *below: str) -> Any:
    with SetWorkflowID(workflow_id):
        handle = await DBOS.start_workflow(cleans_up, *below)
    for each in (workflow_id, *below):
        await waits_for(each, "paid")
    return handle


async def waits_for(workflow_id: str, topic: str) -> None:
    async def waits() -> bool:
        if not await DBOS.list_workflows(workflow_id=workflow_id):
            return False
        return [wait.key for wait in (await DBOS.describe_workflow(workflow_id)).waits] == [topic]

    await eventually(waits, f"{workflow_id} waits for {topic}")


async def status_of(workflow_id: str) -> Any:
    return await (await DBOS.retrieve_workflow(workflow_id)).get_status()


async def statuses(*workflow_ids: str) -> list[str]:
    return [(await status_of(each)).status for each in workflow_ids]


async def ask_to_cancel(visitor: Visitor, workflow_id: str) -> Page:
    return await visitor.submit(await visitor.see(f"workflow?id={workflow_id}"), "Cancel")


def countdowns(screen: Page) -> list[str]:
    return [str(given["datetime"]) for tag, given in screen.tags if tag == "time" and given.get("class") == "countdown"]


async def test_a_workflow_that_cleans_up_says_so_and_until_when(visitor: Visitor) -> None:
    handle = await start("w")
    assert "cleans up" not in (await visitor.see("workflows")).text.replace("page cleans up", "")
    cancelled = await visitor.submit(await ask_to_cancel(visitor, "w"), "Cancel", cleanup=" 5m ")
    assert "Cancelled, with time to clean up." in cancelled.text
    await waits_for("w", "done")
    status = await status_of("w")
    assert (status.deadline - status.cancel_asked_at).total_seconds() == pytest.approx(300)
    until = status.deadline.isoformat()
    one = await visitor.see("workflow?id=w")
    assert re.search(r"was cancelled \S+ \S+ UTC , with time to clean up cleans up until", one.text), one.text
    assert until in countdowns(one)
    listed = await visitor.see("workflows")
    assert re.search(r"PENDING cleans up until \S+ \S+ UTC", listed.text), listed.text
    assert countdowns(listed) == [until]
    await DBOS.send("w", None, "done")
    with pytest.raises(WorkflowCancelledError):
        await handle.get_result()
    assert countdowns(await visitor.see("workflows")) == []


async def test_a_workflow_that_has_cleaned_up_is_forked_from_the_step_that_was_cancelled(visitor: Visitor) -> None:
    handle = await start("w", "child")
    await visitor.submit(await ask_to_cancel(visitor, "w"), "Cancel", cleanup="5m")
    await DBOS.send("w", None, "done")
    with pytest.raises(WorkflowCancelledError):
        await handle.get_result()
    over = await visitor.see("workflow?id=w")
    assert "If it has cleaned up, a resume only does that again: fork it" in over.text
    forked = await visitor.submit(over, "Fork from step 2")
    await waits_for(str(forked.url.params["id"]), "paid")


async def test_a_second_cancellation_without_time_ends_a_clean_up_at_once(visitor: Visitor) -> None:
    await start("w")
    await visitor.submit(await ask_to_cancel(visitor, "w"), "Cancel", cleanup="5m")
    await waits_for("w", "done")
    cancelled = await visitor.submit(await ask_to_cancel(visitor, "w"), "Cancel")
    assert "Cancelled." in cancelled.text
    assert await statuses("w") == ["CANCELLED"]


@pytest.mark.parametrize("cleanup", ["", " ", "0s"])
async def test_without_time_a_workflow_ends_at_once(visitor: Visitor, cleanup: str) -> None:
    await start("w")
    cancelled = await visitor.submit(await ask_to_cancel(visitor, "w"), "Cancel", cleanup=cleanup)
    assert "Cancelled." in cancelled.text
    assert await statuses("w") == ["CANCELLED"]


@pytest.mark.parametrize(
    ("cleanup", "sentence"),
    [
        ("soon", "The time to clean up must be a time such as 30s, 15m, 1h or 2d and is 'soon'."),
        ("30", "The time to clean up must be a time such as 30s, 15m, 1h or 2d and is '30'."),
        ("-5s", "The time to clean up must be a time such as 30s, 15m, 1h or 2d and is '-5s'."),
        ("99999w", "The time to clean up must be a number of seconds of at least 0 and at most 3153600000"),
    ],
)
async def test_a_bad_time_to_clean_up_is_explained_and_nothing_is_done(
    visitor: Visitor, cleanup: str, sentence: str
) -> None:
    await start("w", "child")
    asked = await visitor.submit(await ask_to_cancel(visitor, "w"), "Cancel", cleanup=cleanup, children="yes")
    assert (asked.status, sentence in asked.text) == (422, True), asked.text
    for each in ("w", "child"):
        assert (await status_of(each)).status == "PENDING"
        assert (await status_of(each)).cancel_asked_at is None
    # What was typed and chosen is still there, and the form can be sent again.
    assert {("cleanup", cleanup), ("children", "yes")} <= {*asked.forms[0].fields}
    again = await visitor.submit(asked, "Cancel", cleanup="5m")
    assert "2 workflows cancelled, with time to clean up." in again.text
    for each in ("w", "child"):
        await waits_for(each, "done")


async def test_selected_workflows_are_cancelled_and_deleted_with_what_they_have_started(visitor: Visitor) -> None:
    await start("a", "a-1", "a-2")
    await start("b", "b-1")
    await start("c")
    listed = await visitor.see("workflows")
    for id_, choice in (
        ("a", "Cancel also the 2 workflows that it has started, or that these have started"),
        (["a", "a-1"], "Cancel also the 1 workflow that they have started, or that these have started"),
        (["a", "b", "c"], "Cancel also the 3 workflows that they have started, or that these have started"),
    ):
        assert choice in (await visitor.submit(listed, "Cancel", id=id_)).text
    assert "Cancel also" not in (await visitor.submit(listed, "Cancel", id="c")).text
    asked = await visitor.submit(listed, "Cancel", id=["a", "c"])
    assert "2 workflows cancelled." in (await visitor.submit(asked, "Cancel")).text
    assert await statuses("a", "a-1", "a-2", "c") == ["CANCELLED", "PENDING", "PENDING", "CANCELLED"]
    await DBOS.resume_workflow("a")
    asked = await visitor.submit(listed, "Cancel", id=["a", "b"])
    assert "5 workflows cancelled." in (await visitor.submit(asked, "Cancel", children="yes")).text
    assert {*await statuses("a", "a-1", "a-2", "b", "b-1", "c")} == {"CANCELLED"}

    await DBOS.resume_workflow("b-1")
    asked = await visitor.submit(listed, "Delete", id=["a", "b"])
    assert "Delete also the 3 workflows" in asked.text
    done = await visitor.submit(asked, "Delete", children="yes")
    assert "3 workflows deleted." in done.text
    assert "1 workflow stays: it has started one that has not ended. Cancel that first." in done.text
    assert [one.workflow_id for one in await DBOS.list_workflows()] == ["b", "b-1", "c"]


async def test_a_resume_reaches_nothing_that_was_started(visitor: Visitor) -> None:
    await start("a", "a-1")
    await DBOS.cancel_workflow("a", children=True)
    asked = await visitor.submit(await visitor.see("workflows"), "Resume", id="a")
    assert "that it has started" not in asked.text
    assert "1 workflow resumed." in (await visitor.submit(asked, "Resume", children="yes")).text
    assert await statuses("a", "a-1") == ["PENDING", "CANCELLED"]


@pytest.mark.parametrize("limit", ["few at a time", "no time"])
async def test_all_that_match_are_acted_on_with_what_they_have_started_in_portions(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    if limit == "no time":
        monkeypatch.setattr(bulk, "FAMILIES_WITHIN_SECONDS", -1)
        monkeypatch.setattr(bulk, "FAMILIES_AT_A_TIME", 2)
    else:
        monkeypatch.setattr(bulk, "PORTION", 2)
    for number in range(5):
        await start(f"top-{number}", f"below-{number}")
    asked = await visitor.submit(await visitor.see("workflows?prefix=top-"), "Cancel", which="all")
    assert "Cancel also all that they have started, and what that has started" in asked.text
    portion = await visitor.submit(asked, "Cancel 5 workflows", children="yes")
    assert "2 of 5 families done 4 workflows cancelled" in portion.text
    portion = await visitor.submit(portion, "Go on")
    assert "4 of 5 families done 8 workflows cancelled" in portion.text
    assert sorted(await statuses(*[f"below-{number}" for number in range(5)])) == ["CANCELLED"] * 4 + ["PENDING"]
    done = await visitor.submit(portion, "Go on")
    assert "10 workflows cancelled." in done.text

    for number in (0, 1):
        await DBOS.resume_workflow(f"below-{number}")
    asked = await visitor.submit(await visitor.see("workflows?prefix=top-"), "Delete", which="all")
    portion = await visitor.submit(asked, "Delete 5 workflows", children="yes")
    assert "2 of 5 families done 0 workflows deleted, 2 cannot be deleted yet" in portion.text, portion.text
    done = await visitor.submit(await visitor.submit(portion, "Go on"), "Go on")
    assert "6 workflows deleted." in done.text
    assert "2 workflows stay: they have started some that have not ended. Cancel these first." in done.text
    assert {one.workflow_id for one in await DBOS.list_workflows()} == {"top-0", "below-0", "top-1", "below-1"}


async def test_families_that_cannot_be_cancelled_now_are_explained(
    visitor: Visitor, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(families, "STARTS_WITHIN_SECONDS", 0.2)
    await start("a", "a-1")
    asked = await visitor.submit(await visitor.see("workflows"), "Cancel", id="a")
    async with connection.transaction():
        # As a transaction that may start another workflow of the family at this moment.
        await connection.execute("lock table dbos_async.steps, dbos_async.workflows in row exclusive mode")
        answer = await visitor.submit(asked, "Cancel", children="yes")
    assert "Not all of them could be cancelled (a transaction that may start another one of the family" in answer.text
    assert "look again before you repeat it." in answer.text
    assert await statuses("a", "a-1") == ["CANCELLED", "CANCELLED"]
