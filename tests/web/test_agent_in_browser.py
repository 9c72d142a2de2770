"""The agent of the example in a real browser: stopped, steered, asked and killed at any moment."""

from __future__ import annotations

import ast
import asyncio
import json
import random
import re
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from dbos_async import DBOSClient
from tests.support.agent_page import button, check_transcript, opened, say
from tests.support.eventually import eventually
from tests.support.sites import CHROMIUM, Site

pytestmark = [
    pytest.mark.browser,
    pytest.mark.newest_only,  # what a page shows does not depend on the server's version
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
]

expect.set_options(timeout=20_000)

NEVER = "3600"
"""So many seconds nobody waits in a test."""
COUNTED_TO_3 = re.compile(r"^1\W+2\W+3\W+$")
STOPS = 20
KILLS = 20


WATCH = """() => {
    window.stops = [];
    let clicked = null, last = null, text = 0;
    const length = () => [...document.querySelectorAll(".agent")].reduce((sum, e) => sum + e.textContent.length, 0);
    document.getElementById("stop").addEventListener("click", () => { clicked = last = performance.now(); }, true);
    new MutationObserver(() => {
        if (clicked === null) { text = length(); return; }
        const now = performance.now();
        if (length() !== text) { last = now; text = length(); }
        if (document.querySelectorAll(".note").length > window.stops.length) {
            window.stops.push({ quiet: last - clicked, shown: now - clicked, text });
            clicked = null;
        }
    }).observe(document.getElementById("parts"), { childList: true, subtree: true, characterData: true });
}"""
"""Notes for each stop how long after the click the last token came, when the stop was shown, and how much text was there."""


async def test_s2_no_token_comes_after_a_stop_while_tokens_stream(tmp_path: Path, database_url: str) -> None:
    async with opened(tmp_path, database_url, AGENT_TOKEN_SECONDS="0.01") as (_, page):
        await page.evaluate(WATCH)
        for number in range(1, STOPS + 1):
            await say(page, "Count to 1000")
            await expect(page.locator(".you")).to_have_count(number)
            await eventually(
                lambda number=number: speaks(page, number),  # type: ignore[misc]  # bound now
                "the agent is in the middle of its answer",
            )
            if number % 2:
                await button(page, "Stop").click()
            else:
                await page.evaluate("document.getElementById('stop').click()")
            await expect(page.locator(".note")).to_have_count(number)
        await say(page, "Count to 3")
        await expect(page.locator(".agent").last).to_have_text(COUNTED_TO_3)
        stops = await page.evaluate("window.stops")
        texts = await page.locator(".agent").all_text_contents()
        assert await check_transcript(page, database_url, STOPS + 1)
    assert len(stops) == STOPS
    for number, stop in enumerate(stops, 1):
        assert sum(map(len, texts[:number])) == stop["text"], "a token came after the stop was shown"
    for what in ("quiet", "shown"):
        times = sorted(stop[what] for stop in stops)
        print(
            f"{what}: p50 {times[len(times) // 2]:.0f} ms, p95 {times[int(0.95 * len(times)) - 1]:.0f} ms, all {times}"
        )


async def speaks(page: Page, answers: int) -> bool:
    texts = await page.locator(".agent").all_text_contents()
    return len(texts) == answers and len(texts[-1]) > 30


async def test_c1_the_plan_is_changed_while_sub_agents_speak(tmp_path: Path, database_url: str) -> None:
    async with opened(tmp_path, database_url, AGENT_TOKEN_SECONDS="0.2") as (_, page):
        await say(page, "Research tea and coffee")
        await expect(page.locator(".team .agent")).to_have_count(2)
        await say(page, "Count to 3")
        await expect(page.locator(".agent").last).to_have_text(COUNTED_TO_3)
        blocks = await check_transcript(page, database_url, 2)
        async with DBOSClient(database_url) as client:
            children = await client.list_workflows(name="sub_agent")
        assert [child.status for child in children] == ["CANCELLED"] * 2
    assert blocks[3:5] == ["note: ■ Stopped", "you: Count to 3"]


async def test_s2_the_streams_of_sub_agents_are_shown_whole(tmp_path: Path, database_url: str) -> None:
    async with opened(tmp_path, database_url, AGENT_TOKEN_SECONDS="0.005") as (_, page):
        await say(page, "Research tea and coffee.")
        await expect(page.locator(".team")).to_have_count(1)
        blocks = await check_transcript(page, database_url, 1)
    assert len(blocks) == 3
    for subject in ("tea", "coffee"):
        (said,) = (block for block in blocks if block.startswith(f"{subject}: "))
        assert re.match(rf"{subject}: I have (read|studied) what there is about {subject}\. (People|Many) have ", said)
        assert said.endswith("good for you.")


