"""Redis Streams through redis-py's asyncio client, storing every write before it is answered (``appendfsync always``).

Treated fairly: senders share as many connections as were fastest here, so that Redis stores many sends by one fsync. A consumer
has a connection of its own and acknowledges a message in the same round trip in which it asks for the next one. A reader of a
stream is sent up to 500 values at a time and acknowledges nothing. hiredis, which parses faster, is used where it is installed.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.benchmarks.queues import Queue, Receiver
from tests.benchmarks.servers import folder, program, running
from tests.support.postgres import free_port

CONNECTIONS = 50
GROUP = "consumers"
MUST_BE = {"appendonly": "yes", "appendfsync": "always"}
PAGE = 500


class _Consumer:
    def __init__(self, client: Any, queue: str) -> None:
        self._client = client
        self._queue = queue
        self._taken: bytes | None = None

    async def take(self) -> str:
        pipeline = self._client.pipeline(transaction=False)
        if self._taken is not None:
            pipeline.xack(self._queue, GROUP, self._taken)
        pipeline.xreadgroup(GROUP, "one", {self._queue: ">"}, count=1, block=60_000)
        answers = await pipeline.execute()
        ((self._taken, fields),) = _entries(answers[-1])
        return str(fields[b"m"].decode())

    async def end(self) -> None:
        if self._taken is not None:
            await self._client.xack(self._queue, GROUP, self._taken)


class Redis(Queue):
    """Redis Streams."""

    def __init__(self, url: str, size: int) -> None:
        super().__init__(url, size)
        # Not a dependency of this project, so nothing of it is known to mypy.
        self._package: Any = importlib.import_module("redis.asyncio")
        self._program = program("redis-server")
        self._port = free_port()
        self._client: Any = None

    async def open(self) -> None:
        place = await self.stack.enter_async_context(folder())
        options = {"port": self._port, "bind": "127.0.0.1", "dir": place, "save": "", **MUST_BE}
        command = [self._program, *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
        await self.stack.enter_async_context(running(*command, port=self._port, place=place))
        pool = self._package.BlockingConnectionPool(
            host="127.0.0.1", port=self._port, max_connections=CONNECTIONS, timeout=None
        )
        self._client = self._package.Redis.from_pool(pool)
        self.stack.push_async_callback(self._client.aclose)
        for name, value in MUST_BE.items():
            assert (await self._client.config_get(name)) == {name: value}, f"{name} has to be {value}"

    async def create(self, queue: str) -> None:
        await self._client.xgroup_create(queue, GROUP, id="0", mkstream=True)

    async def publish(self, queue: str, message: str) -> None:
        await self._client.xadd(queue, {"m": message})

    @asynccontextmanager
    async def receive(self, queue: str) -> AsyncIterator[Receiver]:
        async with self._own() as client:
            consumer = _Consumer(client, queue)
            yield consumer
            await consumer.end()

    async def read(self, queue: str, count: int) -> AsyncIterator[str]:
        async with self._own() as client:
            last, left = b"0", count
            while left:
                entries = _entries(await client.xread({queue: last}, count=PAGE, block=60_000))
                for last, fields in entries:  # noqa: B007  # the last one is where it goes on
                    yield fields[b"m"].decode()
                left -= len(entries)

    def _own(self) -> Any:
        return self._package.Redis(
            host="127.0.0.1", port=self._port, single_connection_client=True, socket_timeout=None
        )


def _entries(answer: Any) -> list[Any]:
    """The entries of the one stream that was asked about; the answer is a list or, by the newer protocol, a mapping."""
    if isinstance(answer, dict):
        ((pages,),) = (answer.values(),)
        (entries,) = pages
        return list(entries)
    ((_, entries),) = answer
    return list(entries)
