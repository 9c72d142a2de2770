"""FastAPI and Starlette: launched and drained with the application, errors as HTTP answers, streams as live pages.

    app = FastAPI(lifespan=lifespan())
    add_error_handlers(app)

    @app.get("/orders/{order_id}/progress")
    async def progress(request: Request, order_id: str) -> Response:
        return await stream_response(request, order_id, "progress")

Ids in URLs are no secrets: check that this user may read this workflow before you answer. And bound what a request may carry
before anything parses it, with Starlette's own middleware (FastAPI's ``max_body_size=`` is the same one):

    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=16_384)  # else 413
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any, TypeVar, Unpack

import anyio
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from dbos_async._checks import MAX_WAIT_SECONDS, check_callable, check_duration, check_instance, check_key
from dbos_async._event_streams import FollowedEvent, FollowedStream, body
from dbos_async._executor import launched
from dbos_async._lifecycle import settings
from dbos_async.client import DBOSClient
from dbos_async.dbos import DBOS
from dbos_async.errors import (
    AskTimeoutError,
    DatabaseUnavailableError,
    DBOSError,
    InvalidAnswerError,
    InvalidArgumentError,
    InvalidCallError,
    InvalidEventValueError,
    InvalidStreamValueError,
    InvalidValueError,
    MessageNotFoundError,
    NotAnsweredError,
    RedeliveryError,
    RefusedError,
    ResultTimeoutError,
    StreamTrimmedError,
    WorkflowCancelledError,
    WorkflowConflictError,
    WorkflowNotEndedError,
    WorkflowNotFoundError,
    WorkflowParkedError,
)
from dbos_async.keys import Event, Stream, key_and_type

_log = logging.getLogger("dbos_async")

App = TypeVar("App")
Lifespan = Callable[[App], AbstractAsyncContextManager[Any]]

HEARTBEAT_SECONDS = 15.0
RETRY_AFTER_SECONDS = 5
CUT_OFF_AFTER_SECONDS = 5.0
"""So long a client has to read the rest of its event stream when the server stops."""

STATUS_CODES: dict[type[DBOSError], int] = {
    WorkflowNotFoundError: 404,
    MessageNotFoundError: 404,
    WorkflowConflictError: 409,
    WorkflowNotEndedError: 409,
    WorkflowCancelledError: 409,
    WorkflowParkedError: 409,
    NotAnsweredError: 409,
    RefusedError: 409,
    RedeliveryError: 409,
    StreamTrimmedError: 410,
    InvalidArgumentError: 422,
    InvalidValueError: 422,
    AskTimeoutError: 504,
    DatabaseUnavailableError: 503,
    ResultTimeoutError: 504,
}


Options = settings.Options


@settings.takes_options
def lifespan(
    url: str | None = None, *, inside: Lifespan[App] | None = None, **options: Unpack[Options]
) -> Lifespan[App]:
    """A lifespan that launches `DBOS` with the application and drains it at the end; URL and options are those of `DBOS`.

    ``inside`` is a lifespan of your own. It begins after DBOS is launched and ends before DBOS is drained, and the application
    gets its state. The server handles signals, and it ends the requests that are under way before the lifespan ends. Raises
    `InvalidArgumentError` for an option that cannot be used, and what `DBOS` raises when the application starts.

    Example:
        ```python
        app = FastAPI(lifespan=lifespan("postgresql://localhost/shop", max_running=100))
        ```
    """

    settings.Settings(url, **options)
    if inside is not None:
        check_callable(inside, "inside")

    @asynccontextmanager
    async def launch_around(app: App) -> AsyncGenerator[Any, None]:
        await DBOS.launch(url, **options)
        try:
            async with _around(inside, app) as state:
                yield state
        finally:
            await DBOS.shutdown()

    return launch_around


def client_lifespan(client: DBOSClient, *, inside: Lifespan[App] | None = None) -> Lifespan[App]:
    """A lifespan that opens a `DBOSClient` with the application and closes it at the end, for servers that run no workflows.

    ``inside`` is a lifespan of your own, as in `lifespan`: the client is open while it lasts. Raises what opening a `DBOSClient`
    raises, when the application starts, and `InvalidArgumentError` for arguments that are none.

    Example:
        ```python
        client = DBOSClient()  # $DBOS_DATABASE_URL
        app = FastAPI(lifespan=client_lifespan(client))

        @app.get("/orders/{order_id}/progress")
        async def progress(request: Request, order_id: str) -> Response:
            return await stream_response(request, order_id, "progress", client=client)
        ```
    """

    check_instance(client, DBOSClient, "client")
    if inside is not None:
        check_callable(inside, "inside")

    @asynccontextmanager
    async def open_around(app: App) -> AsyncGenerator[Any, None]:
        async with client, _around(inside, app) as state:
            yield state

    return open_around


def _around(inside: Lifespan[App] | None, app: App) -> AbstractAsyncContextManager[Any]:
    return nullcontext() if inside is None else inside(app)


def add_error_handlers(app: Starlette) -> None:
    """Answer errors of dbos_async that a handler does not catch by their HTTP status, with ``{"detail": …}`` as FastAPI does.

    404 for an unknown workflow or message; 409 for an id of another function, and for a workflow that stands otherwise than the
    call needs, or does not answer; 410 for values of a stream that were trimmed, with ``first``, the first offset that is there;
    504 for an answer that does not come in time; 422 for ids, arguments and messages that cannot be used, with pydantic's details;
    503 with ``Retry-After`` while the database is away. Every other error stays a 500.
    """
    check_instance(app, Starlette, "app")
    for kind in STATUS_CODES:
        app.add_exception_handler(kind, _answer)


class _EventStream(EventSourceResponse):
    """Ends the response in good order when the server stops, so that no error is logged and browsers reconnect.

    A client that reads no more does not keep the server from stopping: it is cut off after a while.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_open = False

        async def watched_send(message: Message) -> None:
            nonlocal is_open
            await send(message)
            is_open = message["type"] == "http.response.start" or message.get("more_body", False)

        await super().__call__(scope, receive, watched_send)
        if is_open:
            transport = _transport(scope, receive)
            if transport is not None:
                asyncio.get_running_loop().call_later(CUT_OFF_AFTER_SECONDS, _cut_off, transport)
            with anyio.move_on_after(CUT_OFF_AFTER_SECONDS + 1):
                await send({"type": "http.response.body", "body": b"", "more_body": False})