async def test_c1_a_slow_tool_is_skipped_and_the_others_are_not(tmp_path: Path, database_url: str) -> None:
    async with opened(tmp_path, database_url, AGENT_TOKEN_SECONDS="0.005", AGENT_SLOW_TOOL_SECONDS=NEVER) as (
        site,
        page,
    ):
        await say(page, "Plan a trip to Rome")
        await expect(page.locator(".found")).to_have_count(2)
        await expect(page.locator("#doing")).to_have_text("looking up trains for Rome")
        await site.kill()  # the tools that have found something are not asked again
        await button(page, "Skip what is slow").click()
        await site.start()
        await expect(page.locator(".skipped")).to_have_count(1)
        blocks = await check_transcript(page, database_url, 1)
    found = {"weather": "Sunny in Rome, 24 °C.", "rooms": "A room in Rome costs 84 €.", "trains": "skipped"}
    assert blocks[1] == f"tools: {found}"
    assert blocks[2] == "agent: Sunny in Rome, 24 °C. A room in Rome costs 84 €. Have a good trip to Rome!"


async def test_c1_a_server_that_is_deployed_anew_goes_on_with_its_tools_and_sub_agents(
    tmp_path: Path, database_url: str
) -> None:
    slow: dict[str, str] = {"AGENT_TOKEN_SECONDS": "0.1", "AGENT_SLOW_TOOL_SECONDS": "3"}
    async with opened(tmp_path, database_url, **slow) as (site, page):
        await say(page, "Plan a trip to Rome")
        await expect(page.locator(".found")).to_have_count(2)
        await site.stop()
        await site.start()
        await expect(page.locator(".found")).to_have_count(3)
        await check_transcript(page, database_url, 1)
        await say(page, "Research tea and coffee")
        await expect(page.locator(".team .agent")).to_have_count(2)
        await site.stop()
        await site.start()
        blocks = await check_transcript(page, database_url, 2)
    assert "skipped" not in blocks[1]
    assert "■ Stopped" not in str(blocks)
    assert all(block.endswith("good for you.") for block in blocks[-2:])


async def test_c2_the_agent_says_what_it_does_while_it_does_it(tmp_path: Path, database_url: str) -> None:
    async with opened(tmp_path, database_url, AGENT_TOKEN_SECONDS="0.005", AGENT_SLOW_TOOL_SECONDS=NEVER) as (_, page):
        await say(page, "Order cake")
        await expect(button(page, "Allow")).to_be_visible()
        await say(page, "What are you doing?")
        await expect(page.locator("#told")).to_have_text("I am waiting for you to decide about cake.")
        await button(page, "Allow").click()
        await expect(button(page, "Stop")).to_be_hidden()
        await say(page, "A trip to Oslo")
        await expect(page.locator(".found")).to_have_count(2)
        await expect(page.locator("#doing")).to_have_text("looking up trains for Oslo")
        await button(page, "What are you doing?").click()
        await expect(page.locator("#told")).to_have_text("I am looking up trains for Oslo.")
        await expect(page.locator(".runs")).to_have_count(1)  # it was not disturbed
        await page.keyboard.press("Escape")
        await expect(page.locator(".note")).to_have_text("■ Stopped")
        await expect(page.locator("#doing")).to_have_text("listening")
        blocks = await check_transcript(page, database_url, 2)
    assert [block for block in blocks if block.startswith("you: ")] == ["you: Order cake", "you: A trip to Oslo"]


async def test_c1_nobody_decides_in_time_and_nothing_is_ordered(tmp_path: Path, database_url: str) -> None:
    options = {"AGENT_TOKEN_SECONDS": "0.005", "AGENT_APPROVAL_SECONDS": "1"}
    async with opened(tmp_path, database_url, **options) as (site, page):
        await say(page, "Order a moped")
        await expect(page.locator(".late")).to_have_text("not decided in time")
        await expect(page.locator(".agent").last).to_have_text("All right, nothing was ordered.")
        chat = page.url.partition("/#")[2]
        late = await page.context.request.post(f"{site.address}/chats/{chat}/approvals/1", data={"approved": True})
        assert late.status == 202
        await say(page, "Count to 3")
        await expect(page.locator(".agent").last).to_have_text(COUNTED_TO_3)
        await check_transcript(page, database_url, 2)
        assert site.effects == []


