"""The page in a real browser: every button, refreshes, streams, outages, hostile names, and people with other means."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import quote

import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect

from dbos_async import DBOS, DBOSClient
from dbos_async._page import bulk
from tests.support import axe
from tests.support.eventually import eventually
from tests.support.page_app import mounted, served_page
from tests.support.page_seed import HOSTILE_ID, HOSTILE_NAME
from tests.support.proxy import Proxy
from tests.support.sites import CHROMIUM, chromium
from tests.support.web import serving

pytestmark = [
    pytest.mark.browser,
    pytest.mark.newest_only,  # what a page shows does not depend on the server's version
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
]

expect.set_options(timeout=20_000)

HOSTILE = quote(HOSTILE_ID, safe="")
SCREENS = (
    "", "workflows", "workflows?status=ERROR", "workflow?id=order-0001", "workflow?id=order-0005",
    "workflow?id=subscription-1", "workflow?id=invoice-31", "workflow?id=stock-7", f"workflow?id={HOSTILE}",
    "messages?status=rejected", "messages?status=waiting", "stream?id=agent-ada&key=tokens", "nowhere",
    f"stream?id={HOSTILE}&key={quote(HOSTILE_NAME, safe='')}",
)  # fmt: skip


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@asynccontextmanager
async def visiting(browser: Browser, address: str, **options: Any) -> AsyncIterator[Page]:
    """A tab on which nothing may be blocked, thrown or popped up."""
    wrong: list[str] = []
    context: BrowserContext = await browser.new_context(base_url=address, **options)
    context.on("weberror", lambda error: wrong.append(str(error.error)))
    context.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
    context.on("console", lambda message: wrong.append(message.text) if "Security" in message.text else None)
    page = await context.new_page()
    yield page
    await context.close()
    assert wrong == []


@pytest.fixture
async def tab(browser: Browser, database_url: str) -> AsyncIterator[Page]:
    """The page of an application with every kind of trouble, in a browser."""
    async with served_page(database_url) as address, visiting(browser, address) as page:
        yield page


async def open_all(tab: Page) -> None:
    await tab.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")


def button(page: Any, name: str) -> Any:
    return page.get_by_role("button", name=name)


async def test_from_what_needs_a_person_to_what_helps(tab: Page) -> None:
    await tab.goto("")
    await expect(tab.get_by_role("heading", level=1)).to_have_text("What needs you")
    await expect(tab.locator("#counts")).to_contain_text("subscription")
    await tab.get_by_role("link", name="See the messages").click()
    await tab.get_by_text("payload", exact=True).click()
    await expect(tab.locator("pre")).to_have_text('"seven boxes"')
    await button(tab, "Redeliver").click()
    await expect(tab.get_by_role("status").first).to_have_text("A copy of the message waits in its queue.")
    # Its receiver still cannot read it, and so there are two now, without a reload.
    await expect(tab.locator(".mail > li")).to_have_count(2)
    await tab.get_by_role("link", name="Now", exact=True).click()
    await tab.get_by_role("link", name=re.compile("See the workflows.*1 parked workflow")).click()
    await tab.get_by_role("link", name="invoice-31").click()
    await expect(tab.get_by_role("heading", name="Why it is parked")).to_be_visible()


async def test_a_workflow_is_watched_and_steered(tab: Page) -> None:
    await tab.goto("workflow?id=order-0005")
    await expect(tab.locator(".wait .what")).to_have_text("a message about 'payment_status'")
    await expect(tab.locator(".wait .countdown")).to_have_text(re.compile(r"^59 min \d+ s left$"))
    first = await tab.locator(".wait .countdown").text_content()
    await expect(tab.locator(".wait .countdown")).not_to_have_text(str(first))

    await button(tab, "Cancel …").click()
    await tab.get_by_role("link", name="Leave it as it is").click()
    await button(tab, "Cancel …").click()
    await button(tab, "Cancel").click()
    await expect(tab.get_by_text("CANCELLED", exact=True)).to_be_visible()
    await button(tab, "Resume").first.click()
    await expect(tab.locator(".wait .what")).to_be_visible()

    await tab.get_by_label("topic").fill("payment_status")
    await tab.get_by_label("message", exact=False).last.fill("paid")
    await button(tab, "Send").click()
    await expect(tab.get_by_role("alert")).to_contain_text("A text needs its quotes.")
    await tab.get_by_label("message", exact=False).last.fill('{"status": "paid", "cents": 1990}')
    await button(tab, "Send").click()
    await expect(tab.get_by_text("The message was sent.")).to_be_visible()
    await expect(tab.get_by_text("SUCCESS", exact=True)).to_be_visible()

    await tab.locator("#step-7 summary").click()
    await button(tab.locator("#step-7"), "Fork from here").click()
    await expect(tab.get_by_text("This is the copy that goes on from step 7.")).to_be_visible()
    await expect(tab.get_by_text("SUCCESS", exact=True)).to_be_visible()
    await button(tab, "Delete …").click()
    await button(tab, "Delete").click()
    await expect(tab.get_by_text("The workflow was deleted.")).to_be_visible()


async def test_a_workflow_is_watched_while_it_cleans_up(tab: Page, tmp_path_factory: pytest.TempPathFactory) -> None:
    @DBOS.workflow(name="page tidies")
    async def tidies() -> None:
        try:
            await DBOS.recv("paid", timeout_seconds=None)
        except asyncio.CancelledError:
            await DBOS.recv("done", timeout_seconds=None)
            raise

    script = axe.source(tmp_path_factory.getbasetemp())
    handle = await DBOS.start_workflow(tidies)
    await tab.goto(f"workflow?id={handle.workflow_id}")
    await expect(tab.locator(".wait .what")).to_have_text("a message about 'paid'")
    await button(tab, "Cancel …").click()
    await tab.get_by_label("time to clean up").fill("soon")
    await button(tab, "Cancel").click()
    await expect(tab.get_by_role("alert")).to_contain_text("The time to clean up must be a time such as 30s")
    assert await axe.violations(tab, script) == []
    await tab.get_by_label("time to clean up").fill("59m")
    await button(tab, "Cancel").click()
    await expect(tab.locator(".wait .what")).to_have_text(["cleans up", "a message about 'done'"])
    await expect(tab.locator(".wait .countdown")).to_have_text(re.compile(r"^58 min \d+ s left$"))
    assert await axe.violations(tab, script) == []
    await tab.goto("workflows?name=page+tidies")
    await expect(tab.locator("tbody .countdown")).to_have_text(re.compile(r"^58 min \d+ s left$"))
    assert await axe.violations(tab, script) == []
    await tab.get_by_label("all that match").check()
    await button(tab, "Cancel …").click()
    await expect(tab.get_by_label("Cancel also all that it has started")).not_to_be_checked()
    assert await axe.violations(tab, script) == []


async def test_a_failed_and_a_cancelled_workflow_are_forked_and_moved(tab: Page) -> None:
    await tab.goto("workflow?id=subscription-1")
    await expect(tab.locator(".traceback").first).to_contain_text("the card could not be charged")
    await button(tab, "Fork from step 2").click()
    await expect(tab.get_by_text("This is the copy that goes on from step 2.")).to_be_visible()
    await tab.goto("workflow?id=order-9000")
    await tab.get_by_role("textbox", name="version").fill("99")
    await button(tab, "Resume for this version").click()
    await expect(tab.get_by_text("No live executor can run it")).to_be_visible()


async def test_the_other_side_of_a_conversation_is_one_click_away(tab: Page) -> None:
    await tab.goto("workflow?id=order-0001")
    await tab.get_by_role("link", name="customer-0001").click()
    await tab.get_by_role("link", name="order-0001").first.click()
    await tab.get_by_role("link", name="progress").click()
    await expect(tab.locator("#values li")).to_have_count(3)
    await expect(tab.locator("#state")).to_have_text("ended · 3 values")


async def test_workflows_are_filtered_selected_and_acted_on(tab: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "PORTION", 2)
    await tab.goto("workflows")
    await tab.get_by_label("error", exact=True).check()
    await tab.get_by_label("name", exact=True).fill("subscription")
    await button(tab, "Show").click()
    assert "status=ERROR&name=subscription" in tab.url
    await expect(tab.locator("tbody tr")).to_have_count(3)
    await expect(tab.get_by_text("3 workflows match")).to_be_visible()
    await tab.get_by_label("select subscription-1").check()
    await expect(tab.locator("#selected")).to_have_text("(1)")
    await DBOS.delete_workflow("subscription-0")
    await expect(tab.locator("tbody tr")).to_have_count(2)  # a refresh, which keeps what is selected
    await expect(tab.get_by_label("select subscription-1")).to_be_checked()
    await button(tab, "Delete …").click()
    await button(tab, "Delete 1 workflow").click()
    await expect(tab.get_by_text("1 workflow deleted.")).to_be_visible()
    await expect(tab.locator("tbody tr")).to_have_count(1)

    await tab.get_by_role("link", name="Clear").click()
    await tab.get_by_label("id begins with").fill("order-")
    await button(tab, "Show").click()
    await tab.get_by_label("all that match").check()
    await button(tab, "Delete …").click()
    await expect(tab.get_by_role("heading", level=1)).to_have_text("Delete 5 workflows?")
    await button(tab, "Delete 5 workflows").click()
    await expect(tab.get_by_text("5 workflows deleted.")).to_be_visible()  # in three portions, by itself
    assert [one.workflow_id for one in await DBOS.list_workflows(name="checkout")] == ["order-0005", "order-0006"]


async def test_pages_are_turned_and_portions_stopped(tab: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    @DBOS.workflow(name="page many")
    async def many() -> None:
        await DBOS.recv(timeout_seconds=None)

    handles = [await DBOS.start_workflow(many) for _ in range(60)]
    for handle in handles:
        await DBOS.cancel_workflow(handle.workflow_id)
    await tab.goto("workflows?name=page+many")
    await tab.get_by_role("link", name="Next page").click()
    await expect(tab.locator("tbody tr")).to_have_count(10)
    await tab.get_by_role("link", name="First page").click()
    await expect(tab.locator("tbody tr")).to_have_count(50)

    monkeypatch.setattr(bulk, "PORTION", 7)
    await tab.route("**/page.js", lambda route: route.abort())  # without it nothing goes on by itself
    await tab.reload()
    await tab.get_by_label("all that match").check()
    await button(tab, "Resume …").click()
    await button(tab, "Resume 60 workflows").click()
    await expect(tab.get_by_role("heading", level=1)).to_have_text("7 of 60 resumed")
    await button(tab, "Go on").click()
    await expect(tab.get_by_role("heading", level=1)).to_have_text("14 of 60 resumed")
    await tab.get_by_role("link", name="Stop here").click()
    assert len(await DBOS.list_workflows(name="page many", status="PENDING")) == 14


async def test_a_refresh_keeps_what_is_open_and_what_is_typed(tab: Page) -> None:
    await tab.goto("workflow?id=agent-ada")
    await tab.locator("#step-1 summary").click()
    await tab.get_by_label("topic").fill("sai")
    await DBOS.send("agent-ada", "hello", "said")
    await expect(tab.locator("#step-2 .about")).to_have_text("said")
    await expect(tab.locator("#step-3 .about")).to_have_text("tokens")
    await expect(tab.locator("#step-1 .under")).to_be_visible()
    await expect(tab.get_by_label("topic")).to_have_value("sai")


async def test_a_stream_is_followed_live_and_what_is_taken_back_goes(tab: Page) -> None:
    @DBOS.workflow(name="page rewinds")
    async def rewinds() -> None:
        await speak()
        await DBOS.recv(timeout_seconds=None)

    @DBOS.step(name="page speak", retries_allowed=True, interval_seconds=1.5, backoff_rate=1)
    async def speak() -> None:
        attempt = len(attempts)
        attempts.append(attempt)
        async with DBOS.stream_writer("words") as out:
            for word in ("<b>once</b>", "upon", f"attempt {attempt}\u202e"):
                await out.write(word)
            await out.flush()
            if attempt == 0:
                raise OSError("the model went away")

    attempts: list[int] = []
    handle = await DBOS.start_workflow(rewinds)

    async def is_written() -> bool:
        return bool((await DBOS.describe_workflow(handle.workflow_id)).streams)

    await eventually(is_written)
    await tab.goto(f"stream?id={handle.workflow_id}&key=words")
    await expect(tab.locator("#values li")).to_have_text(['"<b>once</b>"', '"upon"', '"attempt 1\\u{202e}"'])
    await expect(tab.locator("#state")).to_have_text(re.compile("^live · 3 values"))
    await tab.get_by_role("checkbox", name="as one text").check()
    await expect(tab.locator("#whole")).to_have_text("<b>once</b>uponattempt 1\\u{202e}")
    await DBOS.send(handle.workflow_id, "end")
    await expect(tab.locator("#state")).to_have_text("ended · 3 values")


async def test_an_outage_of_the_database_is_told_in_one_line_and_outlasted(browser: Browser, database_url: str) -> None:
    @DBOS.workflow(name="page outlasts")
    async def outlasts() -> None:
        while (said := await DBOS.recv(timeout_seconds=None)) != "end":
            await DBOS.write_stream("k", said)

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(DBOS(database_url))
        handle = await DBOS.start_workflow(outlasts)
        await DBOS.send(handle.workflow_id, "before")
        proxy = await stack.enter_async_context(Proxy(database_url))
        client = await stack.enter_async_context(DBOSClient(proxy.url))
        address = await stack.enter_async_context(serving(mounted(client=client)))
        tab = await stack.enter_async_context(visiting(browser, f"{address}/dbos/"))
        other = await tab.context.new_page()
        await tab.goto(f"workflow?id={handle.workflow_id}")
        await expect(tab.locator(".wait .what")).to_be_visible()
        await other.goto(f"stream?id={handle.workflow_id}&key=k")
        await expect(other.locator("#values li")).to_have_text(['"before"'])

        proxy.refuse()
        proxy.cut()
        await expect(tab.locator("#trouble")).to_contain_text(
            "The database does not answer. This page goes on when it is back. You see what was known at"
        )
        await expect(tab.locator(".wait .what")).to_be_visible()  # what was known stays
        third = await tab.context.new_page()
        await third.goto("")
        await expect(third.get_by_text("The database does not answer.")).to_be_visible()
        await DBOS.send(handle.workflow_id, "during")
        await DBOS.send(handle.workflow_id, "end")
        await handle.get_result()
        await proxy.heal()
        await expect(tab.get_by_text("SUCCESS", exact=True)).to_be_visible()
        await expect(tab.locator("#trouble")).to_be_hidden()
        await expect(third.get_by_role("heading", level=1)).to_have_text("Nothing needs you")
        await expect(other.locator("#values li")).to_have_text(['"before"', '"during"'])
        await expect(other.locator("#state")).to_have_text("ended · 2 values")


async def test_hostile_names_and_values_stay_texts(tab: Page) -> None:
    for place in SCREENS:
        await tab.goto(place)
        await tab.wait_for_load_state("networkidle") if "stream" not in place else None
        await open_all(tab)
        assert await tab.locator("main img, main script, main b, main iframe").count() == 0
    await tab.goto(f"workflow?id={HOSTILE}")
    await expect(tab.get_by_role("heading", level=1)).to_contain_text(
        '<img src=x onerror="alert(1)">\\u202egnp.exe\\x1b[31m'
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
async def test_everybody_can_use_every_screen(
    browser: Browser, database_url: str, tmp_path_factory: pytest.TempPathFactory, width: int, scheme: Any
) -> None:
    script = axe.source(tmp_path_factory.getbasetemp())
    options: Any = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    async with served_page(database_url) as address, visiting(browser, address, **options) as tab:
        for place in SCREENS:
            await tab.goto(place)
            if place == "":
                await expect(tab.locator("#counts")).to_contain_text("subscription")
            await open_all(tab)
            assert await axe.violations(tab, script) == [], place
            assert await tab.evaluate("document.documentElement.scrollWidth") <= width, place


async def test_the_keyboard_suffices(tab: Page) -> None:
    await tab.goto("workflow?id=order-0001")
    await tab.keyboard.press("Tab")
    await expect(tab.get_by_role("link", name="Skip to the content")).to_be_focused()
    await tab.keyboard.press("Enter")
    await expect(tab.locator("main")).to_be_focused()
    for _ in range(3):
        await tab.keyboard.press("Tab")
    await expect(tab.locator("#step-2 > summary")).to_be_focused()
    assert await tab.locator("#step-2 > summary").evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
    await tab.keyboard.press("Enter")
    await expect(tab.locator("#step-2 .under")).to_be_visible()


async def test_a_read_only_page_has_no_buttons(browser: Browser, database_url: str) -> None:
    async with served_page(database_url, read_only=True) as address, visiting(browser, address) as tab:
        for place in ("workflow?id=order-0005", "workflow?id=invoice-31", "workflow?id=stock-7", "messages"):
            await tab.goto(place)
            await expect(tab.get_by_text("read-only")).to_be_visible()
            assert await tab.locator("main form[method=post], main button:not([type=submit])").count() == 0