def _transport(scope: Scope, receive: Receive) -> asyncio.Transport | None:
    """The connection of this request, if uvicorn serves it. ASGI has no way to cut it off.

    uvicorn is asked by the handler of its signals, since middleware may have put another ``receive`` in the place of its own.
    """
    cycles: list[Any] = [getattr(receive, "__self__", None)]
    server: Any = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    cycles += [
        getattr(each, "cycle", None) for each in getattr(getattr(server, "server_state", None), "connections", ())
    ]
    for cycle in cycles:
        served: Any = getattr(cycle, "scope", None)
        if served is scope or (isinstance(served, dict) and served.get("state", served) is scope.get("state")):
            transport = getattr(cycle, "transport", None)
            return transport if isinstance(transport, asyncio.Transport) or hasattr(transport, "abort") else None
    return None


def _cut_off(transport: asyncio.Transport) -> None:
    if transport.get_write_buffer_size() > 0:
        _log.warning("A client of an event stream has stopped reading and was cut off, since the server stops.")
    transport.abort()


async def stream_response(
    request: Request,
    workflow_id: str,
    key: str | Stream[Any] | None = None,
    *,
    event: str | Event[Any] | None = None,
    client: DBOSClient | None = None,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
    retry_seconds: float = 1.0,
) -> Response:
    """Server-sent events of a stream: each value is a message, its id is its offset and its data is the JSON that was written.

    A browser's ``EventSource`` that reconnects goes on exactly at the next value (``Last-Event-ID``); ``?offset=`` is where
    a new one begins (default: 0). The stream ends with an event ``end`` or, when its workflow failed or was cancelled,
    ``failed``, with ``{"status": …}``: CLOSED, SUCCESS, ERROR, CANCELLED, or DELETED. Then a page closes its
    ``EventSource``. ``failed`` with ``{"status": "TRIMMED", "first": …}`` says that values were trimmed before this client was told
    of them; a request that begins at such a value is answered with 410.

    A page that asks again after the end is answered with 204, and its browser stops asking. An event ``parked`` with
    ``{"status": …}`` says that the workflow is parked. The stream goes on once somebody has resumed it.

    With ``event`` in the place of ``key`` each message is a version of that event, and its id is the version: the current one
    first, and then later ones, of which some may be skipped. ``?after=`` is a version that a new page has seen (default: 0).

    In between a comment comes every ``heartbeat_seconds``, and browsers reconnect after ``retry_seconds``. An answer that
    has begun outlasts any outage of the database. Raises `WorkflowNotFoundError` (404 by `add_error_handlers`) when there is
    no such workflow. ``client`` reads, else the launched DBOS; however many read, they share its one listening connection
    and hold none while they wait.

    Example:
        ```python
        @app.get("/orders/{order_id}/progress")
        async def progress(request: Request, order_id: str) -> Response:
            return await stream_response(request, order_id, PROGRESS)

        @app.get("/orders/{order_id}/status")
        async def status(request: Request, order_id: str) -> Response:
            return await stream_response(request, order_id, event=STATUS)
        ```
    """
    check_instance(request, Request, "request")
    workflow_id = check_key(workflow_id, "workflow_id")
    if (key is None) == (event is None):
        raise InvalidArgumentError(
            "stream_response tells of one thing: name the key of a stream, or event=, the key of an event."
        )
    name = key_and_type(event, Event)[0] if key is None else key_and_type(key, Stream)[0]
    heartbeat_seconds = check_duration(heartbeat_seconds, "heartbeat_seconds", least=0.001, most=MAX_WAIT_SECONDS)
    retry_seconds = check_duration(retry_seconds, "retry_seconds", most=MAX_WAIT_SECONDS)
    if client is not None:
        check_instance(client, DBOSClient, "client")
    database = launched.database() if client is None else client._database  # pyright: ignore[reportPrivateUsage]  # of this library, too
    followed = (FollowedEvent if key is None else FollowedStream)(database, workflow_id, name, request)
    first = await followed.first()
    if first is None:
        return Response(status_code=204)
    head = ServerSentEvent(retry=round(retry_seconds * 1000), sep="\n").encode()
    return _EventStream(body(followed, head, first), ping=heartbeat_seconds, ping_message_factory=_heartbeat)


