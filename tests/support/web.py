"""A real uvicorn in the test's own loop, and what a browser's EventSource reads from it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn

from tests.support.eventually import eventually


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """Serve an ASGI application on a free port of 127.0.0.1; the address of it. Stops with the block."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none", lifespan="on"))
        served = asyncio.create_task(server.serve(sockets=[place]))
        try:
            await eventually(lambda: server.started or served.done(), "the server has started")
            assert not served.done(), "the server did not start"
            yield f"http://127.0.0.1:{place.getsockname()[1]}"
        finally:
            server.should_exit = True
            async with asyncio.timeout(20):
                await served


@dataclass
class Event:
    """One server-sent event, as an EventSource dispatches it."""

    event: str = "message"
    id: str | None = None
    data: str = ""


@dataclass
class Source:
    """What has come so far besides the events."""

    response: httpx.Response
    comments: int = 0
    retry: int | None = None
    chunks: list[bytes] = field(default_factory=list)

    async def __aiter__(self) -> AsyncIterator[Event]:
        lines: list[str] = []
        rest = b""
        async for chunk in self.response.aiter_raw():
            self.chunks.append(chunk)
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                if line:
                    lines.append(line.decode())
                    continue
                event = self._event(lines)
                lines = []
                if event is not None:
                    yield event

    def _event(self, lines: list[str]) -> Event | None:
        event, data = Event(), []
        for line in lines:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "":
                self.comments += 1
            elif name == "data":
                data.append(value)
            elif name == "event":
                event.event = value
            elif name == "id":
                event.id = value
            elif name == "retry":
                self.retry = int(value)
        event.data = "\n".join(data)
        return event if data else None


@asynccontextmanager
async def source(url: str, headers: Mapping[str, str] | None = None, **options: Any) -> AsyncIterator[Source]:
    """Open an event stream, as an EventSource does."""
    async with (
        httpx.AsyncClient(timeout=20, trust_env=False) as client,
        client.stream("GET", url, headers=headers, **options) as response,
    ):
        assert response.status_code == 200, (response.status_code, await response.aread())
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Source(response)


async def events(url: str, headers: Mapping[str, str] | None = None, **options: Any) -> list[Event]:
    """Every event until the server ends the stream."""
    async with source(url, headers, **options) as stream:
        return [event async for event in stream]
