"""A page that shows an event, in a real browser whose connection is cut off again and again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from dbos_async import DBOS, SetWorkflowID
from dbos_async.fastapi import add_error_handlers, lifespan, stream_response
from tests.support.eventually import eventually
from tests.support.sites import CHROMIUM, chromium
from tests.support.web import serving

pytestmark = [
    pytest.mark.browser,
    pytest.mark.newest_only,  # what a page shows does not depend on the server's version
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
]

PAGE = """<!doctype html><script>
const shown = [], ended = [];
const source = new EventSource("/status");
source.onmessage = (message) => shown.push([Number(message.lastEventId), JSON.parse(message.data)]);
for (const kind of ["end", "failed"])
  source.addEventListener(kind, (message) => { ended.push(JSON.parse(message.data).status); source.close(); });
</script>"""


@DBOS.workflow(name="browser status")
async def says() -> None:
    while (said := await DBOS.recv(timeout_seconds=None)) is not None:
        await DBOS.set_event("status", said)


class Severed:
    """An application whose answers can be cut off, as by a proxy that is restarted."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._answers: set[asyncio.Task[None]] = set()
        self.count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == "/":
            await self._app(scope, receive, send)
            return
        self.count += 1
        answer = asyncio.create_task(self._app(scope, receive, send))
        self._answers.add(answer)
        await asyncio.wait([answer])
        self._answers.discard(answer)

    def cut(self) -> None:
        """Cut off every answer that is under way."""
        for answer in self._answers:
            answer.cancel()


async def test_c3_a_page_shows_each_version_once_and_the_last_one_however_often_it_is_cut_off(
    database_url: str,
) -> None:
    async def page(_: Request) -> Response:
        return HTMLResponse(PAGE)

    async def status(request: Request) -> Response:
        return await stream_response(request, "w", event="status", retry_seconds=0.05)

    made = Starlette(routes=[Route("/", page), Route("/status", status)], lifespan=lifespan(database_url))
    add_error_handlers(made)
    app = Severed(made)
    async with serving(app) as site, chromium() as browser:
        with SetWorkflowID("w"):
            handle = await DBOS.start_workflow(says)
        view = await browser.new_page()
        await view.goto(site)

        async def shows(value: int) -> bool:
            shown = await view.evaluate("shown")
            return bool(shown) and bool(shown[-1][1] == value)

        for n in range(12):
            if n % 3 == 1:
                before = app.count
                app.cut()
                if n % 2:
                    await eventually(lambda least=before: app.count > least, "the browser has come again")  # type: ignore[misc]  # bound now
            await DBOS.send("w", n)
            await eventually(lambda value=n: shows(value), "the page shows it")  # type: ignore[misc]  # as above
        await DBOS.send("w", None)
        await handle.get_result()
        await eventually(lambda: view.evaluate("ended.length"), "the page was told of the end")
        shown = await view.evaluate("shown")
        assert await view.evaluate("ended") == ["SUCCESS"]
    assert [value for _, value in shown] == list(range(12))
    assert [version for version, _ in shown] == sorted({version for version, _ in shown})
    assert app.count >= 3
