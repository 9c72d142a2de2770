"""The page, served or asked directly, with an application that has every kind of trouble."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from typing import Any, Self
from urllib.parse import urlencode, urljoin

import httpx
from starlette.applications import Starlette
from starlette.routing import Mount

from dbos_async import DBOS
from dbos_async.page import page
from tests.support.page_seed import parked, seed
from tests.support.web import serving


def mounted(prefix: str = "/dbos", **options: Any) -> Starlette:
    """The page in an application."""
    return Starlette(routes=[Mount(prefix, page(**options))])


@asynccontextmanager
async def served_page(url: str, *, is_hostile: bool = True, **options: Any) -> AsyncIterator[str]:
    """The address of the page, whose application runs what was seeded."""
    await seed(url, is_hostile=is_hostile)
    async with DBOS(url, executor_id="shop-2", application_version="2.1"), serving(mounted(**options)) as address:
        await parked()
        yield f"{address}/dbos/"


class Visitor(httpx.AsyncClient):
    """A browser without scripts: it keeps cookies, says which site a form is of, and reads what stands on a page."""

    def __init__(self, app: Any, prefix: str = "/dbos", address: str = "127.0.0.1", **options: Any) -> None:
        transport = httpx.ASGITransport(app, client=(address, 4711), **options)
        super().__init__(transport=transport, base_url=f"http://127.0.0.1{prefix}/", timeout=30)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        return self

    async def see(self, place: str) -> Page:
        """A screen."""
        return Page(await self.get(place))

    async def submit(self, page: Page, button: str, nth: int = 0, **changes: Any) -> Page:
        """Press a button of a page, after some fields were changed, and follow where that leads."""
        forms = [(form, one) for form in page.forms for one in form.buttons if one["text"].startswith(button)]
        assert forms, (button, [one["text"] for form in page.forms for one in form.buttons])
        form, pressed = forms[nth]
        fields = [(name, value) for name, value in form.fields if name not in changes]
        for name, value in changes.items():
            fields += [(name, one) for one in (value if isinstance(value, list) else [value])]
        if pressed["name"]:
            fields.append((pressed["name"], pressed["value"]))
        return await self.post_form(urljoin(str(page.url), form.action), fields)

    async def post_form(
        self, url: str, fields: list[tuple[str, str]], headers: Mapping[str, str] | None = None
    ) -> Page:
        """Post a form as a browser does, and follow the redirect."""
        told = {"content-type": "application/x-www-form-urlencoded", "origin": "http://127.0.0.1"} | dict(headers or {})
        answer = await self.post(url, content=urlencode(fields), headers=told)
        if answer.status_code == 303:
            answer = await self.get(urljoin(str(answer.url), answer.headers["location"]))
        return Page(answer)


class _Form:
    def __init__(self, action: str) -> None:
        self.action = action
        self.fields: list[tuple[str, str]] = []
        self.buttons: list[dict[str, str]] = []


class Page(HTMLParser):
    """What stands on a page: its words, links and forms."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__()
        self.status, self.source, self.url, self.headers = answer.status_code, answer.text, answer.url, answer.headers
        self.links: list[str] = []
        self.forms: list[_Form] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._texts: list[str] = []
        self._form: _Form | None = None
        self._button: dict[str, str] | None = None
        self.feed(answer.text)
        self.text = re.sub(r"\s+", " ", " ".join(self._texts))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        elif tag == "form":
            self._form = _Form(str(given.get("action")))
            self.forms.append(self._form)
        elif tag in ("input", "textarea") and self._form is not None and given.get("name"):
            kind = given.get("type")
            if kind not in ("checkbox", "radio") or "checked" in given:
                self._form.fields.append((str(given["name"]), given.get("value") or ""))
        elif tag == "button" and self._form is not None:
            self._button = {"name": given.get("name") or "", "value": given.get("value") or "", "text": ""}
            self._form.buttons.append(self._button)

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._form = None
        elif tag == "button":
            self._button = None

    def handle_data(self, data: str) -> None:
        self._texts.append(data)
        if self._button is not None:
            self._button["text"] += data
