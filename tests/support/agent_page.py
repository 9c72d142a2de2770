"""The agent of the example in a real browser: opened, spoken to, and compared with what is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Page, expect

from dbos_async import DBOSClient
from tests.support.eventually import eventually
from tests.support.sites import Site, chromium, served


@asynccontextmanager
async def opened(folder: Path, url: str, **environment: str) -> AsyncIterator[tuple[Site, Page]]:
    """The agent, served, and a page of somebody who has opened it; whatever goes wrong on it is an error of the test."""
    wrong: list[str] = []
    async with served("agent_chat.py", folder, url, **environment) as site, chromium() as browser:
        context = await browser.new_context()
        context.on("weberror", lambda error: wrong.append(str(error.error)))
        page = await context.new_page()
        await page.goto(site.address)
        yield site, page
        await context.close()
    assert wrong == []


def button(page: Page, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


async def say(page: Page, text: str) -> None:
    await page.get_by_label("Your message").fill(text)
    await button(page, "Send").click()


async def stored_parts(url: str, until_turn: int) -> list[dict[str, Any]]:
    """The stream of the only chat, until this turn is over."""
    found: list[dict[str, Any]] = []
    async with DBOSClient(url) as client:
        (chat,) = await client.list_workflows(name="chat")
        async for part in client.read_stream(chat.workflow_id, "parts", timeout_seconds=30):
            found.append(part)
            if part["kind"] == "done" and part["turn"] == until_turn:
                break
    return found


def transcript(parts: list[dict[str, Any]]) -> list[str]:
    """What a page must show of these parts, block by block."""
    blocks: list[str] = []
    voices: dict[str, int] = {}
    tools: dict[str, str] = {}
    over = True

    def close() -> None:
        voices.clear()
        if blocks and blocks[-1].startswith("ask: ") and blocks[-1].endswith("…"):
            blocks[-1] = blocks[-1].removesuffix("…") + "withdrawn"

    for part in parts:
        match part:
            case {"kind": "said"}:
                close()
                blocks.append(f"you: {part['text']}")
                over = False
            case {"kind": "token", "agent": agent}:
                if agent not in voices:
                    if agent == "" or "" in voices:
                        voices.clear()
                    voices[agent] = len(blocks)
                    blocks.append(f"{agent or 'agent'}: ")
                blocks[voices[agent]] += part["text"]
            case {"kind": "tools"}:
                voices.clear()
                tools = dict.fromkeys(part["names"], "looking it up …")
                blocks.append(f"tools: {tools}")
            case {"kind": "found"}:
                tools[part["name"]] = part["text"] or "skipped"
                last = max(index for index, block in enumerate(blocks) if block.startswith("tools: "))
                blocks[last] = f"tools: {tools}"
            case {"kind": "ask"}:
                voices.clear()
                blocks.append(f"ask: {part['text']} …")
            case {"kind": "verdict", "approved": approved}:
                words = {True: "✓ You allowed it", False: "✕ You refused it", None: "not decided in time"}[approved]
                blocks[-1] = blocks[-1].removesuffix("…") + words
            case {"kind": "done"}:
                if not over:
                    close()
                    blocks += ["note: ■ Stopped"] * part["stopped"]
                over = True
    return blocks


async def shown(page: Page) -> list[str]:
    """The blocks that the page shows, as `transcript` names them."""
    found: list[str] = await page.evaluate(
        """() => [...document.querySelectorAll("#parts .you, #parts .agent, #parts .card, #parts .note")].map((block) => {
            const kind = block.classList[0], row = (line) => `'${[...line.children].map((c) => c.textContent).join("': '")}'`;
            if (kind === "agent") return `${block.previousElementSibling?.tagName === "H2"
                ? block.previousElementSibling.textContent : "agent"}: ${block.textContent}`;
            if (kind !== "card") return `${kind}: ${block.textContent}`;
            const list = [...block.querySelectorAll("li")];
            return list.length ? `tools: {${list.map(row).join(", ")}}`
                : `ask: ${block.querySelector("p").textContent} ${block.querySelector(".row").textContent}`;
        })"""
    )
    return found


async def check_transcript(page: Page, url: str, turns: int) -> list[str]:
    """The page shows what is stored, now and when it is loaded anew; returns it."""
    expected = transcript(await stored_parts(url, turns))
    for _ in range(2):
        await expect(button(page, "Stop")).to_be_hidden()
        await eventually(lambda: _shows(page, expected), "the page shows what is stored")
        await page.reload()
        await expect(page.locator(".you")).to_have_count(sum(block.startswith("you: ") for block in expected))
    return expected


async def _shows(page: Page, expected: list[str]) -> bool:
    return await shown(page) == expected
