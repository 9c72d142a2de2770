"""The web examples as their clients may misuse them: no request breaks one, shows a stranger anything, or takes effect twice."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio.to_thread
import httpx
import pytest

from dbos_async import DBOSClient
from tests.support.eventually import eventually
from tests.support.sites import Site, served
from tests.support.web import events

pytestmark = pytest.mark.newest_only  # about requests: the verbs behind them are tested on both versions elsewhere

EXAMPLES = ("agent_chat.py", "fastapi_checkout.py")


@pytest.fixture
async def shop(tmp_path: Path, database_url: str) -> AsyncIterator[Site]:
    async with served("fastapi_checkout.py", tmp_path, database_url) as site:
        yield site


@pytest.fixture
async def agent(tmp_path: Path, database_url: str) -> AsyncIterator[Site]:
    async with served("agent_chat.py", tmp_path, database_url, AGENT_TOKEN_SECONDS="0") as site:
        yield site


@pytest.fixture
async def visitor(request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody who has opened the page."""
    site: Site = request.getfixturevalue("shop" if "shop" in request.fixturenames else "agent")
    async with httpx.AsyncClient(base_url=site.address, trust_env=False, timeout=20) as client:
        await client.get("/")
        yield client


def cookies(client: httpx.AsyncClient) -> dict[str, str]:
    return {"Cookie": f"session={client.cookies['session']}"}


def signed(purpose: str, body: bytes) -> dict[str, str]:
    """What the payment provider sends along; the secret is that of `Site`."""
    return {"Payment-Signature": hmac.new(b"of this test", purpose.encode() + b"\0" + body, "sha256").hexdigest()}


async def order_of(url: str) -> str:
    """The id of the only order."""
    async with DBOSClient(url) as client:
        (order,) = await client.list_workflows()
        return order.workflow_id


# All of them


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize("is_known", [True, False])
async def test_no_request_that_the_schema_allows_or_forbids_is_an_error_of_the_server(
    example: str, is_known: bool, tmp_path: Path, database_url: str
) -> None:
    async with served(example, tmp_path, database_url, AGENT_TOKEN_SECONDS="0") as site:
        async with httpx.AsyncClient(base_url=site.address, trust_env=False) as client:
            await client.get("/")
            cookie = cookies(client)["Cookie"] if is_known else "session=x.y"
        done = await anyio.to_thread.run_sync(lambda: schemathesis(site, cookie, tmp_path))
        assert done.returncode == 0, done.stdout + done.stderr
        tried = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
        assert tried, done.stdout
        assert int(tried[1]) == int(tried[2]) >= 100
        assert "Traceback" not in site.output
        async with DBOSClient(database_url) as inspector:
            assert bool(await inspector.list_workflows()) == is_known, "what is allowed gets through, and else nothing"
        await site.stop()


def schemathesis(site: Site, cookie: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "schemathesis.toml").write_text("max-stream-events = 1\n")  # an event stream lasts as long as it may
    return subprocess.run(
        [
            sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()",
            "run", f"{site.address}/openapi.json", "-c", "not_a_server_error", "-n", "40", "-H", f"Cookie: {cookie}",
            "--request-timeout", "5", "--continue-on-failure",
        ],
        cwd=folder, env=os.environ | {"NO_PROXY": "127.0.0.1"}, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip


async def _chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 1000):
        yield body[start : start + 1000]


