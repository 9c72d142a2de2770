"""The workloads of a raw durable queue, with tasks in place of workflows: what is sent is stored, but nothing remembers who did it.

A queue is a yardstick and not an equal: no step is recorded, a consumer that dies gets its last message again, and there are no
ids, no replay and no deadlines. The concurrency and the payloads are those of the engines.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, ClassVar, Protocol, Self
from uuid import uuid4

from tests.benchmarks.workloads import (
    RECEIVERS,
    SETTLE_SECONDS,
    TASKS,
    WARM_UPS,
    Results,
    at_once,
    check,
    milliseconds,
    one_after_the_other,
    payload,
    percentile,
    timed,
)


class Receiver(Protocol):
    """The only consumer of one queue."""

    async def take(self) -> str:
        """The next message; the one before counts as consumed."""


class Queue(ABC):
    """A running server; each workload is a method of it that is told how much to do."""

    is_slow: ClassVar[bool] = False

    def __init__(self, url: str, size: int) -> None:
        self.size = size
        self.stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            await self.stack.aclose()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stack.aclose()

    @abstractmethod
    async def open(self) -> None:
        """Start the server, connect, and assert that it stores every message before it says so."""

    @abstractmethod
    async def create(self, queue: str) -> None: ...

    @abstractmethod
    async def publish(self, queue: str, message: str) -> None: ...

    @abstractmethod
    def receive(self, queue: str) -> AbstractAsyncContextManager[Receiver]:
        """Consume a queue, and acknowledge each message."""

    @abstractmethod
    def read(self, queue: str, count: int) -> AsyncIterator[str]:
        """The first so many values of a queue that is read as a stream: others may read it, too."""

    async def warm_up(self) -> None:
        """A little of each verb, so that connections are open; no part of any measure."""
        await self.ping_pong(WARM_UPS)
        await self.lone_send(WARM_UPS)
        await self._streams(WARM_UPS, 2)

    async def send_recv(self, each: int) -> Results:
        queues = await self._queues(RECEIVERS)
        consumers = [asyncio.create_task(self._consume(queue, TASKS // RECEIVERS * each)) for queue in queues]
        await asyncio.sleep(SETTLE_SECONDS)
        began = time.perf_counter()
        sent = await self._send_all(queues, each)
        arrived = await asyncio.gather(*consumers)
        ended = time.perf_counter() - began
        check((message for messages in arrived for message in messages), TASKS * each, self.size)
        return {"sends": TASKS * each / sent, "send_recv": TASKS * each / ended}

    async def sends_queued(self, each: int) -> Results:
        queues = await self._queues(RECEIVERS)
        sent = await self._send_all(queues, each)
        arrived = await asyncio.gather(*(self._consume(queue, TASKS // RECEIVERS * each) for queue in queues))
        check((message for messages in arrived for message in messages), TASKS * each, self.size)
        return {"sends_queued": TASKS * each / sent}

    async def ping_pong(self, count: int) -> Results:
        one, other = await self._queues(2)

        async def pong() -> None:
            async with self.receive(other) as pings:
                for _ in range(count):
                    await self.publish(one, await pings.take())

        answering = asyncio.create_task(pong())
        taken = []
        async with self.receive(one) as pongs:
            await asyncio.sleep(SETTLE_SECONDS)
            for number in range(count):
                began = time.perf_counter()
                await self.publish(other, payload(number, self.size))
                assert await pongs.take() == payload(number, self.size)
                taken.append(time.perf_counter() - began)
        await answering
        return milliseconds("ping_pong", taken)

    async def lone_send(self, count: int) -> Results:
        (queue,) = await self._queues(1)
        taken = await one_after_the_other(lambda number: self.publish(queue, payload(number, self.size)), count)
        check(await self._consume(queue, count), count, self.size)
        return {"lone_send p50": percentile(taken, 0.5) * 1e3}

    async def stream_latency(self, count: int) -> Results:
        (queue,) = await self._queues(1)
        written: list[float] = []
        writing = asyncio.create_task(self._write(queue, count, written))
        taken: list[float] = []
        arrived: list[str] = []
        async for value in self.read(queue, count):
            taken.append(time.perf_counter() - written[len(arrived)])
            arrived.append(value)
        await writing
        check(arrived, count, self.size, in_order=True)
        return milliseconds("stream_latency", taken)

    async def streams_20(self, each: int) -> Results:
        return {"streams_20": 20 * each / await timed(self._streams(20, each))}

    async def streams_100(self, each: int) -> Results:
        return {"streams_100": 100 * each / await timed(self._streams(100, each))}

    async def read_finished(self, count: int) -> Results:
        (queue,) = await self._queues(1)
        await at_once(
            lambda number: self.publish(queue, payload(number, self.size)), min(count, TASKS), max(1, count // TASKS)
        )
        began = time.perf_counter()
        arrived = [value async for value in self.read(queue, count)]
        taken = time.perf_counter() - began
        check(arrived, count, self.size)
        return {"read_finished": count / taken}

    async def _queues(self, count: int) -> list[str]:
        names = [uuid4().hex for _ in range(count)]
        await asyncio.gather(*(self.create(name) for name in names))
        return names

    async def _consume(self, queue: str, count: int) -> list[str]:
        async with self.receive(queue) as receiver:
            return [await receiver.take() for _ in range(count)]

    async def _send_all(self, queues: list[str], each: int) -> float:
        return await at_once(
            lambda number: self.publish(queues[number % RECEIVERS], payload(number, self.size)), TASKS, each
        )

    async def _write(self, queue: str, count: int, written: list[float]) -> None:
        for number in range(count):
            written.append(time.perf_counter())
            await self.publish(queue, payload(number, self.size))

    async def _streams(self, count: int, each: int) -> None:
        async def read(queue: str) -> None:
            check([value async for value in self.read(queue, each)], each, self.size, in_order=True)

        write_seq: list[Any] = []
        for queue in await self._queues(count):
            write_seq += [self._write(queue, each, []), read(queue)]
        await asyncio.gather(*write_seq)
