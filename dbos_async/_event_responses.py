"""The response that carries an event stream, and what becomes of its client when the server stops."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Any

import anyio
from sse_starlette import EventSourceResponse
from starlette.types import Message, Receive, Scope, Send

_log = logging.getLogger("dbos_async")

CUT_OFF_AFTER_SECONDS = 5.0
"""So long a client has to read the rest of its event stream when the server stops."""


class EventStream(EventSourceResponse):
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
