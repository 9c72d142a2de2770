"""What people can do on the page, pressed as a browser without scripts presses it."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import pytest

from dbos_async import DBOS, InvalidMessageError, SetWorkflowID, Topic
from dbos_async._page import bulk
from tests.support.eventually import eventually
from tests.support.page_app import Visitor
from tests.support.page_seed import HOSTILE_ID


@DBOS.workflow(name="page listens")
async def listens(fails: bool = False) -> Any:
    said = await DBOS.recv("said", timeout_seconds=None)
    if fails:
        raise ValueError(said)
    return said


@DBOS.workflow(name="page reads numbers")
async def reads_numbers() -> int:
    try:
        return await DBOS.recv(Topic("number", int), timeout_seconds=None) or 0
    except InvalidMessageError:
        return int(await DBOS.recv("number", timeout_seconds=None))


async def start(workflow_id: str, workflow: Any = listens, *arguments: Any) -> Any:
    with SetWorkflowID(workflow_id):
        handle = await DBOS.start_workflow(workflow, *arguments)

    async def waits() -> bool:
        return bool((await DBOS.describe_workflow(workflow_id)).waits)

    await eventually(waits)
    return handle


async def status_of(workflow_id: str) -> str:
    return (await (await DBOS.retrieve_workflow(workflow_id)).get_status()).status


@pytest.mark.parametrize(
    "workflow_id", ["w", HOSTILE_ID, "..", "a/b\nc?d#e", "é😀" * 256], ids=["plain", "hostile", "dots", "odd", "long"]
)
async def test_a_workflow_of_any_id_can_be_steered(visitor: Visitor, workflow_id: str) -> None:
    handle = await start(workflow_id)
    place = f"workflow?id={quote(workflow_id, safe='')}"
    asked = await visitor.submit(await visitor.see(place), "Cancel")
    assert "Cancel this workflow?" in asked.text
    assert await status_of(workflow_id) == "PENDING"
    cancelled = await visitor.submit(asked, "Cancel")
    assert "Cancelled." in cancelled.text
    assert await status_of(workflow_id) == "CANCELLED"
    resumed = await visitor.submit(cancelled, "Resume")
    assert "Resumed." in resumed.text
    sent = await visitor.submit(resumed, "Send", topic="said", payload='{"by": "hand \u202e"}')
    assert "The message was sent." in sent.text
    assert await handle.get_result() == {"by": "hand \u202e"}
    forked = await visitor.submit(await visitor.see(place), "Fork from here")
    assert "This is the copy that goes on from step 1." in forked.text
    assert str(forked.url) != place
    removed = await visitor.submit(await visitor.submit(await visitor.see(place), "Delete"), "Delete")
    assert "The workflow was deleted." in removed.text
    assert (await visitor.see(place)).status == 404


@DBOS.workflow(name="page has children")
async def has_children(*below: str) -> None:
    for each in below:
        with SetWorkflowID(each):
            await DBOS.start_workflow(listens)
    await DBOS.recv("said", timeout_seconds=None)


async def test_a_workflow_is_cancelled_and_deleted_with_what_it_has_started(visitor: Visitor) -> None:
    await start("parent", has_children, "c-1", "c-2")
    asked = await visitor.submit(await visitor.see("workflow?id=parent"), "Cancel")
    assert "Cancel also the 2 workflows that it has started" in asked.text
    cancelled = await visitor.submit(asked, "Cancel", children="yes")
    assert "3 workflows cancelled." in cancelled.text
    assert [await status_of(each) for each in ("parent", "c-1", "c-2")] == ["CANCELLED"] * 3
    await DBOS.resume_workflow("c-2")
    asked = await visitor.submit(cancelled, "Delete")
    refused = await visitor.submit(asked, "Delete", children="yes")
    assert "c-2" in refused.text
    assert "cannot be deleted" in refused.text
    await DBOS.cancel_workflow("c-2")
    removed = await visitor.submit(asked, "Delete", children="yes")
    assert "The workflow was deleted." in removed.text
    assert await DBOS.list_workflows(workflow_id=["parent", "c-1", "c-2"]) == []


async def test_only_a_workflow_that_has_children_asks_about_them(visitor: Visitor) -> None:
    await start("alone")
    asked = await visitor.submit(await visitor.see("workflow?id=alone"), "Cancel")
    assert "that it has started" not in asked.text


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ("paid", "A text needs its quotes."), ("", "no JSON"), ("[" * 100_000, "no JSON"), ("NaN", "NaN"),
        ('"\\ud800"', "surrogate"), ('"' + "x" * (9 * 2**20) + '"', "8,388,608"),
    ],
    ids=["no quotes", "empty", "deep", "nan", "surrogate", "9 MiB"],
)  # fmt: skip
async def test_a_message_that_cannot_be_sent_is_explained(visitor: Visitor, payload: str, words: str) -> None:
    await start("w")
    sent = await visitor.submit(await visitor.see("workflow?id=w"), "Send", topic="said", payload=payload)
    assert words in sent.text, sent.text[:2000]
    assert await DBOS.list_messages("w") == []


async def test_a_message_for_an_ended_workflow_is_stored_and_said_so(visitor: Visitor) -> None:
    handle = await start("w")
    await DBOS.send("w", "bye", "said")
    await handle.get_result()
    sent = await visitor.submit(await visitor.see("workflow?id=w"), "Send", payload="1")
    assert "the workflow has ended" in sent.text
    assert [message.topic for message in await DBOS.list_messages("w", status="waiting")] == [None]


async def test_a_failed_workflow_is_forked_from_the_step_that_failed(visitor: Visitor) -> None:
    handle = await start("w", listens, True)
    await DBOS.send("w", "no", "said")
    with pytest.raises(ValueError, match="no"):
        await handle.get_result()
    forked = await visitor.submit(await visitor.see("workflow?id=w"), "Fork from step 2")
    assert "This is the copy that goes on from step 2." in forked.text


async def test_a_workflow_is_resumed_for_another_version(visitor: Visitor) -> None:
    await start("w")
    await DBOS.cancel_workflow("w")
    resumed = await visitor.submit(await visitor.see("workflow?id=w"), "Resume for this version", version="9")
    assert "Resumed." in resumed.text
    assert (await (await DBOS.retrieve_workflow("w")).get_status()).application_version == "9"


async def test_a_rejected_message_is_redelivered(visitor: Visitor) -> None:
    await start("w", reads_numbers)
    await DBOS.send("w", "7 boxes", "number")

    async def rejected() -> bool:
        return bool(await DBOS.list_messages("w", status="rejected"))

    await eventually(rejected)
    messages = await visitor.see("messages")
    done = await visitor.submit(messages, "Redeliver")
    assert "A copy of the message waits in its queue." in done.text
    assert str(done.url).startswith(f"{visitor.base_url}messages?status=rejected")
    again = await visitor.submit(messages, "Redeliver")
    assert "has ended" in again.text or "A copy" in again.text


async def test_actions_on_what_is_gone_are_explained(visitor: Visitor) -> None:
    handle = await start("w")
    screen = await visitor.see("workflow?id=w")
    asked = await visitor.submit(screen, "Cancel")
    await DBOS.send("w", "bye", "said")
    await handle.get_result()
    assert "It had ended before." in (await visitor.submit(asked, "Cancel")).text
    ended = await visitor.see("workflow?id=w")
    ask_delete = await visitor.submit(ended, "Delete")
    assert "must be at most" in (await visitor.submit(ended, "Fork from here", step="17")).text
    assert "start_step" in (await visitor.submit(ended, "Fork from here", step="x")).text
    await DBOS.delete_workflow("w")
    for page, button in ((ended, "Send"), (ended, "Fork from here"), (ask_delete, "Delete"), (asked, "Cancel")):
        answer = await visitor.submit(page, button, payload="1")
        assert answer.status == 404, button


async def test_selected_workflows_are_cancelled_resumed_and_deleted(visitor: Visitor) -> None:
    for number in range(4):
        await start(f"w-{number}/?&")
    ids = [quote(f"w-{number}/?&", safe="") for number in range(3)]
    listed = await visitor.see("workflows?name=page+listens")
    for button, before, after in (
        ("Cancel", "PENDING", "CANCELLED"),
        ("Resume", "CANCELLED", "PENDING"),
        ("Cancel", "PENDING", "CANCELLED"),
    ):
        assert [await status_of(f"w-{number}/?&") for number in range(4)] == [before] * 3 + ["PENDING"]
        asked = await visitor.submit(listed, button, id=ids)
        assert f"{button} 3 workflows?" in asked.text
        done = await visitor.submit(asked, button)
        assert f"3 workflows {button.lower()}" in done.text.replace("resumed", "resume").replace("cancelled", "cancel")
        assert [await status_of(f"w-{number}/?&") for number in range(4)] == [after] * 3 + ["PENDING"]
        assert "name=page+listens" in str(done.url)
    asked = await visitor.submit(listed, "Delete", id=[*ids, quote("w-3/?&", safe="")])
    assert "Delete 3 workflows?" in asked.text
    assert "1 of those that you selected cannot be deleted" in asked.text
    await visitor.submit(asked, "Delete")
    assert [one.workflow_id for one in await DBOS.list_workflows(name="page listens")] == ["w-3/?&"]
    assert "Select workflows first" in (await visitor.submit(listed, "Delete")).text
    assert "None of these workflows can be deleted" in (await visitor.submit(listed, "Delete", id="w-3%2F%3F%26")).text


async def test_all_that_match_and_were_there_are_acted_on_in_portions(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "PORTION", 3)
    for number in range(8):
        await start(f"w-{number}")
    await start("other")
    listed = await visitor.see("workflows?prefix=w-")
    asked = await visitor.submit(listed, "Cancel", which="all")
    assert "Cancel 8 workflows?" in asked.text
    await start("w-later")
    portion = await visitor.submit(asked, "Cancel 8 workflows")
    assert "3 of 8 cancelled" in portion.text
    assert sorted([await status_of(f"w-{number}") for number in range(8)]) == ["CANCELLED"] * 3 + ["PENDING"] * 5
    portion = await visitor.submit(portion, "Go on")
    assert "6 of 8 cancelled" in portion.text
    done = await visitor.submit(portion, "Go on")
    assert "8 workflows cancelled." in done.text
    assert {await status_of(f"w-{number}") for number in range(8)} == {"CANCELLED"}
    assert [await status_of(one) for one in ("w-later", "other")] == ["PENDING", "PENDING"]
    listed = await visitor.see("workflows?prefix=w-&status=PENDING")
    assert "None of these workflows can be deleted" in (await visitor.submit(listed, "Delete", which="all")).text


async def test_a_bad_action_is_refused(visitor: Visitor) -> None:
    await start("w")
    listed = await visitor.see("workflows")
    answer = await visitor.submit(listed, "Cancel", id="w")
    (token,) = [value for name, value in answer.forms[0].fields if name == "token"]
    for fields, status in (
        ([("action", "explode")], 422), ([("action", "cancel"), ("which", "all"), ("query", "since=x")], 422),
        ([("action", "cancel"), ("which", "all"), ("confirmed", "yes"), ("cursor", "x")], 422),
    ):  # fmt: skip
        assert (await visitor.post_form("act", [("token", token), *fields])).status == status, fields
    assert (await visitor.post("act", content=b"\xff\xfe", headers={"origin": "http://127.0.0.1"})).status_code == 400
    assert await status_of("w") == "PENDING"


async def test_a_form_that_is_too_large_is_refused(visitor: Visitor) -> None:
    answer = await visitor.post("send?id=w", content=b"x" * (33 * 2**20), headers={"origin": "http://127.0.0.1"})
    assert answer.status_code == 413
    assert re.search("at most 33,554,432 bytes", answer.text)
