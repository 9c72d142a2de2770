"""A web application whose streams are read by the Durable Streams protocol, and a reader of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dbos_async import DBOS
from dbos_async.fastapi import add_error_handlers, durable_stream
from tests.support.eventually import eventually
from tests.support.web import Event, serving
from tests.support.web_app import start


def app(asked: list[str] | None = None, **options: Any) -> Starlette:
    """``asked`` gets the query of each request."""

    async def respond(request: Request) -> Response:
        if asked is not None:
            asked.append(request.url.query)
        return await durable_stream(request, request.path_params["id"], "k", **options)

    made = Starlette(routes=[Route("/{id}", respond, methods=["GET", "HEAD", "POST", "PUT", "DELETE"])])
    add_error_handlers(made)
    return made


@asynccontextmanager
async def reading(asked: list[str] | None = None, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that answers under ``/{workflow_id}``."""
    async with serving(app(asked, **options)) as address, client_of(address) as client:
        yield client
    await end_watchers()


async def end_watchers() -> None:
    """The library for events leaves one task to the loop, by which it notices that a server stops."""
    for task in asyncio.all_tasks():
        if "_shutdown_watcher" in repr(task.get_coro()):
            task.cancel()
            await asyncio.wait([task])


def client_of(address: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=address, timeout=20, trust_env=False)


def stream_headers(answer: httpx.Response) -> dict[str, str]:
    """The headers of the protocol without their prefix, and without the cursor."""
    given = {name.removeprefix("stream-"): value for name, value in answer.headers.items() if "stream-" in name}
    given.pop("cursor", None)
    return given


async def open_stream(*values: Any, workflow_id: str = "w") -> Any:
    """A workflow that has written these values and goes on."""
    handle = await start(workflow_id, list(values), "wait")

    async def waits() -> bool:
        return any(step.verb == "recv" for step in await DBOS.list_workflow_steps(workflow_id))

    await eventually(waits)
    return handle


async def say(*values: Any, workflow_id: str = "w") -> None:
    """Let the workflow write these values; ``None`` ends it."""
    for value in values:
        await DBOS.send(workflow_id, value)


def told(found: list[Event]) -> list[Any]:
    """The values of the data events, and the control events without their cursor."""
    parts: list[Any] = []
    for event in found:
        content = json.loads(event.data)
        if event.event == "control":
            content.pop("streamCursor", None)
        parts.append(content)
    return parts