@pytest.mark.parametrize("is_told", [True, False], ids=["with its length", "in chunks"])
async def test_a_body_that_is_too_long_is_refused_before_it_is_parsed(
    shop: Site, visitor: httpx.AsyncClient, is_told: bool
) -> None:
    for path, body in (
        (f"/checkout/{uuid4()}", json.dumps({"quantity": 1, "note": "x" * 20_000}).encode()),
        (f"/checkout/{uuid4()}", b"{" * 20_000),
        ("/webhooks/payments", b"x" * 20_000),
    ):
        content: Any = body if is_told else _chunks(body)
        answer = await visitor.post(path, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413, answer.text
    assert shop.effects == []


async def test_the_pages_run_no_script_but_their_own(shop: Site, visitor: httpx.AsyncClient) -> None:
    policies = {(await visitor.get("/")).headers["content-security-policy"] for _ in range(2)}
    assert len(policies) == 2, "each answer has a nonce of its own"
    for policy in policies:
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    page = (await visitor.get("/")).text
    assert not re.search(r"(src|href)=.https?:|@import|url\(", page), "nothing comes from elsewhere"
    assert "{{" not in page


# The shop


async def test_an_order_that_is_placed_many_times_at_once_is_one_order_the_first(
    shop: Site, visitor: httpx.AsyncClient
) -> None:
    key = uuid4()
    first = await visitor.post(f"/checkout/{key}", json={"quantity": 2})
    assert first.json() == {"cents": 3980, "payment_page": f"/pay/{key}"}
    again = await asyncio.gather(*(visitor.post(f"/checkout/{key}", json={"quantity": n}) for n in range(1, 10)))
    assert [answer.json() for answer in again] == [first.json()] * 9
    other = uuid4()
    many = await asyncio.gather(*(visitor.post(f"/checkout/{other}", json={"quantity": 1}) for _ in range(20)))
    assert [answer.status_code for answer in many] == [200] * 20
    assert shop.effects.count("✱ opens a payment of 19.90 €") == 1
    assert len(shop.effects) == 4


async def test_a_webhook_is_believed_only_with_its_signature_and_counts_once(
    shop: Site, visitor: httpx.AsyncClient, database_url: str
) -> None:
    key = uuid4()
    assert (await visitor.post(f"/checkout/{key}", json={"quantity": 1})).is_success
    order_id = await order_of(database_url)
    notice = {"payment_id": f"pay-{order_id}", "order_id": order_id, "status": "paid"}
    body = json.dumps(notice).encode()
    hook = "/webhooks/payments"
    for headers in (
        {},
        {"Payment-Signature": ""},
        {"Payment-Signature": "é"},
        signed("session", body),
        signed("webhook", b""),
    ):
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        assert (await visitor.post(hook, content=body, headers=raw)).status_code == 401
    for garbage in (b"", b"\xff", b"[]", b"{}", b"[" * 9000, json.dumps(notice | {"status": "perhaps"}).encode()):
        assert (await visitor.post(hook, content=garbage, headers=signed("webhook", garbage))).status_code == 422
    stranger = json.dumps(notice | {"order_id": "order-of-nobody"}).encode()
    assert (await visitor.post(hook, content=stranger, headers=signed("webhook", stranger))).status_code == 404
    assert (await visitor.get(f"/orders/{key}")).json() == {"status": "PENDING", "result": None}

    declined = json.dumps(notice | {"status": "declined"}).encode()
    for told in (body, body, declined):
        assert (await visitor.post(hook, content=told, headers=signed("webhook", told))).status_code == 202
    found = await events(f"{shop.address}/orders/{key}/progress", cookies(visitor))
    assert found[-1].data == '{"status":"SUCCESS"}'
    assert (await visitor.get(f"/orders/{key}")).json() == {"status": "SUCCESS", "result": "completed"}
    assert shop.effects.count("✱ ships 1") == 1


async def test_an_order_is_nobody_else_s_affair(shop: Site, visitor: httpx.AsyncClient) -> None:
    key = uuid4()
    assert (await visitor.post(f"/checkout/{key}", json={"quantity": 1})).is_success
    paths = (f"/orders/{key}", f"/orders/{key}/progress", f"/pay/{key}")
    async with httpx.AsyncClient(base_url=shop.address, trust_env=False) as stranger:
        for path in paths:
            assert (await stranger.get(path)).status_code == 401
        await stranger.get("/")
        for path in paths:
            assert (await stranger.get(path)).status_code == 404
        assert (await stranger.post(f"/pay/{key}/paid")).status_code == 404
        name = visitor.cookies["session"].partition(".")[0]
        forged = {"Cookie": f"session={name}.{stranger.cookies['session'].partition('.')[2]}"}
    async with httpx.AsyncClient(base_url=shop.address, trust_env=False) as forger:
        assert (await forger.get(f"/orders/{key}", headers=forged)).status_code == 401
    assert (await visitor.get(f"/orders/{key}")).is_success


# The agent


async def test_a_message_that_is_sent_again_counts_once(
    agent: Site, visitor: httpx.AsyncClient, database_url: str
) -> None:
    chat, message = uuid4(), {"id": str(uuid4()), "text": "Count to 3 \0 😀"}
    for _ in range(3):
        assert (await visitor.post(f"/chats/{chat}/messages", json=message)).status_code == 202
    last = {"id": str(uuid4()), "text": "Count to 2"}
    async with DBOSClient(database_url) as client:
        (found,) = await client.list_workflows()
        said: list[str] = []
        async for part in client.read_stream(found.workflow_id, "parts"):
            if part["kind"] in ("said", "token"):
                said.append(part["text"].rstrip(" ,…!"))
            if part["kind"] == "done":
                if part["turn"] == 2:
                    break
                for body in (message, last):  # what was said before is no news, and does not interrupt
                    assert (await visitor.post(f"/chats/{chat}/messages", json=body)).status_code == 202
    assert said == [message["text"], "1", "2", "3", "Count to 2", "1", "2"]


async def test_a_chat_is_nobody_else_s_affair(agent: Site, visitor: httpx.AsyncClient) -> None:
    chat, message = uuid4(), {"id": str(uuid4()), "text": "order cake"}
    assert (await visitor.post(f"/chats/{chat}/messages", json=message)).status_code == 202
    async with httpx.AsyncClient(base_url=agent.address, trust_env=False) as stranger:
        approval = f"/chats/{chat}/approvals/1"
        for status in (401, 404):
            assert (await stranger.get(f"/chats/{chat}/parts")).status_code == status
            assert (await stranger.post(approval, json={"approved": True})).status_code == status
            await stranger.get("/")
    assert (await visitor.post(approval, json={"approved": True})).status_code == 202
    await eventually(lambda: agent.effects == ["✱ orders cake"])
