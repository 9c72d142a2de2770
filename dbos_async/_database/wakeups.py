"""Wake-ups: somebody changed something, so look again. A wake-up is a hint, and nobody relies on it.

What this process has committed itself may come along with it as news, which saves the look.

Whoever waits writes ``async for look in wakeups.looks(key): …`` around one statement.
The loop says "look now", then "look again" after every change behind one of the keys, at the time
that the last look asked for, and at a slow interval in case a notification was lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol

RECHECK_SECONDS = 30.0
"""After so long whoever waits looks again, in case a notification was lost."""
RECHECK_TICK_SECONDS = RECHECK_SECONDS / 2
MAX_REMEMBERED = 2048
MAX_UPDATES = 100
MAX_UPDATE_BYTES = 1 << 18


def digest(kind: str, *names: str) -> bytes:
    """The fixed-size name of a key in notifications: what changed, and whose it is."""
    text = kind + "".join([f"\0{len(name)}\0{name}" for name in names])
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


@lru_cache(MAX_REMEMBERED)
def message_key(workflow_id: str, topic: str) -> bytes:
    """Changes when a message for this workflow and topic is stored."""
    return digest("message", workflow_id, topic)


@lru_cache(MAX_REMEMBERED)
def event_key(workflow_id: str, key: str) -> bytes:
    """Changes when this event of the workflow is set."""
    return digest("event", workflow_id, key)


@lru_cache(MAX_REMEMBERED)
def stream_key(workflow_id: str, key: str) -> bytes:
    """Changes when this stream of the workflow is written or closed."""
    return digest("stream", workflow_id, key)


def end_key(workflow_id: str) -> bytes:
    """Changes when the workflow ends."""
    # Written out, since every workflow needs one.
    return blake2b(f"end\0{len(workflow_id)}\0{workflow_id}".encode("utf-8", "surrogatepass"), digest_size=8).digest()


UNOWNED_KEY = digest("unowned")
"""Changes when there is a workflow that nobody owns."""

DUE_KEY = digest("due")
"""Changes in a process when the deadline of a workflow that it runs has come."""


def now() -> float:
    """The time of the event loop, in seconds."""
    return asyncio.get_running_loop().time()


class LocalUpdate(NamedTuple):
    """What was committed, for those who wait for it, and how many bytes it keeps in memory."""

    what: Any
    size: int


class Subscription:
    """One turn of a waiting loop; the body says when it wants the next one at the latest."""

    __slots__ = (
        "_seconds",
        "_takes_updates",
        "_ticks_seen",
        "_update_bytes",
        "_updates",
        "_waiter",
        "changed",
        "receive",
        "wakes",
        "woken",
    )

    def __init__(self, *, takes_updates: bool) -> None:
        self.changed: bool = True
        """Whether there may be more to see than the news tell."""
        self.receive: Any = None
        """The receive that waits here, while a send may hand it its message."""
        self.wakes: int = 0
        """How often anything but news has come."""
        self.woken: bool = False
        """Whether anything but news has come in this turn."""
        self._takes_updates = takes_updates
        self._updates: list[Any] | None = None
        self._update_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._seconds = RECHECK_SECONDS
        self._ticks_seen = 0

    def poll_within(self, seconds: float | None) -> None:
        """Look again after so many seconds even if nothing changes (``None``: only for the slow re-check)."""
        self._seconds = RECHECK_SECONDS if seconds is None else min(max(seconds, 0.0), RECHECK_SECONDS)

    def wake(self, news: LocalUpdate | None = None) -> None:
        """End this turn's wait, or let it not begin."""
        if news is None or not self._takes_updates:
            self.woken = True
            self.wakes += 1
        elif self._update_bytes + news.size <= MAX_UPDATE_BYTES and len(self._updates or ()) < MAX_UPDATES:
            if self._updates is None:
                self._updates = []
            self._updates.append(news.what)
            self._update_bytes += news.size
        else:
            # Somebody who is slow reads it from the database when it suits.
            self.woken = True
            self._updates, self._update_bytes = None, 0
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def take_updates(self) -> list[Any]:
        """What was told since the last time."""
        news = self._updates or []
        if news:
            self._updates, self._update_bytes = None, 0
        return news

    def reset(self) -> None:
        """Make ready for a new turn."""
        self.changed, self.woken = self.woken, False
        self._seconds = RECHECK_SECONDS

    async def wait(self) -> None:
        """Return when woken, or when it is time."""
        if self.woken or self._updates:
            return
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        self._ticks_seen = 0
        # For the slow re-check all who wait have one timer together.
        timer = loop.call_later(self._seconds, self.wake) if self._seconds < RECHECK_SECONDS else None
        try:
            await self._waiter
        finally:
            if timer is not None:
                timer.cancel()
            self._waiter = None

    def recheck(self) -> None:
        """Another while has passed."""
        self._ticks_seen += 1
        if self._ticks_seen >= 2:
            self.wake()


