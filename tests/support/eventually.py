"""Waiting for facts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

PATIENCE_SECONDS = 60.0


async def eventually(
    holds: Callable[[], object | Awaitable[object]], what: str = "", *, give_up_after_seconds: float = PATIENCE_SECONDS
) -> None:
    """Return as soon as something holds; fail when it does not come to hold in that time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + give_up_after_seconds
    while True:
        answer = holds()
        if isinstance(answer, Awaitable):
            answer = await answer
        if answer:
            return
        assert loop.time() < deadline, f"this did not come to hold in {give_up_after_seconds:g} s: {what or holds}"
        await asyncio.sleep(0.01)
