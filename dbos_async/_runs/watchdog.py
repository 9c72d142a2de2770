"""A replay that stands still: it waits for steps that are recorded and that the code does not ask for."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from dbos_async._runs import patience
from dbos_async._runs.order import Order
from dbos_async._runs.recorded_order import RecordedOrder
from dbos_async._runs.run import Run
from dbos_async.errors import ReplayMismatchError

log = logging.getLogger("dbos_async")

MAX_NAMED: Final = 3
"""How many steps a sentence names."""


def follow(run: Run, recorded: RecordedOrder) -> None:
    """Let the run release what is recorded in the recorded order."""
    order = run.make_order()
    order.follow(recorded, Watchdog(run, order).watch)


class Watchdog:
    """Looks once a second whether a replay that is held up has moved."""

    __slots__ = ("_moves", "_order", "_patience", "_run", "_timer")

    def __init__(self, run: Run, order: Order) -> None:
        self._run, self._order = run, order
        self._moves = -1
        self._patience = patience.Patience(run)
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Look again in a moment, unless that is planned already."""
        if self._timer is None:
            gate = self._run.gate
            self._timer = gate.loop.call_later(patience.LOOK_EVERY_SECONDS, self._look, context=gate.context)

    def _look(self) -> None:
        self._timer = None
        run, order = self._run, self._order
        if run.over or run.stopped is not None or not order.is_held_up:
            return
        if order.moves != self._moves or order.is_waiting:
            self._moves = order.moves
            self._patience.begin()
        else:
            before = self._patience.seconds
            seconds = self._patience.look()
            if seconds >= patience.PARK_AFTER_SECONDS:
                return run.host.spawn(self._park())
            if before < seconds == patience.WARN_AFTER_SECONDS:
                run.host.spawn(self._name())
        self.watch()

    async def _name(self) -> None:
        _, recorded, asked = await self._stand()
        text = "The replay of workflow %r stands still: it waits for %s, and the code asks for %s."
        log.warning(text, self._run.workflow_id, recorded, asked)

    async def _park(self) -> None:
        path, recorded, asked = await self._stand()
        mismatch = ReplayMismatchError(self._run.workflow_id, path, recorded.replace(f" ({path})", "", 1), asked)
        if self._run.stopped is None and not self._run.over:
            await self._run.host.park(self._run, mismatch)
            self._run.stop(str(mismatch))

    async def _stand(self) -> tuple[str, str, str]:
        """Where the replay stands, what it waits for, and what the code asks for."""
        run, recorded = self._run, self._order.recorded
        assert recorded is not None
        assert run.history is not None
        expected = recorded.expected()
        names = [await run.history.name(branch, number) for branch, number in expected[:MAX_NAMED]]
        waiting = [name for future, name in self._order.frontier if not future.done()]
        asked = f"nothing but {', '.join(waiting[:MAX_NAMED])}" if waiting else "nothing more"
        branch, number = expected[0] if expected else ("", 0)
        path = f"{branch}.{number}" if branch else str(number)
        beside = f", beside {', '.join(names[1:])}," if names[1:] else ""
        return path, names[0] + beside if names else "another order of its steps", asked
