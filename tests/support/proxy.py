"""A small TCP proxy in front of a database, with the faults that networks have."""

from __future__ import annotations

import asyncio
import socket
import struct
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit, urlunsplit

RESET = struct.pack("ii", 1, 0)


class Link:
    """One connection through the proxy; a dead one swallows whatever comes, also the end."""

    def __init__(self) -> None:
        self.is_dead = self.is_mute = False
        self.writers: list[asyncio.StreamWriter] = []


class Proxy:
    """Forwards to the database of a URL; ``url`` is the way through the proxy."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._frozen = False
        self._marker: bytes | None = None
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.accepted = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        user, at, _ = self._parts.netloc.rpartition("@")
        self.host = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self.url = urlunsplit(("postgresql", f"{user}{at}{self.host}", self._parts.path, "", ""))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def freeze(self) -> None:
        """Every connection, also a new one, goes dead without a word."""
        self._frozen = True
        for link in self._links:
            link.is_dead = True

    def mute(self, marker: bytes) -> None:
        """Once a connection has been told this, what the server says on it does not arrive any more."""
        self._marker = marker

    def heal(self) -> None:
        """New connections work; what went dead stays dead."""
        self._frozen, self._marker = False, None

    def cut(self) -> None:
        """Reset every connection on both sides."""
        for link in self._links:
            for writer in link.writers:
                peer = writer.get_extra_info("socket")
                if peer.family != socket.AF_UNIX:
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                writer.transport.abort()
        self._links.clear()

    def refuse(self) -> None:
        """Take no new connection."""
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        link = Link()
        link.is_dead = self._frozen
        link.writers = [writer]
        self._links.add(link)
        folder = parse_qs(self._parts.query).get("host", [""])[0]
        if folder:
            up_reader, up_writer = await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{self._parts.port or 5432}")
        else:
            up_reader, up_writer = await asyncio.open_connection(self._parts.hostname, self._parts.port or 5432)
        link.writers.append(up_writer)
        for ends in ((reader, up_writer, False), (up_reader, writer, True)):
            self._tasks.add(task := asyncio.create_task(self._pump(link, *ends)))
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, back: bool) -> None:
        try:
            while data := await reader.read(1 << 16):
                link.is_mute |= self._marker is not None and not back and self._marker in data
                if not link.is_dead and not (back and link.is_mute):
                    writer.write(data)
                    await writer.drain()
        except ConnectionError:
            pass
        if not link.is_dead:
            self._links.discard(link)
            writer.close()
