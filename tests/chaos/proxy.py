"""A TCP proxy between one process and Postgres that can treat its connections badly.

``cut`` resets connections, ``hold`` lets nothing flow while every socket stays open (the half-open case; what was under way
is delivered late), ``refuse`` turns new connections away, ``heal`` ends both. ``orphan`` resets connections, too, but what
had been asked by them still reaches the server, some time after the client has given up and perhaps asked again.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from contextlib import suppress

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with a time of zero: closing sends RST."""


class Proxy:
    """Listens on 127.0.0.1; every connection goes on to the Unix socket of the server."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def open(self) -> None:
        """Listen, on the same port each time."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Turn new connections away until `heal`."""
        if self._server is not None:
            server, self._server = self._server, None
            server.close()

    def hold(self) -> None:
        """Let nothing flow until `heal`, not even the news that somebody has closed."""
        self._flowing.clear()

    async def heal(self) -> None:
        """Let everything flow that was held, and accept again."""
        self._flowing.set()
        await self.open()

    def cut(self, share: float = 1.0) -> int:
        """Reset that share of the connections; what they had under way is lost. Returns how many."""
        links = [link for link in self._links if random.random() < share]
        for link in links:
            link.reset()
        return len(links)

    async def orphan(self, gather_seconds: float, late_seconds: float) -> None:
        """Hold every connection, then reset its client; what it had asked meanwhile reaches the server later."""
        links = list(self._links)
        for link in links:
            link.flowing.clear()
        await asyncio.sleep(gather_seconds)
        for link in links:
            _reset(link.writers[0])
        await asyncio.sleep(late_seconds)
        for link in links:
            link.flowing.set()

    async def close(self) -> None:
        """Reset everything, and listen no more."""
        await self.refuse()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link([writer])
        self._links.add(link)
        try:
            await self._flowing.wait()
            server_reader, server_writer = await asyncio.open_unix_connection(self._target)
            link.writers.append(server_writer)
            if link.was_reset:
                return
            pumps = [
                asyncio.create_task(self._pump(link, reader, server_writer)),
                asyncio.create_task(self._pump(link, server_reader, writer)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.wait(pumps)
        except OSError:
            pass  # The server is away: the client sees its connection closed.
        finally:
            self._links.discard(link)
            link.reset()

    async def _pump(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while True:
                data = await reader.read(65536)
                await self._flowing.wait()
                await link.flowing.wait()
                if not data:
                    return
                writer.write(data)
                await writer.drain()


class _Link:
    def __init__(self, writers: list[asyncio.StreamWriter]) -> None:
        self.writers = writers
        self.was_reset = False
        self.flowing = asyncio.Event()
        self.flowing.set()

    def reset(self) -> None:
        self.was_reset = True
        for writer in self.writers:
            _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    if raw is not None and raw.family == socket.AF_INET:
        with suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
