"""Clients of event streams that read no more, when the server stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount

from dbos_async import DBOSClient, _event_responses
from tests.support.eventually import eventually
from tests.support.web import serving, source
from tests.support.web_app import application, bulk, start

CUT_OFF_AFTER_SECONDS = 1.0


def plain(url: str) -> Any:
    return application(url)


def behind_middleware(url: str) -> Any:
    app = application(url)

    async def pass_on(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    return app


def mounted(url: str) -> Any:
    inner = application(url)
    outer = application(url)
    outer.router.routes.insert(0, Mount("/inner", app=inner))
    return outer


def reader_of(address: str, path: str) -> socket.socket:
    """A client that has asked for a stream and has read the first bytes of it."""
    host, port = address.removeprefix("http://").split(":")
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.connect((host, int(port)))
    reader.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return reader


def is_stuck(readers: int = 1) -> bool:
    """Whether the server has written more than so many readers take."""
    server: Any = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    stuck: int = sum(each.transport.get_write_buffer_size() > 0 for each in server.server_state.connections)
    return stuck >= readers


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_event_responses, "CUT_OFF_AFTER_SECONDS", CUT_OFF_AFTER_SECONDS)


@pytest.mark.parametrize(
    ("make", "path"),
    [(plain, "/w/stream"), (behind_middleware, "/w/stream"), (mounted, "/inner/w/stream")],
    ids=["plain", "behind middleware", "mounted"],
)
async def test_w5_readers_that_have_stopped_reading_keep_no_server_from_ending(
    database_url: str, caplog: pytest.LogCaptureFixture, make: Callable[[str], Any], path: str
) -> None:
    with contextlib.ExitStack() as readers, caplog.at_level(logging.WARNING):
        async with serving(make(database_url)) as address:
            await start("w", 120, workflow=bulk)
            for _ in range(3):
                reader = readers.enter_context(reader_of(address, path))
                assert await asyncio.to_thread(reader.recv, 12) == b"HTTP/1.1 200"
            await eventually(lambda: is_stuck(3), "the server cannot write any more")
            began = time.monotonic()
        # The server has ended, and the readers are still there.
        assert time.monotonic() - began < 10
    said = [record.getMessage() for record in caplog.records if record.name == "dbos_async"]
    assert said == ["A client of an event stream has stopped reading and was cut off, since the server stops."] * 3


async def test_w5_a_slow_reader_gets_what_was_sent_and_the_end_in_good_order(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def read_all(reader: socket.socket) -> bytes:
        await asyncio.sleep(0.5)  # slow, and yet no more so than a server waits for
        last = b""
        while piece := await asyncio.to_thread(reader.recv, 1 << 20):
            last = (last + piece)[-5:]
        return last

    with contextlib.ExitStack() as readers, caplog.at_level(logging.WARNING):
        async with serving(plain(database_url)) as address:
            await start("w", 120, workflow=bulk)
            reader = readers.enter_context(reader_of(address, "/w/stream"))
            await eventually(is_stuck, "the server cannot write any more")
            reading = asyncio.create_task(read_all(reader))
        assert await reading == b"0\r\n\r\n", "the last chunk of an answer that is whole"
    assert not [record for record in caplog.records if record.name == "dbos_async"]


async def test_w5_a_stream_whose_client_was_closed_ends_in_good_order(database_url: str) -> None:
    async with DBOSClient(database_url) as client:
        app = application(database_url, client=client)
        async with serving(app) as address:
            await start("w", ["one"], "wait")
            async with source(f"{address}/w/stream") as stream:
                found = aiter(stream)
                assert (await anext(found)).data == '"one"'
                await client.__aexit__(None, None, None)
                assert [event async for event in found] == []