def _heartbeat() -> ServerSentEvent:
    return ServerSentEvent(comment="", sep="\n")


async def _answer(_request: Request, error: Exception) -> Response:
    if isinstance(error, (InvalidStreamValueError, InvalidEventValueError, InvalidAnswerError, InvalidCallError)):
        raise error  # a stored value does not fit the reader's type, or the program calls a function wrongly: no client's fault
    code = next(STATUS_CODES[kind] for kind in type(error).__mro__ if kind in STATUS_CODES)
    content: dict[str, Any] = {"detail": str(error)}
    headers: Mapping[str, str] | None = None
    if isinstance(error, InvalidValueError):
        # The input itself is left out: it may be long, and may come from somewhere else.
        kept = ("type", "loc", "msg", "ctx")
        details = [{name: one[name] for name in kept if name in one} for one in error.details]
        content["detail"] = details or [{"type": "invalid_value", "loc": [], "msg": str(error)}]
    elif isinstance(error, StreamTrimmedError):
        content["first"] = error.first
    elif isinstance(error, DatabaseUnavailableError):
        # The reason names hosts, which do not concern the client.
        content = {
            "detail": "The database is unavailable at the moment: call again.",
            "may_have_committed": error.may_have_committed,
        }
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return JSONResponse(content, status_code=code, headers=headers)
