"""The pages of the examples in a real browser, while it reloads and while their server is killed."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect

from tests.support.eventually import eventually
from tests.support.sites import CHROMIUM, Site, chromium, served

pytestmark = [
    pytest.mark.browser,
    pytest.mark.newest_only,  # what a page shows does not depend on the server's version
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
]

PATIENCE_MILLISECONDS = 20_000
expect.set_options(timeout=PATIENCE_MILLISECONDS)

TOKENS = 500
TOKEN_SECONDS = "0.01"
COUNTED_TO_3 = re.compile(r"^1\W+2\W+3\W+$")
WHOLE = [f"{n}" for n in range(1, TOKENS + 1)]


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest.fixture
async def visitor(browser: Browser) -> AsyncIterator[BrowserContext]:
    """Somebody with a cookie jar; whatever goes wrong on a page is an error of the test."""
    wrong: list[str] = []
    context = await browser.new_context()
    context.on("weberror", lambda error: wrong.append(str(error.error)))
    context.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
    context.on("console", lambda message: wrong.append(message.text) if "Security" in message.text else None)
    yield context
    await context.close()
    assert wrong == []


@pytest.fixture
async def agent(tmp_path: Path, database_url: str) -> AsyncIterator[Site]:
    async with served("agent_chat.py", tmp_path, database_url, AGENT_TOKEN_SECONDS=TOKEN_SECONDS) as site:
        yield site


@pytest.fixture
async def shop(tmp_path: Path, database_url: str) -> AsyncIterator[Site]:
    async with served("fastapi_checkout.py", tmp_path, database_url) as site:
        yield site


async def begin_to_count(page: Page, site: Site) -> None:
    await page.goto(site.address)
    await page.get_by_role("button", name=f"Count to {TOKENS}").click()
    await has_counted(page, 1)


async def counted(page: Page) -> int:
    """How far the agent has counted on this page, each number once and none left out."""
    text = "".join(await page.locator(".agent").all_text_contents())
    numbers = re.findall(r"\d+", text)
    assert numbers == WHOLE[: len(numbers)], f"the page shows {text!r}"
    return len(numbers)


async def has_counted(page: Page, least: int) -> None:
    async def has() -> bool:
        return await counted(page) >= least

    await eventually(has, f"the page shows {least} tokens", give_up_after_seconds=40)


async def check_whole_count(page: Page) -> None:
    await has_counted(page, TOKENS)
    assert await page.locator(".agent").count() == 1
    assert await page.locator(".you").all_text_contents() == [f"Count to {TOKENS}"]
    await expect(page.locator(".speaks")).to_have_count(0)


async def test_a_page_that_is_reloaded_in_mid_stream_goes_on_at_the_next_token(
    agent: Site, visitor: BrowserContext
) -> None:
    page = await visitor.new_page()
    await begin_to_count(page, agent)
    before = await counted(page)
    await page.reload()
    await has_counted(page, before)
    assert await counted(page) < TOKENS, "it was in mid-stream"
    await check_whole_count(page)


async def test_a_page_outlasts_its_server_that_is_killed_in_mid_stream(agent: Site, visitor: BrowserContext) -> None:
    page = await visitor.new_page()
    await begin_to_count(page, agent)
    await has_counted(page, 20)
    await agent.kill()
    await expect(page.get_by_role("status")).to_have_text("reconnecting …")
    before = await counted(page)
    assert before < TOKENS, "it was in mid-stream"
    await agent.start()
    await has_counted(page, before + 1)
    await check_whole_count(page)


async def test_two_tabs_show_the_same(agent: Site, visitor: BrowserContext) -> None:
    one, two = await visitor.new_page(), await visitor.new_page()
    await begin_to_count(one, agent)
    await has_counted(one, 20)
    await two.goto(one.url)
    await has_counted(two, 20)
    assert await counted(one) < TOKENS, "it was in mid-stream"
    await asyncio.gather(check_whole_count(one), check_whole_count(two))
    await say(two, "Order cake")
    await expect(button(one, "Refuse")).to_be_visible()
    # While the agent waits for the decision, it hears what is said, and takes its question back.
    await say(one, "Count to 3")
    for page in (one, two):
        await expect(page.locator(".ask .quiet")).to_have_text("withdrawn")
        await expect(page.locator(".agent").last).to_have_text(COUNTED_TO_3)
        await expect(page.locator(".you")).to_have_text([f"Count to {TOKENS}", "Order cake", "Count to 3"])
        await expect(page.locator(".waits")).to_have_count(0)


async def test_an_approval_that_is_clicked_twice_and_in_two_tabs_has_one_effect(
    agent: Site, visitor: BrowserContext
) -> None:
    one, two = await visitor.new_page(), await visitor.new_page()
    await one.goto(agent.address)
    await say(one, "Please order pizza for the team.")
    await expect(button(one, "Allow")).to_be_visible()
    await two.goto(one.url)
    await expect(button(two, "Refuse")).to_be_visible()
    path = re.compile(r"/approvals/1$")
    async with one.expect_response(path), one.expect_response(path):
        await button(one, "Allow").dblclick(no_wait_after=True)
    # It is decided; somebody who had not seen that yet decides otherwise, and it changes nothing.
    answer = await visitor.request.post(f"{chat_of(one)}/approvals/1", data={"approved": False})
    assert answer.status == 202
    for page in (one, two):
        await expect(page.locator(".yes")).to_have_text("✓ You allowed it")
        await expect(page.locator(".agent").last).to_have_text(re.compile(r"^Ordered\. The number is ORDER-\d{4}\.$"))
    assert agent.effects == ["✱ orders pizza for the team"]

    # And none of these clicks is taken for an answer to another question.
    await say(one, "Order cake")
    await expect(button(two, "Refuse")).to_be_visible()
    await button(two, "Refuse").click()
    await expect(one.locator(".no")).to_have_text("✕ You refused it")
    await expect(one.locator(".agent").last).to_have_text("All right, nothing was ordered.")
    assert agent.effects == ["✱ orders pizza for the team"]


async def test_an_approval_outlasts_a_kill_while_it_is_asked_for(agent: Site, visitor: BrowserContext) -> None:
    page = await visitor.new_page()
    await page.goto(agent.address)
    await say(page, "order a moped")
    await expect(button(page, "Allow")).to_be_visible()
    await agent.kill()
    await expect(page.get_by_role("status")).to_have_text("reconnecting …")
    await button(page, "Allow").click()
    await agent.start()
    await expect(page.locator(".yes")).to_be_visible()
    await expect(page.locator(".agent").last).to_contain_text("The number is ORDER-")
    assert agent.effects == ["✱ orders a moped"]


@pytest.mark.timeout(300)
async def test_500_tokens_and_10_interruptions_show_none_twice_and_miss_none(
    agent: Site, visitor: BrowserContext
) -> None:
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    chance = random.Random(seed)
    moments = sorted(chance.sample(range(1, TOKENS // 2), 10))
    write_seq = chance.sample(["reload", "kill"] * 5, 10)
    page = await visitor.new_page()
    await begin_to_count(page, agent)
    for moment, act in zip(moments, write_seq, strict=True):
        await has_counted(page, moment)
        if act == "reload":
            await page.reload()
        else:
            await agent.kill()
            await agent.start()
    assert await counted(page) < TOKENS, "the last interruption was in mid-stream, too"
    await check_whole_count(page)
    await page.reload()
    await check_whole_count(page)


async def test_nothing_that_somebody_says_is_taken_for_html(agent: Site, visitor: BrowserContext) -> None:
    page = await visitor.new_page()
    await page.goto(agent.address)
    for evil in ('<img src=x onerror="alert(1)">', "order <script>alert(2)</script>"):
        await say(page, evil)
        await expect(page.locator(".you").last).to_have_text(evil)
    await expect(page.locator(".ask p")).to_have_text("Order <script>alert(2)</script> for 48.00 €?")
    assert await page.locator("main img, main script").count() == 0


async def test_a_chat_is_its_visitor_s_own(agent: Site, visitor: BrowserContext, browser: Browser) -> None:
    page = await visitor.new_page()
    await page.goto(agent.address)
    await say(page, "Count to 3")
    await expect(page.locator(".agent")).to_have_text(COUNTED_TO_3)
    async with await browser.new_context() as stranger:
        other = await stranger.new_page()
        await other.goto(page.url)
        await expect(other.get_by_role("status")).to_have_text("not a chat of yours")
        assert await other.locator(".agent").count() == 0


async def test_an_order_is_placed_and_paid_once_whatever_is_clicked_twice_and_killed(
    shop: Site, visitor: BrowserContext, browser: Browser
) -> None:
    page = await visitor.new_page()
    await page.goto(shop.address)
    note = "<b onclick=alert(1)>Ada</b> & {{NONCE}}"
    await page.get_by_label("Gift card").fill(note)
    await page.get_by_role("button", name="Buy").dblclick(no_wait_after=True)
    progress = page.get_by_role("listitem")
    await expect(progress.last).to_have_text("Waiting for your payment")
    await page.reload()
    lines = ["Order received: 1 × widget", f"Gift card: “{note}”", "Reserved, 41 left on the shelf"]  # noqa: RUF001
    await expect(progress).to_have_text([*lines, "Waiting for your payment"])

    async with await browser.new_context() as stranger:
        other = await stranger.new_page()
        await other.goto(page.url)
        await expect(other.get_by_role("status")).to_have_text("There is no such order of yours.")

    second = await visitor.new_page()
    await second.goto(page.url)
    await second.get_by_role("link", name="Pay", exact=True).click()
    await expect(second.get_by_text("19.90 €").first).to_be_visible()
    await shop.kill()
    await expect(page.get_by_role("status")).to_have_text("Reconnecting …")
    await shop.start()
    await second.get_by_role("button", name="Pay 19.90 €").dblclick(no_wait_after=True)
    for tab in (page, second):
        await expect(tab.get_by_role("status")).to_have_text("This order is closed.")
        story = [*lines, "Waiting for your payment", "Paid, thank you", "Shipped as PARCEL-0815"]
        await expect(tab.get_by_role("listitem")).to_have_text(story)
    assert shop.effects == ["✱ reserves 1", "✱ opens a payment of 19.90 €", "✱ ships 1"]
    await shop.stop()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
async def test_the_pages_fit_and_their_words_can_be_read(
    agent: Site, browser: Browser, width: int, scheme: Any
) -> None:
    async with AsyncExitStack() as stack:
        options: Any = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
        context = await stack.enter_async_context(await browser.new_context(**options))
        page = await context.new_page()
        await page.goto(agent.address)
        await say(page, "order " + "W" * 200)
        await expect(button(page, "Allow")).to_be_visible()
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        for place in (
            ".you",
            ".ask p",
            ".ask button",
            ".ask .plain",
            ".ask .quiet",
            "#doing",
            "#what",
            "#stop",
            "header a",
        ):
            assert await contrast(page, place) >= 4.5, place


async def contrast(page: Page, place: str) -> float:
    """How far a text and its ground are apart, as the accessibility guidelines count it."""
    script = """element => {
        const ground = e => {
            const colour = getComputedStyle(e).backgroundColor;
            return colour !== "rgba(0, 0, 0, 0)" ? colour : ground(e.parentElement);
        };
        return [getComputedStyle(element).color, ground(element)];
    }"""
    pair = await page.locator(place).first.evaluate(script)
    one, two = (luminance([int(n) for n in re.findall(r"\d+", colour)[:3]]) for colour in pair)
    return (max(one, two) + 0.05) / (min(one, two) + 0.05)


def luminance(colour: list[int]) -> float:
    parts = [part / 255 for part in colour]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def button(page: Page, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


async def say(page: Page, text: str) -> None:
    await page.get_by_label("Your message").fill(text)
    await button(page, "Send").click()


def chat_of(page: Page) -> str:
    address, _, chat = page.url.partition("/#")
    return f"{address}/chats/{chat}"