class ChangeListener(Protocol):
    """Something that is told of every change of a key all its life."""

    def changed(self) -> None: ...


class Wakeups:
    """All the waiting loops of one process, found by the digests of what they wait for."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, list[Subscription]] = {}
        self._listeners: dict[bytes, ChangeListener] = {}
        self._known_empty: set[bytes] = set()
        self._loop = asyncio.get_running_loop()
        self._ticker: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many keys somebody waits for."""
        return len(self._waiting)

    def wake(self, key: bytes, news: LocalUpdate | None = None) -> None:
        """Everybody who waits for this key looks again, or takes the news if it takes any."""
        self._known_empty.discard(key)
        for subscription in self._waiting.get(key, ()):
            subscription.wake(news)
        listener = self._listeners.get(key)
        if listener is not None:
            listener.changed()

    def has_waiters(self, keys: Sequence[bytes]) -> bool:
        """Whether anybody here is to hear of a change of these keys. Who comes later looks first, and sees it."""
        waiting, listener, known_empty = self._waiting, self._listeners, self._known_empty
        return any([key in waiting or key in listener or key in known_empty for key in keys])  # noqa: C419 - a generator costs more

    def receiver(self, key: bytes) -> Subscription | None:
        """Where a receive waits that a message behind this key may be handed to."""
        for subscription in self._waiting.get(key, ()):
            if subscription.receive is not None:
                return subscription
        return None

    def mark_drained(self, key: bytes) -> None:
        """Remember that there was nothing behind this key, until somebody is woken for it."""
        self._known_empty.add(key)

    def take_known_empty(self, key: bytes) -> bool:
        """Whether there has been nothing behind this key since; this is forgotten then."""
        try:
            self._known_empty.remove(key)
        except KeyError:
            return False
        return True

    def add_listener(self, key: bytes, whom: ChangeListener | None) -> None:
        """Tell somebody of every change of the key from now on; ``None`` ends that."""
        if whom is None:
            self._listeners.pop(key, None)
        else:
            self._listeners[key] = whom

    def wake_all(self) -> None:
        """Everybody looks again: what happened in between is not known."""
        self._known_empty.clear()
        for changes in self._waiting.values():
            for subscription in changes:
                subscription.wake()
        for listener in list(self._listeners.values()):
            listener.changed()

    async def changes(self, *keys: bytes, takes_updates: bool = False) -> AsyncGenerator[Subscription, None]:
        """Yield whenever it is worth looking: at once, after every change of a key, and when the body asked for it.

        Who ``takes_news`` is also given the turn when there are news, and asks the look whether anything else has changed.
        A turn is armed before its look, so that a change made during the look is not lost.
        Nothing is held while the caller has the turn but its place in the register; close the generator to leave it.
        """
        subscription = self.enter(keys, takes_updates=takes_updates)
        try:
            while True:
                subscription.reset()
                yield subscription
                await subscription.wait()
        finally:
            self.leave(subscription, keys)

    def enter(self, keys: Sequence[bytes], *, takes_updates: bool = False) -> Subscription:
        """Wait for these keys from now on. Whoever loops over `looks` need not know; the hottest loop saves the generator."""
        subscription = Subscription(takes_updates=takes_updates)
        subscription.wake()
        if self._ticker is None:
            self._ticker = self._loop.call_later(RECHECK_TICK_SECONDS, self._recheck)
        for key in keys:
            others = self._waiting.get(key)
            if others is None:
                self._waiting[key] = [subscription]
            else:
                others.append(subscription)
        return subscription

    def leave(self, subscription: Subscription, keys: Sequence[bytes]) -> None:
        """Wait no longer."""
        for key in keys:
            others = self._waiting.get(key)
            if others is not None:
                others.remove(subscription)
                if not others:
                    del self._waiting[key]
        if not self._waiting and self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None

    def _recheck(self) -> None:
        for changes in self._waiting.values():
            for subscription in changes:
                subscription.recheck()
        self._ticker = self._loop.call_later(RECHECK_TICK_SECONDS, self._recheck)
