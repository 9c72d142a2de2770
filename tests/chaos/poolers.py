"""What happens to a pooler, and to everything behind it: it is killed, paused, frozen, or opens its connections anew."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from random import Random

import asyncpg

from tests.chaos.absences import Absences
from tests.chaos.troubles import Troubles
from tests.chaos.ways import CONSOLE
from tests.support.pgbouncer import PgBouncer


class PoolerTroubles:
    """Each kind of trouble that a pooler can have. One at a time."""

    def __init__(
        self, pooler: PgBouncer, troubles: Troubles, absences: Absences, executors: Sequence[str], random: Random
    ) -> None:
        self._pooler, self._troubles, self._absences = pooler, troubles, absences
        self._executors, self._random = executors, random
        self._one_at_a_time = asyncio.Lock()

    def kinds(self) -> dict[str, tuple[int, Callable[[], Awaitable[None]]]]:
        """Each kind by its name, with its weight."""
        return {
            "kill the pooler": (4, self._kill),
            "pause the pooler": (4, self._pause),
            "freeze the pooler": (4, self._freeze),
            "reconnect the pooler": (4, self._reconnect),
        }

    async def _kill(self) -> None:
        """With SIGKILL. Every connection through it is lost; it comes back on the same port."""
        async with self._one_at_a_time:
            self._absences.lost(*self._executors)
            await self._while_silent(self._pooler.stop, self._random.choice((0, 0, 1, 4)))
            await asyncio.to_thread(self._pooler.start)

    async def _pause(self) -> None:
        """PAUSE and RESUME: transactions end, and others wait."""
        async with self._one_at_a_time:
            await self._while_silent(
                lambda: self._pooler.signal(signal.SIGUSR1),
                self._troubles.seconds(0.5, self._random.choice((4, 8, 18))),
            )
            self._pooler.signal(signal.SIGUSR2)

    async def _freeze(self) -> None:
        """As a machine does that is moved: connections stay open, and nothing flows."""
        async with self._one_at_a_time:
            await self._while_silent(
                lambda: self._pooler.signal(signal.SIGSTOP),
                self._troubles.seconds(0.5, self._random.choice((4, 8, 18))),
            )
            self._pooler.signal(signal.SIGCONT)

    async def _reconnect(self) -> None:
        """RECONNECT: each connection to the server is closed as soon as its transaction has ended. Nobody should notice."""
        async with self._one_at_a_time:
            console = await asyncpg.connect(
                f"postgresql://{CONSOLE}@127.0.0.1:{self._pooler.port}/{CONSOLE}", statement_cache_size=0, timeout=10
            )
            try:
                await console.execute("reconnect")
            finally:
                console.terminate()

    async def _while_silent(self, begin: Callable[[], None], seconds: float) -> None:
        """Begin it, and let so much time pass, in which the database may hear nothing of any executor."""
        with ExitStack() as stack:
            for name in self._executors:
                stack.enter_context(self._absences.silent(name))
            begin()
            await asyncio.sleep(seconds)
