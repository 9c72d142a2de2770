"""The workloads of a workflow engine, written once: ours and DBOS Transact run these same functions, by their own verbs."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Any, ClassVar
from uuid import uuid4

from tests.benchmarks.workloads import (
    EVENT_WORKFLOWS,
    EVENTS_EACH,
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

Function = Any  # Each engine has its own type of registered function.


class Engine(ABC):
    """A launched engine; each workload is a method of it that is told how much to do."""

    is_slow: ClassVar[bool] = False

    def __init__(self, size: int) -> None:
        self.size = size
        self._written: list[float] = []
        self._functions: dict[str, Function] = {
            function.__name__: self.workflow(function.__name__, function)
            for function in (
                self._nothing, self._receive, self._hold, self._ping, self._pong,
                self._write, self._write_at_once, self._tell,
            )
        }  # fmt: skip

    # The verbs

    @abstractmethod
    def workflow(self, name: str, function: Function) -> Function:
        """The function as a registered workflow."""

    @abstractmethod
    async def start(self, function: Function, *args: Any, workflow_id: str | None = None) -> Any:
        """Start it; a handle with ``workflow_id`` and ``get_result()``."""

    @abstractmethod
    async def send(self, destination_id: str, message: Any, topic: str) -> None: ...

    @abstractmethod
    async def recv(self, topic: str) -> Any: ...

    @abstractmethod
    async def set_event(self, key: str, value: Any) -> None: ...

    @abstractmethod
    async def get_event(self, workflow_id: str, key: str) -> Any: ...

    @abstractmethod
    async def write_stream(self, key: str, value: Any) -> None: ...

    @abstractmethod
    def read_stream(self, workflow_id: str, key: str) -> AsyncIterator[Any]: ...

    # The workflows

    async def _nothing(self) -> int:
        return 1

    async def _receive(self, count: int) -> list[str]:
        return [await self.recv("work") for _ in range(count)]

    async def _hold(self, count: int) -> list[str]:
        await self.recv("go")
        return [await self.recv("work") for _ in range(count)]

    async def _ping(self, peer: str, count: int) -> list[float]:
        taken = []
        for number in range(count):
            began = time.perf_counter()
            await self.send(peer, payload(number, self.size), "ping")
            assert await self.recv("pong") == payload(number, self.size)
            taken.append(time.perf_counter() - began)
        return taken

    async def _pong(self, peer: str, count: int) -> None:
        for _ in range(count):
            await self.send(peer, await self.recv("ping"), "pong")

    async def _write(self, count: int) -> None:
        for number in range(count):
            self._written.append(time.perf_counter())
            await self.write_stream("values", payload(number, self.size))

    async def _write_at_once(self, count: int) -> None:
        await asyncio.gather(*(self.write_stream("values", payload(number, self.size)) for number in range(count)))

    async def _tell(self, first: int) -> None:
        for number in range(first, first + EVENTS_EACH):
            await self.set_event(str(number), payload(number, self.size))

    # The workloads

    async def warm_up(self) -> None:
        """A little of each verb, so that connections are open and statements planned; no part of any measure."""
        # As many at a time as are measured, or whatever is measured first has to open the connections for the rest.
        await at_once(self._run_nothing, TASKS, 1)
        await self.ping_pong(WARM_UPS)
        await self.lone_send(WARM_UPS)
        await self._streams(WARM_UPS, 2)
        teller = await self._start(self._tell, 0)
        await asyncio.gather(*(self.get_event(teller.workflow_id, str(number)) for number in range(EVENTS_EACH)))

    async def no_op(self, each: int) -> Results:
        return {"no_op": TASKS * each / await at_once(self._run_nothing, TASKS, each)}

    async def _run_nothing(self, _: int) -> None:
        handle = await self._start(self._nothing)
        assert await handle.get_result() == 1

    async def send_recv(self, each: int) -> Results:
        receivers = await self._receivers(self._receive, each)
        began = time.perf_counter()
        sent = await self._send_all(receivers, each)
        arrived = await asyncio.gather(*(receiver.get_result() for receiver in receivers))
        ended = time.perf_counter() - began
        check((message for messages in arrived for message in messages), TASKS * each, self.size)
        return {"sends": TASKS * each / sent, "send_recv": TASKS * each / ended}

    async def sends_queued(self, each: int) -> Results:
        receivers = await self._receivers(self._hold, each)
        sent = await self._send_all(receivers, each)
        await asyncio.gather(*(self.send(receiver.workflow_id, "go", "go") for receiver in receivers))
        arrived = await asyncio.gather(*(receiver.get_result() for receiver in receivers))
        check((message for messages in arrived for message in messages), TASKS * each, self.size)
        return {"sends_queued": TASKS * each / sent}

    async def ping_pong(self, count: int) -> Results:
        one, other = str(uuid4()), str(uuid4())
        await self._start(self._pong, one, count, workflow_id=other)
        handle = await self._start(self._ping, other, count, workflow_id=one)
        return milliseconds("ping_pong", await handle.get_result())

    async def lone_send(self, count: int) -> Results:
        receiver = await self._start(self._hold, count)
        await asyncio.sleep(SETTLE_SECONDS)
        taken = await one_after_the_other(
            lambda number: self.send(receiver.workflow_id, payload(number, self.size), "work"), count
        )
        await self.send(receiver.workflow_id, "go", "go")
        check(await receiver.get_result(), count, self.size)
        return {"lone_send p50": percentile(taken, 0.5) * 1e3}

    async def stream_latency(self, count: int) -> Results:
        self._written.clear()
        writer = await self._start(self._write, count)
        taken: list[float] = []
        arrived: list[str] = []
        async for value in self.read_stream(writer.workflow_id, "values"):
            taken.append(time.perf_counter() - self._written[len(arrived)])
            arrived.append(value)
        check(arrived, count, self.size, in_order=True)
        return milliseconds("stream_latency", taken)

    async def streams_20(self, each: int) -> Results:
        return {"streams_20": 20 * each / await timed(self._streams(20, each))}

    async def streams_100(self, each: int) -> Results:
        return {"streams_100": 100 * each / await timed(self._streams(100, each))}

    async def events(self, times: int) -> Results:
        async def get(workflow_id: str, number: int) -> None:
            assert await self.get_event(workflow_id, str(number)) == payload(number, self.size)

        async def once() -> None:
            firsts = range(0, EVENT_WORKFLOWS * EVENTS_EACH, EVENTS_EACH)
            handles = await asyncio.gather(*(self._start(self._tell, first) for first in firsts))
            await asyncio.gather(
                *(
                    get(handle.workflow_id, number)
                    for first, handle in zip(firsts, handles, strict=True)
                    for number in range(first, first + EVENTS_EACH)
                )
            )

        taken = sum([await timed(once()) for _ in range(times)])
        return {"events": times * EVENT_WORKFLOWS * EVENTS_EACH / taken}

    async def read_finished(self, count: int) -> Results:
        writer = await self._start(self._write_at_once, count)
        await writer.get_result()
        began = time.perf_counter()
        arrived = [value async for value in self.read_stream(writer.workflow_id, "values")]
        taken = time.perf_counter() - began
        check(arrived, count, self.size)
        return {"read_finished": count / taken}

    # What they have in common

    async def start_as(self, name: str, workflow_id: str, *args: Any) -> Any:
        """Start the workflow of this name under this id, for somebody in another process to talk to."""
        return await self.start(self._functions[name], *args, workflow_id=workflow_id)

    async def _start(self, function: Function, *args: Any, workflow_id: str | None = None) -> Any:
        return await self.start(self._functions[function.__name__], *args, workflow_id=workflow_id)

    async def _receivers(self, function: Function, each: int) -> list[Any]:
        receivers = await asyncio.gather(*(self._start(function, TASKS // RECEIVERS * each) for _ in range(RECEIVERS)))
        await asyncio.sleep(SETTLE_SECONDS)
        return receivers

    async def _send_all(self, receivers: list[Any], each: int) -> float:
        return await at_once(
            lambda number: self.send(receivers[number % RECEIVERS].workflow_id, payload(number, self.size), "work"),
            TASKS,
            each,
        )

    async def _streams(self, count: int, each: int) -> None:
        async def read(workflow_id: str) -> None:
            check([value async for value in self.read_stream(workflow_id, "values")], each, self.size, in_order=True)

        writers = await asyncio.gather(*(self._start(self._write, each) for _ in range(count)))
        await asyncio.gather(*(read(writer.workflow_id) for writer in writers))
