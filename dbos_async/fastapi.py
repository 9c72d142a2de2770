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

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any, TypeVar, Unpack

from sse_starlette import ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dbos_async._checks import (
    MAX_WAIT_SECONDS,
    check_callable,
    check_duration,
    check_flag,
    check_instance,
    check_key,
)
from dbos_async._database.database import Database
from dbos_async._durable_streams import DurableStream
from dbos_async._event_responses import EventStream
from dbos_async._event_streams import FollowedEvent, FollowedStream, body
from dbos_async._executor import launched
from dbos_async._health_routes import live, ready
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

App = TypeVar("App")
Lifespan = Callable[[App], AbstractAsyncContextManager[Any]]

HEARTBEAT_SECONDS = 15.0
RETRY_AFTER_SECONDS = 5

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


def add_health_routes(app: Starlette, *, prefix: str = "", client: DBOSClient | None = None) -> None:
    """Add the routes ``/livez`` and ``/readyz`` for the probes of an orchestrator, behind the ``prefix``.

    Both answer 200 or 503 within three seconds, also while the database is away, with ``{"status": …, "reasons": […]}``. The
    reasons name no host and no user.

    - ``/readyz`` is 503 while DBOS is not launched or shuts down, and when the database does not answer within two seconds, the
      schema does not fit, or the listener has no connection (with ``listen=False``: the polls have no answer).
    - ``/livez`` is 503 when the lease is lost although the database answers. In an outage it stays 200, since a restart makes
      nothing better. A blocked event loop answers neither.

    With ``client`` they are about a `DBOSClient`, which has no lease: then ``/livez`` is 200 whenever it is answered. Raises
    `InvalidArgumentError` when an argument cannot be used.

    Example:
        ```python
        app = FastAPI(lifespan=lifespan())
        add_health_routes(app)
        ```
    """
    check_instance(app, Starlette, "app")
    check_instance(prefix, str, "prefix")
    if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
        raise InvalidArgumentError(f"prefix begins with a slash and does not end with one, and is {prefix!r}.")
    if client is not None:
        check_instance(client, DBOSClient, "client")
    for path, endpoint in (("/livez", live(client)), ("/readyz", ready(client))):
        app.router.routes.append(Route(prefix + path, endpoint, methods=["GET"], include_in_schema=False))


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
    followed = (FollowedEvent if key is None else FollowedStream)(_database(client), workflow_id, name, request)
    first = await followed.first()
    if first is None:
        return Response(status_code=204)
    head = ServerSentEvent(retry=round(retry_seconds * 1000), sep="\n").encode()
    return EventStream(body(followed, head, first), ping=heartbeat_seconds, ping_message_factory=_heartbeat)


async def durable_stream(
    request: Request,
    workflow_id: str,
    key: str | Stream[Any],
    *,
    client: DBOSClient | None = None,
    shared: bool = False,
    long_poll_seconds: float = 20.0,
    event_stream_seconds: float = 60.0,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
) -> Response:
    """A stream as the Durable Streams protocol reads it, for the clients of that protocol in any language and for caches.

    Answers GET and HEAD, in JSON mode: ``?offset=`` is ``-1`` (the beginning), ``now``, or the ``Stream-Next-Offset`` of an
    answer; ``live=long-poll`` waits up to ``long_poll_seconds`` for the next value, and ``live=sse`` follows for
    ``event_stream_seconds``, with a comment every ``heartbeat_seconds``; then the client asks again. ``Stream-Closed`` tells
    the end: the stream was closed, or its workflow has ended and everything written was read. A client that was told so asks
    no more, also if a cancelled workflow is resumed.

    ``shared=True`` says that every visitor may read this: then caches may keep values for a minute, and use them for five
    more while they ask for news. Else only the visitor's browser keeps them, and it asks whether they still stand (304).

    Raises `WorkflowNotFoundError` (404 by `add_error_handlers`) when there is no such workflow, and Starlette's
    ``HTTPException`` for a query that cannot be understood (400) and for other methods (405). ``client`` reads, else the
    launched DBOS; a reader that waits holds no connection to Postgres.

    Example:
        ```python
        @app.api_route("/orders/{order_id}/tokens", methods=["GET", "HEAD"])
        async def tokens(request: Request, order_id: str) -> Response:
            return await durable_stream(request, order_id, TOKENS)
        ```
    """
    check_instance(request, Request, "request")
    workflow_id = check_key(workflow_id, "workflow_id")
    name = key_and_type(key, Stream)[0]
    shared = check_flag(shared, "shared")
    long_poll_seconds = check_duration(long_poll_seconds, "long_poll_seconds", least=0.001, most=MAX_WAIT_SECONDS)
    event_stream_seconds = check_duration(
        event_stream_seconds, "event_stream_seconds", least=0.001, most=MAX_WAIT_SECONDS
    )
    heartbeat_seconds = check_duration(heartbeat_seconds, "heartbeat_seconds", least=0.001, most=MAX_WAIT_SECONDS)
    read = DurableStream(_database(client), workflow_id, name, request, shared=shared)
    if not read.is_event_stream:
        return await read.answer(long_poll_seconds)
    sent = read.events(await read.first_of_events(), event_stream_seconds)
    headers = read.event_stream_headers
    return EventStream(sent, headers=headers, ping=heartbeat_seconds, ping_message_factory=_heartbeat)


def _database(client: DBOSClient | None) -> Database:
    if client is None:
        return launched.database()
    check_instance(client, DBOSClient, "client")
    return client._database  # pyright: ignore[reportPrivateUsage]  # of this library, too


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
