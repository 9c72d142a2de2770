"""What the screens show, that all links lead somewhere, and that nothing hostile gets through."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote, urldefrag, urljoin

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Mount

from dbos_async import DBOS, DBOSClient, SetWorkflowID
from dbos_async.page import page
from tests.support.page_app import Page, Visitor, mounted
from tests.support.page_seed import HOSTILE_ID, HOSTILE_NAME, HOSTILE_VALUE
from tests.support.workflows import wait_for_ever

HOSTILE_CHARACTERS = re.compile("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]")


async def test_first_of_all_stands_what_needs_a_person(seeded: Visitor) -> None:
    now = await seeded.see("")
    assert "What needs you" in now.text
    for words in ("1 rejected message", "1 parked workflow", "1 unclaimable workflow", "4 failed workflows", "shop-2"):
        assert words in now.text
    counts = await seeded.see("counts")
    assert re.search(r"checkout 2 4 – 1", counts.text), counts.text  # noqa: RUF001
    assert "Nothing needs you" not in now.text


async def test_an_idle_application_needs_nobody(visitor: Visitor) -> None:
    now = await visitor.see("")
    assert "Nothing needs you" in now.text
    assert "There are no workflows yet." in (await visitor.see("counts")).text


async def test_a_message_that_waits_for_long_and_an_executor_that_is_gone_need_a_person(
    seeded: Visitor, connection: Any
) -> None:
    await connection.execute("update dbos_async.messages set sent_at = sent_at - interval '3 hours'")
    await connection.execute(
        "insert into dbos_async.executors (id, executor_id, workflow_names, lease_until) "
        "values ('shop-0:x', 'shop-0', '{}', clock_timestamp() - interval '1 second')"
    )
    now = await seeded.see("")
    assert "A message about 'note' has waited for 3 h" in now.text
    assert "1 expired executor" in now.text


async def test_a_workflow_says_that_its_executor_has_gone(visitor: Visitor, connection: Any) -> None:
    with SetWorkflowID("w"):
        await DBOS.start_workflow(wait_for_ever)
    sentence = "Its executor has gone, and no live one has taken it over yet."
    found = await visitor.see("workflow?id=w")
    assert sentence not in found.text
    await connection.execute("update dbos_async.executors set lease_until = clock_timestamp() - interval '1 hour'")
    found = await visitor.see("workflow?id=w")
    assert sentence in found.text
    await DBOS.cancel_workflow("w")
    assert sentence not in (await visitor.see("workflow?id=w")).text


async def test_every_link_of_every_screen_leads_to_a_screen(seeded: Visitor) -> None:
    """Also those with hostile names; and whatever is asked, no answer holds what a browser could take for markup."""
    start = str(seeded.base_url)
    waiting, seen = [start], {start}
    hostile = 0
    while waiting:
        place = waiting.pop()
        answer = await seeded.get(place)
        assert answer.status_code == 200, (place, answer.text)
        if answer.headers["content-type"].startswith("text/plain"):
            assert answer.headers["content-disposition"].startswith("attachment")
            continue
        found = Page(answer)
        check_harmless(found)
        hostile += "<script>alert('name')" in found.text
        for link in found.links:
            target = urldefrag(urljoin(place, link)).url
            assert target.startswith(start), (place, link)
            if target not in seen and "/live?" not in target:  # those are events, which have tests of their own
                seen.add(target)
                waiting.append(target)
    assert len(seen) > 60
    assert hostile > 5


def check_harmless(found: Page) -> None:
    assert not HOSTILE_CHARACTERS.search(found.source), HOSTILE_CHARACTERS.findall(found.source)
    for tag, given in found.tags:
        assert tag not in ("img", "iframe", "object", "b", "style"), tag
        assert tag != "script" or str(given["src"]).startswith("static/")
        assert not [name for name in given if name.startswith("on")]
    assert len(found.source) < 400_000


async def test_long_values_are_cut_and_the_whole_is_a_plain_text(seeded: Visitor) -> None:
    query = f"id={quote(HOSTILE_ID, safe='')}"
    screen = await seeded.see(f"workflow?{query}")
    assert "A large value, as a file" in screen.text
    whole = await seeded.get(f"value?what=event&key=large&{query}")
    assert len(whole.text) > 8_000_000
    assert whole.headers["content-type"] == "text/plain; charset=utf-8"
    found = await seeded.get(f"value?what=event&key={quote(HOSTILE_NAME, safe='')}&{query}")
    assert json.loads(found.text) == HOSTILE_VALUE
    given = await seeded.get(f"value?what=input&{query}")
    assert json.loads(given.text)["args"] == [HOSTILE_VALUE]
    error = await seeded.get(f"value?what=error&{query}")
    assert json.loads(error.text)["type"] == "builtins:ValueError"
    assert (await seeded.see(f"value?what=step&step=1&{query}")).text == "null"
    for place in ("what=step&step=99", "what=event&key=none"):
        assert (await seeded.see(f"value?{place}&{query}")).status == 404
    for place in ("what=all", "what=step&step=x", "what=step", "what=event", ""):
        assert (await seeded.see(f"value?{place}&{query}")).status == 422


async def test_values_of_8_mib_leave_the_screens_small(visitor: Visitor) -> None:
    large = "8" * (8 * 2**20 - 64)

    @DBOS.step(name="page large step")
    async def large_step() -> str:
        return large

    @DBOS.workflow(name="page large")
    async def large_workflow(given: str) -> str:
        await DBOS.write_stream("k", large)
        await DBOS.set_event("e", large)
        return await large_step()

    handle = await DBOS.start_workflow(large_workflow, large)
    await handle.get_result()
    await DBOS.send(handle.workflow_id, large, "news")
    place = f"id={handle.workflow_id}"
    for screen in (
        f"workflow?{place}",
        f"messages?workflow={handle.workflow_id}",
        "workflows",
        f"stream?{place}&key=k",
    ):
        assert len((await visitor.see(screen)).source) < 60_000, screen
    messages = await visitor.see(f"messages?workflow={handle.workflow_id}")
    (payload,) = [str(given["hx-get"]) for tag, given in messages.tags if tag == "details"]
    assert len((await visitor.see(payload)).source) < 10_000
    wholes = [f"value?what={what}&{place}" for what in ("input", "output", "event&key=e", "step&step=3")]
    for whole in (*wholes, payload.replace("payload", "value", 1) + "&what=message"):
        assert large in (await visitor.get(whole)).text, whole


async def test_a_workflow_is_shown_as_a_conversation(seeded: Visitor) -> None:
    order = await seeded.see("workflow?id=order-0001")
    for words in (
        "SUCCESS", "runs reserve", "sets event payment_id", "receives payment_status", "from customer-0001",
        '"status": "paid"', "closes stream progress", "9 steps",
    ):  # fmt: skip
        assert words in order.text, words
    assert (await seeded.see("workflow?id=customer-0001")).text.count("to order-0001") == 1
    waits = await seeded.see("workflow?id=order-0005")
    assert "waits now for a message about 'payment_status'" in waits.text
    assert [given for tag, given in waits.tags if tag == "time" and given.get("class") == "countdown"]
    failed = await seeded.see("workflow?id=subscription-1")
    for words in (
        "RuntimeError : the card could not be charged",
        "in charge_card",
        "ConnectionError",
        "502 Bad Gateway",
    ):
        assert words in failed.text, words
    parked = await seeded.see("workflow?id=invoice-31")
    assert "Why it is parked" in parked.text
    assert "set_event 'sum'" in parked.text
    stock = await seeded.see("workflow?id=stock-7")
    assert "1 waiting, 1 rejected" in stock.text
    assert "No live executor can run it" in (await seeded.see("workflow?id=from-version-1")).text


async def test_older_steps_come_in_pages(visitor: Visitor) -> None:
    @DBOS.workflow(name="page long")
    async def long() -> None:
        for number in range(230):
            await DBOS.set_event("n", number)

    handle = await DBOS.start_workflow(long)
    await handle.get_result()
    place: str | None = f"workflow?id={handle.workflow_id}"
    shown: list[str] = []
    while place is not None:
        screen = await visitor.see(place)
        steps = [str(given["id"]) for tag, given in screen.tags if tag == "details" and "step-" in str(given.get("id"))]
        shown = steps + shown
        place = next((link for link in screen.links if "before=" in link), None)
    assert shown == [f"step-{number}" for number in range(1, 231)]


async def test_a_list_keeps_its_filters_in_the_url_and_comes_in_pages(visitor: Visitor) -> None:
    @DBOS.workflow(name="page one")
    async def one() -> None: ...

    handles = [await DBOS.start_workflow(one) for _ in range(120)]
    for handle in handles:
        await handle.get_result()
    place: str | None = "workflows?name=page+one&status=SUCCESS&status=ERROR&since=1h&oldest=1"
    found: list[str] = []
    while place is not None:
        screen = await visitor.see(place)
        found += re.findall(r"workflow\?id=([0-9a-f-]+)", screen.source)
        place = next((link for link in screen.links if "cursor=" in link), None)
        assert place is None or "status=SUCCESS&status=ERROR&name=page+one&since=1h&oldest=1" in place
    assert found == [handle.workflow_id for handle in handles]
    assert (await visitor.see("count?name=page+one")).text.strip() == "120 workflows match"
    assert "No workflow fits." in (await visitor.see("workflows?name=page+two")).text


@pytest.mark.parametrize(
    ("place", "status", "words"),
    [
        ("workflows?status=DONE", 422, "status must be"), ("workflows?since=soon", 422, "since must be how long ago"),
        ("workflows?cursor=x", 422, "cursor"), ("workflows?name=" + "x" * 600, 422, "name"),
        ("workflows?prefix=%00", 422, "id_prefix"), ("workflow?id=none", 404, "none"), ("workflow", 422, "which id"),
        ("workflow?id=none&before=x", 422, "before is what"), ("messages?status=lost", 422, "status"),
        ("messages?status=received", 422, "of one workflow"), ("messages?workflow=none", 404, "none"),
        ("messages?cursor=x", 422, "cursor"), ("stream?id=none&key=k", 404, "none"), ("live?id=none&key=k", 404, "none"),
        ("stream?id=none", 422, "which key"), ("nowhere", 404, "no such screen"), ("count?since=x", 422, "since"),
        ("payload?message=x&status=waiting", 404, "not there any more"),
    ],
)  # fmt: skip
async def test_a_bad_address_is_answered_with_a_sentence(visitor: Visitor, place: str, status: int, words: str) -> None:
    screen = await visitor.see(place)
    assert (screen.status, words in screen.text) == (status, True), screen.text


@pytest.mark.parametrize("age", ["1.5h", "5min", "999999w"])
async def test_a_list_takes_every_age_that_the_command_line_takes(visitor: Visitor, age: str) -> None:
    await (await DBOS.start_workflow(soon)).get_result()
    screen = await visitor.see(f"workflows?since={age}")
    assert (screen.status, "page soon" in screen.text) == (200, True), screen.text


async def test_payloads_are_fetched_from_their_place_in_the_list(visitor: Visitor) -> None:
    @DBOS.workflow(name="page silent")
    async def silent() -> None:
        await DBOS.sleep(3600)

    handle = await DBOS.start_workflow(silent)
    for number in range(60):
        await DBOS.send(handle.workflow_id, {"number": number, "text": "x" * (9000 if number == 7 else 1)}, "news")
    first = await visitor.see("messages?status=waiting")
    second = await visitor.see(next(link for link in first.links if re.match("messages.*cursor=", link)))
    numbers = []
    await DBOS.send(handle.workflow_id, "one more, so that places move", "news")
    for screen in (first, second):
        for tag, given in screen.tags:
            if tag == "details":
                part = await visitor.see(str(given["hx-get"]))
                assert part.status == 200
                numbers.append(int(re.findall(r'"number": (\d+)', part.text)[0]))
                whole = json.loads(
                    (await visitor.get(str(given["hx-get"]).replace("payload", "value", 1) + "&what=message")).text
                )
                assert whole["number"] == numbers[-1]
    assert numbers == [*reversed(range(60))]


async def test_a_part_that_has_not_changed_is_not_sent_again(visitor: Visitor) -> None:
    part = await visitor.get("workflows", headers={"hx-request": "true"})
    assert part.text.lstrip().startswith('<div id="live"')
    seen = re.findall('"seen":"([0-9a-f]+)"', part.text)[0]
    same = await visitor.get(f"workflows?seen={seen}", headers={"hx-request": "true"})
    assert (same.status_code, same.text) == (204, "")
    await (await DBOS.start_workflow(soon)).get_result()
    assert (await visitor.get(f"workflows?seen={seen}", headers={"hx-request": "true"})).status_code == 200


async def test_nobody_puts_words_into_the_mouth_of_the_page(visitor: Visitor) -> None:
    words = "Call+this+number"
    assert words.replace("+", " ") not in (await visitor.see(f"workflows?notice={words}&notice_by={'0' * 32}")).text
    assert words.replace("+", " ") not in (await visitor.see(f"workflows?failed={words}")).text


def fastapi() -> FastAPI:
    app = FastAPI()
    app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))
    app.mount("/dbos", page())
    return app


def stripped(app: Any) -> Any:
    """As behind a proxy that takes a prefix off and tells the server so."""

    async def told(scope: Any, receive: Any, send: Any) -> None:
        await app(scope | {"root_path": "/outer", "path": f"/outer{scope['path']}"}, receive, send)

    return told


@pytest.mark.parametrize(
    ("prefix", "make"),
    [
        ("", page), ("/dbos", mounted), ("/a/b c", lambda: mounted("/a/b c")),
        ("/x/dbos", lambda: Starlette(routes=[Mount("/x", mounted())])), ("/dbos", lambda: stripped(mounted())),
        ("/dbos", fastapi),
    ],
    ids=["root", "mounted", "a space", "twice", "stripped", "fastapi"],
)  # fmt: skip
async def test_it_works_under_any_prefix(dbos: DBOS, prefix: str, make: Any) -> None:
    handle = await DBOS.start_workflow(long_wait)
    async with Visitor(make(), prefix) as visitor:
        screen = await visitor.see("workflows")
        (link,) = [link for link in screen.links if handle.workflow_id in link]
        screen = await visitor.see(link)
        asked = await visitor.submit(screen, "Cancel")
        done = await visitor.submit(asked, "Cancel")
        assert (done.status, "Cancelled." in done.text) == (200, True), done.text
        assert str(done.url).startswith(f"http://127.0.0.1{prefix.replace(' ', '%20')}/workflow?")
        assert (await visitor.get("static/page.css")).status_code == 200


async def test_it_reads_by_a_client(database_url: str) -> None:
    async with DBOS(database_url):
        await (await DBOS.start_workflow(soon)).get_result()
    async with DBOSClient(database_url) as client, Visitor(mounted(client=client)) as visitor:
        assert "page soon" in (await visitor.see("workflows")).text
        assert "No executor lives." in (await visitor.see("")).text


async def test_a_page_without_a_launched_dbos_says_so(dbos: DBOS) -> None:
    await DBOS.shutdown()
    async with Visitor(mounted()) as visitor:
        screen = await visitor.see("")
        assert (screen.status, "DBOS is not launched" in screen.text) == (503, True)


@DBOS.workflow(name="page soon")
async def soon() -> None: ...


@DBOS.workflow(name="page long wait")
async def long_wait() -> None:
    await DBOS.sleep(3600)
