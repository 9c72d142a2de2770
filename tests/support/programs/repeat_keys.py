"""Sends the same 400 messages, each with its key, in an order of its own: ``python -m tests.support.programs.repeat_keys URL``."""

from __future__ import annotations

import asyncio
import random
import sys

from dbos_async import DBOSClient


async def main() -> None:
    keys = list(range(400))
    random.shuffle(keys)
    async with DBOSClient(sys.argv[1]) as client:
        await asyncio.gather(*(client.send("w", key, idempotency_key=f"key {key}") for key in keys[:200]))
        for key in keys[200:]:
            await client.send("w", key, idempotency_key=f"key {key}")


asyncio.run(main())
