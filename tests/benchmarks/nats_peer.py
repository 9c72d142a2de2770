"""NATS JetStream through nats-py, file storage, storing every write before it is answered (``sync_interval: always``).

Treated fairly: every queue is a JetStream stream of its own, which was faster here than one for all; all calls share one
connection, which sends them without waiting for each other. Messages are pushed to consumers, who acknowledge each one without
waiting for the server to confirm it. A reader of a stream is an ordered consumer, which acknowledges nothing.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.queues import Queue, Receiver
from tests.benchmarks.servers import folder, program, running
from tests.support.postgres import free_port

PATIENCE_SECONDS = 60.0

CONFIGURATION = """
listen: "127.0.0.1:{port}"
http: "127.0.0.1:{monitor}"
jetstream {{
    store_dir: "{place}"
    sync_interval: always
}}
"""


class _Consumer:
    def __init__(self, subscription: Any) -> None:
        self._subscription = subscription

    async def take(self) -> str:
        message = await self._subscription.next_msg(timeout=PATIENCE_SECONDS)
        await message.ack()
        return str(message.data.decode())


class Nats(Queue):
    """NATS JetStream."""

    def __init__(self, url: str, size: int) -> None:
        super().__init__(url, size)
        # Not a dependency of this project, so nothing of it is known to mypy.
        self._package: Any = importlib.import_module("nats")
        self._program = program("nats-server")
        self._jetstream: Any = None

    async def open(self) -> None:
        place: Path = await self.stack.enter_async_context(folder())
        port, monitor = free_port(), free_port()
        configuration = place / "configuration"
        configuration.write_text(CONFIGURATION.format(port=port, monitor=monitor, place=place))
        await self.stack.enter_async_context(running(self._program, "-c", str(configuration), port=port, place=place))
        told = await asyncio.to_thread(_ask, f"http://127.0.0.1:{monitor}/jsz?config=1")
        assert told["config"].get("sync_always") is True, "sync_interval has to be always"
        connection = await self._package.connect(f"nats://127.0.0.1:{port}")
        self.stack.push_async_callback(connection.close)
        self._jetstream = connection.jetstream(timeout=PATIENCE_SECONDS)

    async def create(self, queue: str) -> None:
        await self._jetstream.add_stream(name=queue, subjects=[queue], storage="file")

    async def publish(self, queue: str, message: str) -> None:
        await self._jetstream.publish(queue, message.encode())

    @asynccontextmanager
    async def receive(self, queue: str) -> AsyncIterator[Receiver]:
        subscription = await self._jetstream.subscribe(queue, durable="one", manual_ack=True)
        try:
            yield _Consumer(subscription)
        finally:
            await subscription.unsubscribe()

    async def read(self, queue: str, count: int) -> AsyncIterator[str]:
        subscription = await self._jetstream.subscribe(queue, ordered_consumer=True)
        try:
            for _ in range(count):
                yield (await subscription.next_msg(timeout=PATIENCE_SECONDS)).data.decode()
        finally:
            await subscription.unsubscribe()


def _ask(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)
