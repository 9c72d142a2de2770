"""The lines of JavaScript that the guide gives, in a real browser."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dbos_async import DBOS
from dbos_async.fastapi import add_error_handlers, lifespan, stream_response
from tests.support.eventually import eventually
from tests.support.proxy import Proxy
from tests.support.sites import CHROMIUM, chromium
from tests.support.web import serving
from tests.support.web_app import start

pytestmark = [
    pytest.mark.browser,
    pytest.mark.newest_only,  # what a page shows does not depend on the server's version
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
]

GUIDE = Path(__file__).parent.parent.parent / "docs" / "guide" / "web.md"
PAGE = """<!doctype html><script>
const shown = [], made = [];
window.EventSource = class extends EventSource {
  constructor(url) { super(url); made.push(this); }
};
function show(offset, value) { shown[offset] = value; }
function forget(offset) { shown.length = offset; }
SNIPPET
</script>"""


class Watched:
    """An application whose answers can be watched, and cut off as by a proxy that is restarted."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.statuses: list[int] = []
        self._answers: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start" and scope["path"] != "/":
                self.statuses.append(message["status"])
            await send(message)

        async def answers() -> None:
            await self._app(scope, receive, watched)

        answer = asyncio.create_task(answers())
        if scope["type"] == "http":
            self._answers.add(answer)
        await asyncio.wait([answer])
        if not answer.cancelled():
            answer.result()

    def cut(self) -> None:
        for answer in self._answers:
            answer.cancel()


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(database_url) as proxy:
        yield proxy


async def test_the_page_of_the_guide_outlasts_answers_of_503(proxy: Proxy) -> None:
    blocks = re.findall(r"```js\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    (snippet,) = (block for block in blocks if "new EventSource" in block)

    async def page(_request: Request) -> Response:
        return HTMLResponse(PAGE.replace("SNIPPET", snippet))

    async def progress(request: Request) -> Response:
        return await stream_response(request, request.path_params["order_id"], "k")

    routes = [Route("/", page), Route("/orders/{order_id}/progress", progress)]
    app = Starlette(routes=routes, lifespan=lifespan(proxy.url, connect_timeout_seconds=0.5))
    add_error_handlers(app)
    watched = Watched(app)
    async with serving(watched) as address, chromium() as browser:
        await start("order-17", [1, 2], "open")
        tab = await browser.new_page()

        async def shown() -> Any:
            return await tab.evaluate("shown")

        async def shows(values: list[int]) -> None:
            async def does() -> bool:
                return bool(await shown() == values)

            await eventually(does, f"the page shows {values}")

        async def refuse() -> None:
            proxy.refuse()
            proxy.cut()

        await refuse()
        await tab.goto(address)
        await eventually(lambda: 503 in watched.statuses, "the first request is refused")
        assert await shown() == []
        await proxy.heal()
        await shows([1, 2])

        watched.statuses.clear()
        await refuse()
        watched.cut()
        await eventually(lambda: 503 in watched.statuses, "the page asks again, and is refused")
        await proxy.heal()
        await DBOS.send("order-17", 3)
        await shows([1, 2, 3])
        await DBOS.cancel_workflow("order-17")

        async def has_ended() -> bool:
            return bool(await tab.evaluate("made.at(-1).readyState === EventSource.CLOSED"))

        await eventually(has_ended, "the page asks no more")
        assert await shown() == [1, 2, 3]
        assert await tab.evaluate("made.filter(one => one.readyState !== EventSource.CLOSED).length") == 0
