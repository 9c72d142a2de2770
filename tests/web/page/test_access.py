"""Who may see the page and who may act, and what its answers let a browser do."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest
from starlette.requests import Request

from dbos_async import DBOS
from dbos_async._page.guard import is_loopback
from dbos_async._page.routes import ACTIONS, SCREENS
from dbos_async.page import page
from tests.support.page_app import Visitor, mounted

PLACES = [*[path.removeprefix("/") for path in SCREENS], "live", "nowhere", "static/page.css", "static/nothing"]


async def test_only_a_browser_on_this_machine_sees_a_page_without_a_check(dbos: DBOS) -> None:
    async with Visitor(mounted()) as near, Visitor(mounted(), address="192.0.2.7") as far:
        assert (await near.get("")).status_code == 200
        assert (await near.get("", headers={"host": "localhost:8000"})).status_code == 200
        for place in PLACES:
            if not place.startswith("static/"):
                answer = await far.get(place)
                assert (answer.status_code, "allow=" in answer.text) == (403, True), place
        assert (await far.get("static/page.css")).status_code == 200
        for headers in (
            {"host": "evil.example"},  # a name that leads to 127.0.0.1
            {"host": "10.0.0.1"},
            {"host": ""},
            {"x-forwarded-for": "127.0.0.1"},
            {"forwarded": "for=192.0.2.7"},
            {"via": "1.1 proxy"},
        ):
            assert (await near.get("", headers=headers)).status_code == 403, headers


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        ("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("localhost", True),
        ("app.localhost", True), ("0.0.0.0", False), ("10.0.0.1", False), ("localhost.evil.example", False), ("", False),
        ("127.0.0.1.evil.example", False), ("::ffff:10.0.0.1", False), ("1", False),
    ],
)  # fmt: skip
def test_addresses_and_names_of_the_own_machine(host: str, is_own: bool) -> None:
    assert is_loopback(host) is is_own


async def is_ada(request: Request) -> bool:
    return request.headers.get("x-user") == "ada"


def is_ada_in_a_thread(request: Request) -> bool:
    return request.headers.get("x-user") == "ada"


def gives_an_awaitable(request: Request) -> Awaitable[bool]:
    return is_ada(request)


class Check:
    async def __call__(self, request: Request) -> bool:
        return await is_ada(request)


@pytest.mark.parametrize(
    "allow",
    [is_ada, is_ada_in_a_thread, Check(), gives_an_awaitable],
    ids=["async", "def", "object", "awaitable"],
)
async def test_the_check_is_asked_at_each_request(dbos: DBOS, allow: Any) -> None:
    async with Visitor(mounted(allow=allow), address="192.0.2.7") as visitor:
        for place in PLACES:
            refused = await visitor.get(place)
            if place.startswith("static/"):
                assert refused.status_code in (200, 404)
            else:
                assert refused.status_code == 403, place
                assert (await visitor.get(place, headers={"x-user": "ada"})).status_code != 403, place
        for path in ACTIONS:
            assert (await visitor.post(path.removeprefix("/"))).status_code == 403


async def test_a_check_that_fails_shows_nothing(dbos: DBOS) -> None:
    async def fails(request: Request) -> bool:
        raise OSError("the sessions are away")

    async with Visitor(mounted(allow=fails), raise_app_exceptions=False) as visitor:
        answer = await visitor.get("")
        assert (answer.status_code, "Nothing needs you" in answer.text) == (500, False)


async def test_every_answer_has_the_headers_of_safety(visitor: Visitor) -> None:
    answers = [await visitor.get(place) for place in PLACES]
    answers += [await visitor.post(path.removeprefix("/")) for path in ACTIONS]
    answers.append(await visitor.get("", headers={"x-forwarded-for": "192.0.2.7"}))
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
        assert "form-action 'self'; frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == ("no-cache" if str(answer.url).endswith("page.css") else "no-store")


async def test_nothing_of_a_screen_needs_scripts_or_styles_in_line(seeded: Visitor) -> None:
    for place in ("", "workflows", "workflow?id=order-0001", "messages", "stream?id=agent-ada&key=tokens", "counts"):
        screen = await seeded.see(place)
        assert screen.status == 200
        for tag, given in screen.tags:
            assert tag != "style"
            assert tag != "script" or str(given["src"]).startswith("static/")
            assert not [name for name in given if name == "style" or name.startswith(("on", "hx-on"))], (tag, given)
            for name in ("src", "href", "action"):
                assert not str(given.get(name) or "").startswith(("http:", "https:", "//", "/", "javascript:")), given


async def test_an_action_needs_the_token_of_its_browser(visitor: Visitor) -> None:
    handle = await waiting()
    place = f"cancel?id={handle.workflow_id}"
    fields = [("confirmed", "yes")]
    assert (await visitor.post_form(place, fields)).status == 403, "no cookie, no field"
    token = await token_of(visitor)
    assert (await visitor.post_form(place, fields)).status == 403, "no field"
    assert (await visitor.post_form(place, [*fields, ("token", token[:-1] + "?")])).status == 403
    assert (await visitor.post_form(place, [*fields, ("token", "")])).status == 403
    visitor.cookies.clear()
    assert (await visitor.post_form(place, [*fields, ("token", token)])).status == 403, "no cookie"
    assert (await handle.get_status()).status == "PENDING"
    token = await token_of(visitor)
    assert (await visitor.post_form(place, [*fields, ("token", token)])).status == 200
    assert (await handle.get_status()).status == "CANCELLED"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"}, {"origin": "null"}, {"origin": ""}, {"origin": "http://127.0.0.1:81"},
        {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"sec-fetch-site": "none"},
    ],
)  # fmt: skip
async def test_another_site_cannot_act_even_with_the_token(visitor: Visitor, headers: dict[str, str]) -> None:
    handle = await waiting()
    token = await token_of(visitor)
    fields = [("confirmed", "yes"), ("token", token)]
    assert (await visitor.post_form(f"cancel?id={handle.workflow_id}", fields, headers)).status == 403
    assert (await handle.get_status()).status == "PENDING"


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "same-origin", "origin": "https://shop.example"},  # behind a proxy that changes the name
        {"origin": "https://shop.example", "x-forwarded-host": "shop.example"},
    ],
)
async def test_a_proxy_that_names_another_host_is_understood(dbos: DBOS, headers: dict[str, str]) -> None:
    async with Visitor(mounted(allow=lambda request: True)) as visitor:
        handle = await waiting()
        fields = [("confirmed", "yes"), ("token", await token_of(visitor))]
        assert (await visitor.post_form(f"cancel?id={handle.workflow_id}", fields, headers)).status == 200
        assert (await handle.get_status()).status == "CANCELLED"


async def test_the_cookie_is_for_no_script_and_no_other_site(visitor: Visitor) -> None:
    cookie = (await visitor.get("workflows")).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Path" not in cookie
    assert "set-cookie" not in (await visitor.get("workflows")).headers


async def test_a_read_only_page_has_no_actions_and_refuses_them(dbos: DBOS) -> None:
    handle = await waiting()
    async with Visitor(mounted(read_only=True)) as visitor:
        for place in ("", "workflows", f"workflow?id={handle.workflow_id}", "messages"):
            screen = await visitor.see(place)
            assert screen.status == 200
            assert "read-only" in screen.text
            assert not [given for tag, given in screen.tags if given.get("method") == "post"]
        token = await token_of(visitor)
        for path in ACTIONS:
            answer = await visitor.post_form(
                f"{path.removeprefix('/')}?id={handle.workflow_id}", [("confirmed", "yes"), ("token", token)]
            )
            assert (answer.status, answer.text) == (403, "This page is read-only.")
        assert (await handle.get_status()).status == "PENDING"


async def test_actions_are_no_links(visitor: Visitor) -> None:
    for path in ACTIONS:
        assert (await visitor.get(path.removeprefix("/"))).status_code == 405


@pytest.mark.parametrize("options", [{"client": "x"}, {"allow": True}, {"read_only": "no"}])
def test_bad_arguments_of_the_page_are_refused(options: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        page(**options)


async def token_of(visitor: Visitor) -> str:
    await visitor.get("workflows")
    return str(visitor.cookies["dbos_page_token"])


@DBOS.workflow(name="page waits")
async def waits() -> Any:
    return await DBOS.recv(timeout_seconds=None)


async def waiting() -> Any:
    return await DBOS.start_workflow(waits)
