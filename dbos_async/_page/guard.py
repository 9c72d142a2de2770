"""Who may see the page, who may act, and what a browser may do with it."""

from __future__ import annotations

import hmac
import inspect
import ipaddress
import secrets
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Allow: TypeAlias = Callable[[Request], bool | Awaitable[bool]]
"""Says whether the sender of a request may see the page."""

COOKIE: Final = "dbos_page_token"
FIELD: Final = "token"

_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers leave the origin out that is checked here
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_MARKS_OF_PROXIES: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
_SAFE: Final = ("GET", "HEAD")

NOT_ALLOWED: Final = "You may not see this page."
NOT_LOCAL: Final = (
    "This page has no check of who may see it, so it answers only a browser on its own machine: "
    "mount it with page(allow=...), or reach it through an SSH tunnel."
)
READ_ONLY: Final = "This page is read-only."
OTHER_SITE: Final = "This request does not come from the page itself: open the page again, and act there."


class SafeHeaders:
    """The outermost layer: it sets the headers of every answer. Files are kept by browsers if they ask whether they still stand."""

    def __init__(self, app: ASGIApp, cache: str = "no-store") -> None:
        self._app, self._headers = app, _HEADERS | {"Cache-Control": cache}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the page answer."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


class Guard:
    """The layer around everything but the static files: it refuses who may not see the page, or may not act."""

    def __init__(self, app: ASGIApp, allow: Allow | None, *, read_only: bool) -> None:
        self._app, self._allow, self._read_only = app, allow, read_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let the page answer it."""
        refusal = await self._refusal(Request(scope, receive)) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    async def _refusal(self, request: Request) -> Response | None:
        if self._allow is None:
            if not is_local(request):
                return PlainTextResponse(NOT_LOCAL, 403)
        elif not await _is_allowed(self._allow, request):
            return PlainTextResponse(NOT_ALLOWED, 403)
        if request.method in _SAFE:
            return None
        if self._read_only:
            return PlainTextResponse(READ_ONLY, 403)
        return None if is_from_here(request) else PlainTextResponse(OTHER_SITE, 403)


async def _is_allowed(allow: Allow, request: Request) -> bool:
    if inspect.iscoroutinefunction(allow) or inspect.iscoroutinefunction(getattr(allow, "__call__", None)):  # noqa: B004
        answer = allow(request)
    else:
        answer = await run_in_threadpool(allow, request)
    return bool(await answer if inspect.isawaitable(answer) else answer)


def is_local(request: HTTPConnection) -> bool:
    """Whether a browser on this machine asks, under a name of this machine, and no proxy in the name of another.

    The name is checked since any site can let a name of its own lead to 127.0.0.1. A proxy that tells nothing of itself may still
    be known by the old HTTP version that it speaks.
    """
    client = request.client
    if client is None or request.scope.get("http_version") == "1.0":
        return False
    if any(mark in request.headers for mark in _MARKS_OF_PROXIES):
        return False
    return is_loopback(client.host) and is_loopback(_host_of(f"//{request.headers.get('host', '')}"))


def is_loopback(host: str) -> bool:
    """Whether a name or address is always that of the own machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def is_from_here(request: HTTPConnection) -> bool:
    """Whether a browser says that a page of this very origin makes the request. No other site can set these headers."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("origin")
    if origin is None:
        return False
    place = urlsplit(origin).netloc.lower() if origin.startswith(("http://", "https://")) else ""
    names = (request.headers.get("host"), request.headers.get("x-forwarded-host"))
    return bool(place) and place in {name.lower() for name in names if name}


def token_of(request: HTTPConnection) -> str:
    """The token of this browser, or a new one."""
    token = request.cookies.get(COOKIE, "")
    return token if _is_token(token) else secrets.token_urlsafe(32)


def keep_token(request: HTTPConnection, response: Response, token: str) -> None:
    """Let the browser keep its token. Without a path the cookie belongs to the folder of the page, whatever its prefix is."""
    if request.cookies.get(COOKIE) != token:
        response.set_cookie(
            COOKIE, token, path=None, httponly=True, samesite="strict", secure=request.url.scheme == "https"
        )


def has_token(request: HTTPConnection, given: str) -> bool:
    """Whether a form carries the token of its browser."""
    kept = request.cookies.get(COOKIE, "")
    return _is_token(kept) and hmac.compare_digest(kept.encode(), given.encode())


def signature(request: HTTPConnection, text: str) -> str:
    """A mark of this browser's token on a text."""
    return hmac.new(request.cookies.get(COOKIE, "").encode(), text.encode(), "sha256").hexdigest()[:32]


def is_signed(request: HTTPConnection, text: str, by: str) -> bool:
    """Whether the text has the mark of this browser's token."""
    return _is_token(request.cookies.get(COOKIE, "")) and hmac.compare_digest(
        signature(request, text).encode(), by.encode()
    )


def _is_token(text: str) -> bool:
    return len(text) == 43 and text.isascii()


def _host_of(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""
