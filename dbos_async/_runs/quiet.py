"""Whether a run has anything left to do in this turn of the event loop.

asyncio does not tell that in public. This file has every private name of asyncio and anyio that the package uses, but for those of
threads (`_runs/threads.py`): the callbacks that are ready (``loop._ready``), the timers (``loop._scheduled``), what each calls
(``handle._callback``) and in which context (``handle._context``). Where a loop hides them, as uvloop does, a run is quiet after
`IDLE_TURNS` turns in which nothing arrived and all its tasks waited (``task._fut_waiter``).

A cancelled scope of anyio cancels its tasks in every turn until they have ended. When that callback alone is ready, and was in the
turn before as well, it has nothing left to do.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from anyio._backends import _asyncio as anyio_on_asyncio

IDLE_TURNS: Final = 16
"""After so many turns without an arrival a run counts as quiet, in a loop that hides its callbacks."""

MAX_SCANNED: Final = 48
"""A longer queue is not looked through for a single run."""

_CANCEL_AGAIN: Final[object] = getattr(getattr(anyio_on_asyncio, "CancelScope", None), "_deliver_cancellation", None)
"""What a cancelled scope of anyio calls in every turn."""

RunOf = Callable[[contextvars.Context], object]
"""The run whose body has this context, ``None`` for any other context."""


def ready_callbacks(loop: asyncio.AbstractEventLoop) -> deque[Any] | None:
    """The queue of the loop; ``None`` if the loop hides it, or the contexts in it."""
    ready: Any = getattr(loop, "_ready", None)
    return ready if isinstance(ready, deque) and "_context" in asyncio.Handle.__slots__ else None


def waiter_of(task: asyncio.Task[Any]) -> asyncio.Future[Any] | None:
    """What the task waits for; ``None`` if it waits for nothing."""
    waits_for: asyncio.Future[Any] | None = getattr(task, "_fut_waiter", None)
    return waits_for


def is_ready(task: asyncio.Task[Any]) -> bool:
    """Whether the task goes on in this turn of its loop or the next: it waits for nothing, or for what has come already."""
    waits_for = waiter_of(task)
    return not task.done() and (waits_for is None or waits_for.done())


def _cancels_again(handle: Any) -> bool:
    return _CANCEL_AGAIN is not None and getattr(handle._callback, "__func__", None) is _CANCEL_AGAIN


class LoopView:
    """The callbacks and timers of one event loop, by the runs to which they belong."""

    def __init__(self, loop: asyncio.AbstractEventLoop, run_of: RunOf) -> None:
        self._run_of = run_of
        self.ready = ready_callbacks(loop)
        self._timers: Any = () if self.ready is None else getattr(loop, "_scheduled", ())

    @property
    def can_see(self) -> bool:
        """Whether this loop shows its callbacks."""
        return self.ready is not None

    def busy_runs(self, cancelling: set[object] | None = None) -> set[object]:
        """The runs of which a callback is ready; those of which only scopes cancel again are put into ``cancelling`` instead."""
        busy: set[object] = set()
        for handle in list(self.ready or ()):  # a copy: other threads append to the queue at any moment
            if not handle._cancelled and (run := self._run_of(handle._context)) not in busy:
                (busy if cancelling is None or not _cancels_again(handle) else cancelling).add(run)
        return busy

    def is_quiet(self, run: object) -> bool:
        """Whether no callback of the run is ready; false as well if that cannot be said at once."""
        ready = self.ready
        if ready is None or len(ready) > MAX_SCANNED:
            return False
        run_of = self._run_of
        return not any([run_of(handle._context) is run and not handle._cancelled for handle in list(ready)])  # noqa: C419 - a generator costs more

    def last_timer(self, run: object) -> float | None:
        """When the last timer of the run is due, by the time of the loop; ``None`` if it has none."""
        times = [
            handle.when()
            for handle in list(self._timers)
            if not handle._cancelled and self._run_of(handle._context) is run
        ]
        return max(times, default=None)
