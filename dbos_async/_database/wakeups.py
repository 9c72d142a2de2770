"""Wake-ups: something changed, so poll again. A wake-up is a hint, and no promise depends on one.

A waiting loop stands around one statement:

    with database.changes(*keys) as changes:
        async for subscription in changes:
            ...

A turn comes at once, after every change behind one of the keys (`change_keys.py`), at the time that the last poll asked for, after
the listener has reconnected, and at a slow interval in case a notification was lost. Without a listener a watcher asks the database
what has changed (`polling.py`).

What this process itself has committed may come along as a local update, and what others have as news in the notification. Either
saves the poll.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self

from dbos_async._database.shared_keys import GROUPS, SharedKey, Source
from dbos_async.errors import LaunchError

RECHECK_SECONDS = 30.0
"""Every waiter polls again after at most this time, in case a notification was lost."""
RECHECK_TICK_SECONDS = RECHECK_SECONDS / 2
MAX_UPDATES = 100
MAX_UPDATE_BYTES = 1 << 18


def now() -> float:
    """The time of the event loop, in seconds."""
    return asyncio.get_running_loop().time()


class LocalUpdate(NamedTuple):
    """What was committed, for the waiters of this process, and its size in bytes (of news: in characters)."""

    value: Any
    size: int


class Subscription:
    """One waiter: ``with`` it to have a place in the register, ``async for`` it to be given a turn whenever a poll is worth it.

    A turn begins before its poll, so a change during the poll is not lost. The first turn begins when changes behind the keys are
    heard. While the body runs nothing is held but the place.
    """

    # An async generator would do the same and cost each waiter half a KiB more (decision 42).
    __slots__ = (
        "_heard",
        "_keys",
        "_polls_in_seconds",
        "_takes_updates",
        "_ticks",
        "_update_bytes",
        "_updates",
        "_waiter",
        "_wakeups",
        "changed",
        "offer",
        "wakes",
        "woken",
    )

    def __init__(self, wakeups: Wakeups, keys: Sequence[bytes], *, takes_updates: bool) -> None:
        self.changed: bool = True
        """Whether there may be more to see than the local updates tell."""
        self.offer: Any = None
        """What a writer of this process may make use of before it commits, and what one of another process has made use of."""
        self.wakes: int = 1
        """How often something changed that no local update tells."""
        self.woken: bool = True
        """Whether that has happened in this turn."""
        self._wakeups, self._keys = wakeups, keys
        self._takes_updates = takes_updates
        self._heard: asyncio.Event | None = None
        self._updates: list[Any] | None = None
        self._update_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._polls_in_seconds = RECHECK_SECONDS
        self._ticks = 0

    def __enter__(self) -> Self:
        self._heard = self._wakeups.register(self, self._keys)
        return self

    def __exit__(self, *_: object) -> None:
        self._wakeups.unregister(self, self._keys)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Self:
        """Return when it is time for a poll. Raises `LaunchError` when the register is closed, since no change comes any more."""
        while self._heard is not None:
            heard = self._heard
            await heard.wait()
            if self._wakeups.is_closed:
                raise self._wakeups.closed_error()
            if self._heard is heard:
                self._heard = None
        if not self.woken and not self._updates:
            if self._wakeups.is_closed:
                raise self._wakeups.closed_error()
            loop = self._wakeups.loop
            self._waiter = loop.create_future()
            self._ticks = 0
            # The slow interval needs no timer of its own: one timer serves all waiters in the register.
            seconds = self._polls_in_seconds
            timer = loop.call_later(seconds, self.wake) if seconds < RECHECK_SECONDS or not self._keys else None
            try:
                await self._waiter
            finally:
                if timer is not None:
                    timer.cancel()
                self._waiter = None
            if self._wakeups.is_closed:
                raise self._wakeups.closed_error()
        self.changed, self.woken = self.woken, False
        self._polls_in_seconds = RECHECK_SECONDS
        return self

    def poll_within(self, seconds: float | None) -> None:
        """Take the next turn after this time even if nothing changes; ``None``: at the slow interval only.

        Without keys no notification can be lost, and the next turn is then and not earlier.
        """
        if seconds is None:
            self._polls_in_seconds = RECHECK_SECONDS
        else:
            self._polls_in_seconds = max(seconds, 0.0) if not self._keys else min(max(seconds, 0.0), RECHECK_SECONDS)

    def wake(self, update: LocalUpdate | None = None) -> None:
        """End this turn's wait, or let it not begin."""
        if update is not None:
            if self._takes_updates:
                self.deliver(update)
                return
            if self.offer is not None and (message := self.offer.accept(update)) is not None:
                self.offer = None
                self.deliver(message)
                return
        self.woken = True
        self.wakes += 1
        self._end_wait()

    def deliver(self, update: LocalUpdate) -> None:
        """End this turn's wait with an update that is for this waiter alone."""
        if self._update_bytes + update.size <= MAX_UPDATE_BYTES and len(self._updates or ()) < MAX_UPDATES:
            if self._updates is None:
                self._updates = []
            self._updates.append(update.value)
            self._update_bytes += update.size
        else:
            # This waiter is slow: it reads the rest from the database when it comes to it.
            self.woken = True
            self._updates, self._update_bytes = None, 0
        self._end_wait()

    def _end_wait(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def take_updates(self) -> list[Any]:
        """The local updates since the last time."""
        updates = self._updates or []
        if updates:
            self._updates, self._update_bytes = None, 0
        return updates

    def also(self, key: bytes) -> None:
        """Wait for changes behind this key as well, and poll again, since one may have come before."""
        if key not in self._keys:
            self._keys = (*self._keys, key)
            self._heard = self._wakeups.register(self, (key,)) or self._heard
            self.wake()

    def tick(self) -> None:
        """Half of the slow interval has passed."""
        self._ticks += 1
        if self._ticks >= 2:
            self.wake()


class ChangeListener(Protocol):
    """Hears of every change behind a key, without waiting for it."""

    def changed(self) -> None: ...


class Wakeups:
    """All subscriptions and listeners of one process, by the digests of their keys."""

    def __init__(self) -> None:
        self._subscriptions: dict[bytes, list[Subscription]] = {}
        self._listeners: dict[bytes, ChangeListener] = {}
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._ticker: asyncio.TimerHandle | None = None
        self.is_closed: bool = False
        """Whether no change comes any more."""
        self.source: Source | None = None
        self.waiting: list[int] = [0] * GROUPS
        """For how many shared keys of each group somebody waits."""

    def __len__(self) -> int:
        """How many keys have subscriptions."""
        return len(self._subscriptions)

    def wake(self, key: bytes, update: LocalUpdate | None = None) -> None:
        """Wake every waiter for this key. A waiter that takes local updates is given the update instead."""
        for subscription in self._subscriptions.get(key, ()):
            subscription.wake(update)
        listener = self._listeners.get(key)
        if listener is not None:
            listener.changed()

    def wake_all(self) -> None:
        """Wake every waiter: which changes were missed is not known."""
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.wake()
        for listener in list(self._listeners.values()):
            listener.changed()

    def close(self) -> None:
        """Tell every waiter that no change comes any more: it raises `LaunchError`, and so does one that comes later."""
        self.is_closed = True
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.wake()

    @staticmethod
    def closed_error() -> LaunchError:
        """What a waiter raises then."""
        return LaunchError(
            "This DBOS or DBOSClient was closed while this call was waiting: launch or open one, then call again."
        )

    def has_waiters(self, keys: Sequence[bytes]) -> bool:
        """Whether a change of these keys concerns this process. A waiter that comes later polls first, and sees it."""
        subscriptions, listeners = self._subscriptions, self._listeners
        return any([key in subscriptions or key in listeners for key in keys])  # noqa: C419 - a generator costs more

    def subscriptions(self, key: bytes) -> Sequence[Subscription]:
        """The waiters for this key."""
        return self._subscriptions.get(key, ())

    def add_listener(self, key: bytes, listener: ChangeListener, fence: tuple[str, int] | None = None) -> None:
        """Tell the listener of every change of the key from now on, in the place of an earlier one.

        The source is told of those that have a ``fence``: the workflow and the attempt of a run. The others only save time.
        """
        self._listeners[key] = listener
        if self.source is not None and fence is not None:
            self.source.begin_run(key, *fence)

    def remove_listener(self, key: bytes, listener: ChangeListener) -> bool:
        """End that, if this listener still has the key: then True."""
        if self._listeners.get(key) is not listener:
            return False
        del self._listeners[key]
        if self.source is not None:
            self.source.end_run(key)
        return True

    def changes(self, *keys: bytes, takes_updates: bool = False) -> Subscription:
        """A subscription to the changes behind these keys.

        A waiter that takes local updates is given a turn for them, too, and asks ``subscription.changed`` whether anything else
        has changed.
        """
        return Subscription(self, keys, takes_updates=takes_updates)

    def register(self, subscription: Subscription, keys: Sequence[bytes]) -> asyncio.Event | None:
        """Wake the subscription from now on. The event is set when changes of other processes are heard, ``None``: they are."""
        if self._ticker is None:
            self._ticker = self.loop.call_later(RECHECK_TICK_SECONDS, self._tick, context=contextvars.Context())
        for key in keys:
            others = self._subscriptions.get(key)
            if others is None:
                self._subscriptions[key] = [subscription]
                if isinstance(key, SharedKey):
                    self.waiting[key.group] += 1
            else:
                others.append(subscription)
        return None if self.source is None else self.source.begin(keys)

    def unregister(self, subscription: Subscription, keys: Sequence[bytes]) -> None:
        """Wake it no longer."""
        for key in keys:
            others = self._subscriptions.get(key)
            if others is not None:
                others.remove(subscription)
                if not others:
                    del self._subscriptions[key]
                    if isinstance(key, SharedKey):
                        self.waiting[key.group] -= 1
                    if self.source is not None:
                        self.source.end(key)
        if not self._subscriptions and self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None

    def _tick(self) -> None:
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.tick()
        self._ticker = self.loop.call_later(RECHECK_TICK_SECONDS, self._tick)
