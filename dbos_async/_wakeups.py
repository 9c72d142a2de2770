"""Wake-ups: somebody changed something, so look again. A wake-up is a hint, never the news itself.

Whoever waits writes ``async for look in wakeups.looks(key): …`` around one statement.
The loop says "look now", then "look again" after every change behind one of the keys, at the time
that the last look asked for, and at a slow interval in case a notification was lost.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable
from functools import lru_cache

RECHECK_SECONDS = 30.0
MOST_REMEMBERED = 2048


def digest(kind: str, *names: str) -> bytes:
    """The fixed-size name of a key in notifications: what changed, and whose it is."""
    text = kind + "".join([f"\0{len(name)}\0{name}" for name in names])
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


@lru_cache(MOST_REMEMBERED)
def message_key(workflow_id: str, topic: str) -> bytes:
    """Changes when a message for this workflow and topic is stored."""
    return digest("message", workflow_id, topic)


@lru_cache(MOST_REMEMBERED)
def event_key(workflow_id: str, key: str) -> bytes:
    """Changes when this event of the workflow is set."""
    return digest("event", workflow_id, key)


@lru_cache(MOST_REMEMBERED)
def stream_key(workflow_id: str, key: str) -> bytes:
    """Changes when this stream of the workflow is written or closed."""
    return digest("stream", workflow_id, key)


def end_key(workflow_id: str) -> bytes:
    """Changes when the workflow ends."""
    return digest("end", workflow_id)


UNOWNED_KEY = digest("unowned")
"""Changes when there is a workflow that nobody owns."""

DUE_KEY = digest("due")
"""Changes in a process when the deadline of a workflow that it runs has come."""


class Look:
    """One turn of a waiting loop; the body says when it wants the next one at the latest."""

    __slots__ = ("_seconds", "_waiter", "_woken")

    def __init__(self) -> None:
        self._woken = False
        self._waiter: asyncio.Future[None] | None = None
        self._seconds = RECHECK_SECONDS

    def again_in(self, seconds: float | None) -> None:
        """Look again after so many seconds even if nothing changes (``None``: only for the slow re-check)."""
        self._seconds = RECHECK_SECONDS if seconds is None else min(max(seconds, 0.0), RECHECK_SECONDS)

    def wake(self) -> None:
        """End this turn's wait, or let it not begin."""
        self._woken = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def rearm(self) -> None:
        """Make ready for a new turn."""
        self._woken = False
        self._seconds = RECHECK_SECONDS

    async def wait(self) -> None:
        """Return when woken, or when it is time."""
        if self._woken:
            return
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(self._seconds, self.wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None


class Wakeups:
    """All the waiting loops of one process, found by the digests of what they wait for."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, set[Look]] = {}
        self._told: dict[bytes, Callable[[], None]] = {}

    def __len__(self) -> int:
        """How many keys somebody waits for."""
        return len(self._waiting)

    def wake(self, key: bytes) -> None:
        """Everybody who waits for this key looks again."""
        for look in self._waiting.get(key, ()):
            look.wake()
        tell = self._told.get(key)
        if tell is not None:
            tell()

    def tell(self, key: bytes, what: Callable[[], None] | None) -> None:
        """Call ``what`` after every change of the key, for something that waits for it all its life; ``None`` ends that."""
        if what is None:
            self._told.pop(key, None)
        else:
            self._told[key] = what

    def wake_all(self) -> None:
        """Everybody looks again: what happened in between is not known."""
        for looks in self._waiting.values():
            for look in looks:
                look.wake()
        for tell in list(self._told.values()):
            tell()

    async def looks(self, *keys: bytes) -> AsyncGenerator[Look, None]:
        """Yield whenever it is worth looking: at once, after every change of a key, and when the body asked for it.

        A turn is armed before its look, so that a change made during the look is not lost.
        Nothing is held while the caller has the turn but its place in the register; close the generator to leave it.
        """
        look = Look()
        for key in keys:
            self._waiting.setdefault(key, set()).add(look)
        try:
            while True:
                look.rearm()
                yield look
                await look.wait()
        finally:
            for key in keys:
                others = self._waiting.get(key)
                if others is not None:
                    others.discard(look)
                    if not others:
                        del self._waiting[key]
