"""The processes of `processes.py`, run by path: only dbos_async or redis is imported, so another checkout may be measured, too.

``python process_roles.py WHO ROLE URL``: it says that it is ready, and then does what it reads: a list of a count and a pause. A
client answers with the time of each round trip, in seconds.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import uuid4

WARM_UPS = 30
GROUP = "workers"
OneTrip = Callable[[str], Awaitable[None]]


def say(what: Any) -> None:
    print(json.dumps(what), flush=True)


async def heard() -> AsyncIterator[Any]:
    """What comes by standard input, until that is closed."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield json.loads(line)


async def measure(trip: OneTrip) -> None:
    """Make the round trips that are asked for."""
    for number in range(WARM_UPS):
        await trip(f"warm up {number}")
    say("ready")
    async for count, pause_seconds in heard():
        taken: list[float] = []
        for number in range(count):
            if pause_seconds:
                await asyncio.sleep(pause_seconds)
            begin = time.perf_counter()
            await trip(f"message {number} of {count}, {'x' * 60}")
            taken.append(time.perf_counter() - begin)
        say(taken)


async def our_worker(url: str) -> None:
    from dbos_async import DBOS

    @DBOS.workflow(name="echo")
    async def echo() -> None:
        while True:
            await DBOS.write_stream("said", await DBOS.recv("asked"))

    async with DBOS(url):
        say("ready")
        async for _ in heard():
            pass


async def our_client(url: str) -> None:
    from dbos_async import DBOSClient

    async with DBOSClient(url) as client:
        handle = await client.start_workflow("echo")
        said = client.read_stream(handle.workflow_id, "said")

        async def trip(message: str) -> None:
            await client.send(handle.workflow_id, message, "asked")
            assert await anext(said) == message

        await measure(trip)


async def our_listener(url: str) -> None:
    """Waits for a value that never comes."""
    from dbos_async import DBOSClient

    async with DBOSClient(url) as client:
        handle = await client.start_workflow(f"nobody runs this {uuid4()}")
        reading = asyncio.ensure_future(anext(client.read_stream(handle.workflow_id, "said")))
        say("ready")
        async for _ in heard():
            pass
        reading.cancel()


def _redis(url: str) -> Any:
    return importlib.import_module("redis.asyncio").Redis.from_url(
        url, single_connection_client=True, socket_timeout=None
    )


async def redis_worker(url: str) -> None:
    redis = _redis(url)
    await redis.xgroup_create("asked", GROUP, id="0", mkstream=True)
    say("ready")
    answering = asyncio.ensure_future(_answer(redis))
    async for _ in heard():
        pass
    answering.cancel()
    await asyncio.wait([answering])
    await redis.aclose()


async def _answer(redis: Any) -> None:
    taken, message = None, b""
    while True:
        # Answers, acknowledges and asks for the next in one round trip.
        pipeline = redis.pipeline(transaction=False)
        if taken is not None:
            pipeline.xadd("said", {"m": message})
            pipeline.xack("asked", GROUP, taken)
        pipeline.xreadgroup(GROUP, "one", {"asked": ">"}, count=1, block=600_000)
        taken, message = _only((await pipeline.execute())[-1])


async def redis_client(url: str) -> None:
    sender, reader = _redis(url), _redis(url)
    at = b"0"

    async def trip(message: str) -> None:
        nonlocal at
        await sender.xadd("asked", {"m": message})
        at, answer = _only(await reader.xread({"said": at}, count=500, block=600_000))
        assert answer.decode() == message

    await measure(trip)
    await sender.aclose()
    await reader.aclose()


def _only(answer: Any) -> tuple[bytes, bytes]:
    """The only entry that was read; the answer is a list or, by the newer protocol, a mapping."""
    ((_, entries),) = answer.items() if isinstance(answer, dict) else answer
    if isinstance(answer, dict):
        (entries,) = entries
    ((place, fields),) = entries
    return place, fields[b"m"]


ROLES = {
    "ours": {"worker": our_worker, "client": our_client, "listener": our_listener},
    "redis": {"worker": redis_worker, "client": redis_client},
}


if __name__ == "__main__":
    asyncio.run(ROLES[sys.argv[1]][sys.argv[2]](sys.argv[3]))
