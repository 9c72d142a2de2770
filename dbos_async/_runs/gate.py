"""When the order of a run has its turn: one callback in a turn of the event loop serves all runs that want one."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any, Protocol

from dbos_async._runs.quiet import IDLE_TURNS, LoopView, RunOf


class GatedRun(Protocol):
    """What a gate must know of a run."""

    stopped: str | None
    over: bool

    @property
    def has_one_task(self) -> bool:
        """Whether it surely has started no task besides its main task."""
        ...

    @property
    def has_ready_task(self) -> bool:
        """Whether a task goes on in this turn of the event loop or the next."""
        ...


class Gated(Protocol):
    """What a gate must know of the order of a run."""

    idle_turns: int

    @property
    def run(self) -> GatedRun: ...

    def turn(self, is_quiet: bool) -> bool:
        """Release what may be released; true when another turn is wanted."""
        ...


class Uncancelled(asyncio.Future[Any]):
    """What a cancelled task waits for: another cancellation of the same moment changes nothing, unless it is the end of the run.

    A scope of anyio cancels its tasks in every turn of the event loop until they have ended.
    """

    def __init__(self, run: GatedRun) -> None:
        super().__init__()
        self._run = run

    def cancel(self, msg: Any | None = None) -> bool:
        return super().cancel(msg) if self._run.over or self._run.stopped is not None else True


class Gate:
    """Gives the orders of all runs of an executor their turns, and tells which runs are quiet."""

    def __init__(self, loop: asyncio.AbstractEventLoop, run_of: RunOf) -> None:
        self.loop = loop
        self.view = LoopView(loop, run_of)
        self.context = contextvars.Context()
        """The context of callbacks that belong to no run."""
        self._waiting: dict[Gated, None] = {}
        self._is_scheduled = False
        self._departure = 0
        self._seen: tuple[object, object, int] | None = None
        """A run that was quiet, and the first callback and the length of the queue at that time: callbacks leave it in front."""
        self._cancelling: set[object] = set()
        """The runs that in the last turn did nothing but cancel tasks again."""
        self.busy: set[object] = set()
        """The runs that were not quiet when the last answer came."""

    def want(self, order: Gated) -> None:
        """Give the order a turn soon."""
        self._waiting[order] = None
        if not self._is_scheduled:
            self._is_scheduled = True
            self.loop.call_soon(self._turn, context=self.context)

    def is_quiet(self, run: GatedRun) -> bool:
        """Whether nothing of the run is left to do but the code that asks; false as well if that cannot be said at once."""
        return self.view.is_quiet(run) if self.view.can_see else run.has_one_task

    def is_quiet_still(self, run: GatedRun) -> bool:
        """The same, for a task that asks again and again and seldom lets another one go on in between."""
        ready = self.view.ready
        if not ready:
            return ready is not None or run.has_one_task
        seen = run, ready[0], len(ready)
        if seen != self._seen:
            if not self.is_quiet(run):
                return False
            self._seen = seen
        return True

    def was_quiet(self, run: GatedRun, departure: int) -> bool:
        """Whether the run was quiet when the answer of this batch came; false as well if that cannot be said at once."""
        if not self.view.can_see:
            return run.has_one_task
        if departure != self._departure:
            self._departure, self.busy = departure, self.view.busy_runs()
        return run not in self.busy

    async def pause(self, seconds: float) -> None:
        """Return after this time. The timer is none of a run's."""
        over = self.loop.create_future()
        timer = self.loop.call_later(seconds, _end, over, context=self.context)
        try:
            await over
        finally:
            timer.cancel()

    def _turn(self) -> None:
        self._is_scheduled = False
        orders, self._waiting = self._waiting, {}
        cancelling: set[object] = set()
        busy = self.view.busy_runs(cancelling)
        before, self._cancelling = self._cancelling, cancelling
        for order in orders:
            if order.run.over or order.run.stopped is not None:
                continue
            if self.view.can_see:
                run = order.run
                is_quiet = run not in busy and (run not in cancelling or run in before)
            else:
                order.idle_turns = 0 if order.run.has_ready_task else order.idle_turns
                is_quiet = order.idle_turns >= IDLE_TURNS
            if order.turn(is_quiet):
                self._waiting[order] = None
        if not self._waiting:
            self._cancelling = set()  # the next turn does not follow this one
        elif not self._is_scheduled:
            self._is_scheduled = True
            self.loop.call_soon(self._turn, context=self.context)


def _end(pause: asyncio.Future[None]) -> None:
    if not pause.done():
        pause.set_result(None)