SAMPLE = """() => {
    window.samples = new Set();
    const log = document.getElementById("parts"), sample = () => {
        let turn = null;
        const turns = [];
        for (const block of log.querySelectorAll(":scope > .you:not(.waits), :scope > .agent")) {
            if (block.classList.contains("you")) turns.push(turn = [block.textContent]);
            else turn.push(block.textContent);
        }
        for (const turn of turns) window.samples.add(JSON.stringify(turn));
    };
    new MutationObserver(sample).observe(log, { childList: true, subtree: true, characterData: true });
}"""
"""Notes at each change of the page what it shows of each turn: what the person said, and each answer of the model."""


def answers(site: Site) -> list[str]:
    """What the model has begun to say, attempt by attempt."""
    return [ast.literal_eval(line) for line in re.findall(r"^✎ (.*)\n", site.output, re.MULTILINE)]


async def shows_last_answer(page: Page, site: Site) -> bool:
    text = "".join(await page.locator(".agent").all_text_contents())
    return len(text) > 20 and answers(site)[-1].startswith(text)


@pytest.mark.timeout(200)
async def test_s8_the_page_shows_one_answer_of_the_model_at_every_moment_of_20_kills(
    tmp_path: Path, database_url: str
) -> None:
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    chance = random.Random(seed)
    async with opened(tmp_path, database_url, AGENT_TOKEN_SECONDS="0.02") as (site, page):
        await page.evaluate(SAMPLE)
        await say(page, "Count to 1000")
        for kill in range(KILLS):
            await eventually(lambda begun=kill: len(answers(site)) > begun, "the model is asked again")  # type: ignore[misc]  # bound now
            if kill % 3 == 0:
                await eventually(lambda: shows_last_answer(page, site), "the page shows the new answer")
            await asyncio.sleep(chance.random() / 3)
            await site.kill()
            await site.start()
        await eventually(lambda: len(answers(site)) > KILLS, "the model is asked for the last time")
        await eventually(lambda: shows_last_answer(page, site), "the page shows the last answer")
        await button(page, "Stop").click()
        await expect(page.locator(".note")).to_have_text("■ Stopped")
        samples: list[list[str]] = [json.loads(sample) for sample in await page.evaluate("[...window.samples]")]
        blocks = await check_transcript(page, database_url, 1)
    said = answers(site)
    assert len(said) == len({*said}) == KILLS + 1
    seen: set[int] = set()
    for _, *shown_answers in samples:
        assert len(shown_answers) <= 1
        for text in shown_answers:
            of = [number for number, answer in enumerate(said) if answer.startswith(text)]
            assert of, f"this is the begin of no answer: {text}"
            seen |= {*of} if len(of) == 1 else set()
    assert len(seen) >= KILLS // 3, "it has shown one answer after the other"
    assert said[-1].startswith(blocks[1].removeprefix("agent: "))


@pytest.mark.timeout(200)
async def test_w2_s2_the_page_shows_what_is_stored_after_kills_in_a_conversation(
    tmp_path: Path, database_url: str
) -> None:
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    chance = random.Random(seed)
    wishes = ["Count to 100", "Plan a trip to Rome", "Order cake", "Research tea and coffee", "What are you?"]
    clicks = ["Stop", "Skip what is slow", "Allow"]
    click = "name => [...document.querySelectorAll('button')].find(b => b.textContent === name)?.click()"
    options = {"AGENT_TOKEN_SECONDS": "0.02", "AGENT_SLOW_TOOL_SECONDS": "2", "AGENT_APPROVAL_SECONDS": "2"}
    async with opened(tmp_path, database_url, **options) as (site, page):
        for wish in chance.sample(wishes, len(wishes)):
            await say(page, wish)
            await asyncio.sleep(chance.random())
            await page.evaluate(click, chance.choice(clicks))
            await site.kill()
            await page.evaluate(click, chance.choice(clicks))  # whoever clicks now is heard later
            await site.start()
        await expect(page.locator(".waits")).to_have_count(0)
        await say(page, "Count to 3")
        await expect(page.locator(".agent").last).to_have_text(COUNTED_TO_3)
        blocks = await check_transcript(page, database_url, len(wishes) + 1)
        said = answers(site)
        for block in blocks:
            if block.startswith("agent: "):
                assert any(answer.startswith(block.removeprefix("agent: ")) for answer in said), block
        orders = [block for block in blocks if block.startswith("agent: Ordered.")]
        assert len(site.effects) >= len(orders)  # a step whose process is killed before it is recorded runs again
        async with DBOSClient(database_url) as client:
            unwell = [
                each for each in await client.list_workflows() if each.status not in ("PENDING", "SUCCESS", "CANCELLED")
            ]
        assert unwell == []
