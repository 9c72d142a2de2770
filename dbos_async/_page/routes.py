"""The routes of the page, and how errors are answered. All lie side by side, so that relative links work under any prefix."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from dbos_async._page import actions, bulk, downloads, lists, messages, now, streams, workflow
from dbos_async._page.answers import FOLDER, say
from dbos_async._page.guard import Allow, Guard, SafeHeaders
from dbos_async._page.site import Site
from dbos_async.errors import (
    DatabaseUnavailableError,
    DBOSError,
    InvalidArgumentError,
    LaunchError,
    MessageNotFoundError,
    StreamTrimmedError,
    WorkflowNotFoundError,
)

View: TypeAlias = Callable[[Request], Awaitable[Response]]

ANSWER_WITHIN_SECONDS: Final = 5.0
"""So long a screen waits for the database before it says that it is away."""

LOOK_AGAIN_SECONDS: Final = 3

SCREENS: Final[dict[str, View]] = {
    "/": now.now,
    "/counts": now.counts,
    "/workflows": lists.workflows,
    "/count": lists.count,
    "/workflow": workflow.workflow,
    "/messages": messages.messages,
    "/payload": messages.payload,
    "/stream": streams.stream,
    "/value": downloads.value,
}
ACTIONS: Final[dict[str, View]] = {
    "/act": bulk.act,
    "/send": actions.send,
    "/cancel": actions.cancel,
    "/resume": actions.resume,
    "/fork": actions.fork,
    "/delete": actions.delete,
    "/redeliver": actions.redeliver,
}


def application(site: Site, allow: Allow | None) -> Starlette:
    """The application that shows a site."""
    routes: list[BaseRoute] = [Route(path, _in_time(view)) for path, view in SCREENS.items()]
    routes.append(Route("/live", streams.live))
    if not site.read_only:
        routes += [Route(path, view, methods=["POST"]) for path, view in ACTIONS.items()]
    guard = Middleware(Guard, allow=allow, read_only=site.read_only)
    made = Starlette(
        routes=[
            Mount(
                "/static", StaticFiles(directory=FOLDER / "static"), middleware=[Middleware(SafeHeaders, "no-cache")]
            ),
            Mount("", routes=routes, middleware=[guard]),
        ],
        middleware=[Middleware(SafeHeaders)],
        exception_handlers={DBOSError: _answer, HTTPException: _answer_http},
    )
    made.state.site = site
    return made


def _in_time(view: View) -> View:
    async def answer(request: Request) -> Response:
        try:
            async with asyncio.timeout(ANSWER_WITHIN_SECONDS):
                return await view(request)
        except TimeoutError:
            return _away(request)

    return answer


def _away(request: Request) -> Response:
    """Say so, and let the browser look again, also without a script."""
    answer = say(
        request, 503, "The database is away", "The database does not answer. This page goes on when it is back."
    )
    answer.headers["Refresh"] = str(LOOK_AGAIN_SECONDS)
    return answer


async def _answer(request: Request, error: Exception) -> Response:
    if isinstance(error, DatabaseUnavailableError):
        if request.method == "GET":
            return _away(request)
        done = "It may have been done" if error.may_have_committed else "Nothing was done"
        return say(
            request,
            503,
            "The database is away",
            f"The database does not answer. {done}: look again before you repeat it.",
        )
    if isinstance(error, LaunchError):
        return say(request, 503, "DBOS is not launched", str(error))
    if isinstance(error, (WorkflowNotFoundError, MessageNotFoundError)):
        return say(request, 404, "Not found", str(error))
    if isinstance(error, StreamTrimmedError):
        return say(request, 410, "Trimmed", str(error))
    code = 422 if isinstance(error, InvalidArgumentError) else 409
    return say(request, code, "That is not possible", str(error))


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentences = {404: "There is no such screen.", 405: "This address takes no such request."}
    told = sentences.get(error.status_code, error.detail)
    return say(request, error.status_code, "Not found" if error.status_code == 404 else "That is not possible", told)
