"""A TCP proxy in front of Postgres that can treat its connections as bad networks do.

| method     | established connections                                     | new connections           |
|------------|-------------------------------------------------------------|---------------------------|
| ``cut``    | are reset on both sides; what was under way is lost         | work                      |
| ``hold``   | stay open, nothing flows; ``heal`` delivers it late         | are accepted and held     |
| ``freeze`` | stay open and swallow everything, for ever                  | do the same until `heal`  |
| ``mute``   | lose every answer once the client has sent a certain text   | the same until ``heal``   |
| ``orphan`` | the client is reset, what it had sent arrives later         | work                      |
| ``refuse`` | work                                                        | are refused until `heal`  |
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit, urlunsplit

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with a time of zero: closing the socket sends RST."""


class Proxy:
    """Forwards to the database of a URL; ``url`` leads through the proxy, which listens on ``host`` (an address and a port)."""

    def __init__(self, url: str, *, address: str = "127.0.0.1", port: int = 0) -> None:
        self._address, self._port = address, port
        self._parts = urlsplit(url)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._is_frozen = False
        self._marker: bytes | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.accepted = 0
        """How many connections it has accepted."""

    @property
    def host(self) -> str:
        return f"{self._address}:{self._port}"

    @property
    def url(self) -> str:
        user, at, _ = self._parts.netloc.rpartition("@")
        return urlunsplit(("postgresql", f"{user}{at}{self.host}", self._parts.path, "", ""))

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Listen, on the same port each time."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, self._address, self._port)
            self._port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Reset every connection, and stop listening."""
        self.refuse()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self, share: float = 1.0) -> None:
        """Reset that share of the connections, chosen at random."""
        for link in list(self._links):
            if random.random() < share:
                link.reset()

    def hold(self) -> None:
        """Let nothing flow until `heal`, not even the news that one side has closed."""
        self._flowing.clear()

    def freeze(self) -> None:
        """Every connection, also a new one, goes dead without a word."""
        self._is_frozen = True
        for link in self._links:
            link.is_dead = True

    def mute(self, marker: bytes) -> None:
        """Drop the server's answers on each connection on which the client sends this text, from then on."""
        self._marker = marker

    def refuse(self) -> None:
        """Refuse new connections."""
        if self._server is not None:
            server, self._server = self._server, None
            server.close()

    async def heal(self) -> None:
        """Deliver what was held, and let new connections work. A connection that was frozen stays dead."""
        self._is_frozen, self._marker = False, None
        self._flowing.set()
        await self.open()

    async def orphan(self, gather_seconds: float, late_seconds: float) -> None:
        """Hold every connection, reset its client, and deliver to the server later what the client sent meanwhile."""
        links = list(self._links)
        for link in links:
            link.flowing.clear()
        await asyncio.sleep(gather_seconds)
        for link in links:
            _reset(link.writers[0])
        await asyncio.sleep(late_seconds)
        for link in links:
            link.flowing.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None:  # the event loop had accepted it before `refuse`
            _reset(writer)
            return
        self.accepted += 1
        link = _Link(writer, is_dead=self._is_frozen)
        self._links.add(link)  # at once, so that a cut that follows finds it
        self._tasks.add(task := asyncio.create_task(self._serve(link, reader, writer)))
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._flowing.wait()
            server_reader, server_writer = await self._connect()
            link.writers.append(server_writer)
            if not link.was_reset:
                await self._forward(link, (reader, writer), (server_reader, server_writer))
        except OSError:
            pass  # The server is away: the client sees its connection closed.
        finally:
            self._links.discard(link)
            link.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        port = self._parts.port or 5432
        (folder,) = parse_qs(self._parts.query).get("host", [""])
        if folder:
            return await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{port}")
        return await asyncio.open_connection(self._parts.hostname, port)

    async def _forward(self, link: _Link, client: _Side, server: _Side) -> None:
        """Forward both ways until one side has closed; on a dead connection the other side is not told."""
        pumps = {
            asyncio.create_task(self._pump(link, client[0], server[1], to_client=False)),
            asyncio.create_task(self._pump(link, server[0], client[1], to_client=True)),
        }
        try:
            _, running = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if link.is_dead and running:
                await asyncio.wait(running)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)

    async def _pump(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, to_client: bool
    ) -> None:
        with suppress(OSError):
            while True:
                data = await reader.read(1 << 16)
                if self._marker is not None and not to_client and self._marker in data:
                    link.is_mute = True
                await self._flowing.wait()
                await link.flowing.wait()
                if not data:
                    return
                if not link.is_dead and not (to_client and link.is_mute):
                    writer.write(data)
                    await writer.drain()


_Side = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Link:
    """One connection through the proxy: the client's socket, and the server's once it is connected."""

    def __init__(self, client: asyncio.StreamWriter, *, is_dead: bool) -> None:
        self.writers = [client]
        self.is_dead = is_dead
        self.is_mute = self.was_reset = False
        self.flowing = asyncio.Event()
        self.flowing.set()

    def reset(self) -> None:
        self.was_reset = True
        for writer in self.writers:
            _reset(writer)

    def close(self) -> None:
        for writer in self.writers:
            writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    if raw is not None and raw.family == socket.AF_INET:
        with suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
